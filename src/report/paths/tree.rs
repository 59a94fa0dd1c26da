//! Ways as text: the login, and below it each hop with what it led to.
//! Knows nothing of files. Only printable ASCII and our own marks get out, and colour where the style has it.

use std::io::{self, Write};

use super::join::{Entry, Forest};
use super::model::{Conn, Micros, Rider};
use super::phrase;
use super::record::show_id;
use crate::report::words::{cut, end, moment};
use crate::text::Style;

/// As deep as lines are indented. What is deeper says how deep it is.
const INDENTED: usize = 24;
/// How much of an id a narrow line keeps.
const SHORT_ID_CHARS: usize = 18;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Writes one way.
///
/// # Errors
/// What the output says.
pub(crate) fn write(forest: &Forest<'_>, root: usize, style: &Style, out: &mut dyn Write) -> io::Result<()> {
    let Some(entry) = forest.entries.get(root) else { return Ok(()) };
    let tree = Tree { forest, style, date: moment(entry.earliest, style).0 };
    writeln!(out, "{}", tree.root(entry))?;
    for line in tree.remarks(entry) {
        writeln!(out, "   {}", tree.paint(YELLOW, &line))?;
    }
    let mut waiting = Vec::new();
    let tops: Vec<Item<'_>> = items(forest, entry);
    push(&mut waiting, tops, "", 0);
    while let Some(branch) = waiting.pop() {
        let Branch { item, indent, depth, is_last } = branch;
        let (corner, below) =
            if is_last { ("\u{2514}\u{2500} ", "   ") } else { ("\u{251c}\u{2500} ", "\u{2502}  ") };
        let hop = match item {
            Item::Hop(hop) => hop,
            Item::Rider(rider) => {
                let over = format!(" over {}", show_id(rider.on));
                writeln!(out, "{indent}{corner}{}", tree.rider(rider, &over))?;
                continue;
            }
        };
        let mut next: Vec<Item<'_>> = forest.arrivals(hop).flat_map(|entry| items(forest, entry)).collect();
        next.sort_by_key(Item::at);
        let inner = if next.is_empty() { "   " } else { "\u{2502}  " };
        writeln!(out, "{indent}{corner}{}", tree.hop(hop, depth))?;
        for line in tree.details(hop, indent.chars().count() + 6) {
            writeln!(out, "{indent}{below}{inner}{line}")?;
        }
        let indent = if depth < INDENTED { format!("{indent}{below}") } else { indent };
        push(&mut waiting, next, &indent, depth + 1);
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Item<'m> {
    Hop(&'m Conn),
    /// A session over a connection of somebody else.
    Rider(&'m Rider),
}

impl Item<'_> {
    fn at(&self) -> Micros {
        match self {
            Item::Hop(hop) => hop.began(),
            Item::Rider(rider) => rider.at,
        }
    }
}

struct Branch<'m> {
    item: Item<'m>,
    indent: String,
    depth: usize,
    is_last: bool,
}

/// What a login did: its hops, and its sessions over connections of others.
fn items<'m>(forest: &Forest<'m>, entry: &Entry<'m>) -> Vec<Item<'m>> {
    let riders = forest.riders_elsewhere(entry).map(Item::Rider);
    let mut items: Vec<Item<'m>> = entry.hops.iter().copied().map(Item::Hop).chain(riders).collect();
    items.sort_by_key(Item::at);
    items
}

fn push<'m>(waiting: &mut Vec<Branch<'m>>, items: Vec<Item<'m>>, indent: &str, depth: usize) {
    let last = items.len();
    for (number, item) in items.into_iter().enumerate().rev() {
        waiting.push(Branch { item, indent: indent.to_owned(), depth, is_last: number + 1 == last });
    }
}

struct Tree<'a, 'm> {
    forest: &'a Forest<'m>,
    style: &'a Style,
    /// The date that the first line bears.
    date: String,
}

impl Tree<'_, '_> {
    fn paint(&self, color: &str, text: &str) -> String {
        if self.style.color && !text.is_empty() {
            format!("\x1b[{color}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The time, with its date where that is another than the first line's.
    fn time(&self, at: Micros) -> String {
        let (date, clock) = moment(at, self.style);
        if date == self.date { clock } else { format!("{date} {clock}") }
    }

    /// `2026-11-20 20:05:38.800  laptop  alice@tty2 at a local terminal`
    fn root(&self, entry: &Entry<'_>) -> String {
        let host = super::host(self.forest, entry.host);
        let (date, clock) = moment(entry.earliest, self.style);
        let who = phrase::entry_who(self.forest, entry);
        let host = self.paint(BOLD, &host);
        let from = entry.remote().map(|end| end.to_string());
        let place = match from.or_else(|| entry.remote_ip().map(|ip| ip.to_string())) {
            // Where a circle was cut it is, below.
            Some(from) if entry.is_cut => format!("{from} \u{2192} {host}"),
            Some(from) => format!("{from} (not in these logs) \u{2192} {host}"),
            None => host,
        };
        let how = phrase::entrance(self.forest, entry);
        let who: Vec<String> = who.into_iter().chain(how).collect();
        let ending = entry.inbound.map(|conn| self.ending(conn));
        let columns = [Some(format!("{date} {clock}")), Some(place), Some(who.join(" ")), ending];
        columns.into_iter().flatten().filter(|column| !column.is_empty()).collect::<Vec<_>>().join("  ")
    }

    /// What is to be minded about a root.
    fn remarks(&self, entry: &Entry<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        if entry.is_cut {
            lines.push("the hops go round in a circle: shown from its earliest".to_owned());
        }
        lines.extend(entry.inbound.into_iter().flat_map(|conn| phrase::forwards(self.forest, conn)));
        for hop in &entry.maybe {
            let host = super::host(self.forest, self.forest.model.host_of(hop));
            lines.push(format!(
                "may come from {host}, by {} at {}: cannot be proved, the address was translated on the way",
                show_id(hop.id),
                self.time(hop.began())
            ));
        }
        lines
    }

    /// `20:05:38.800  alice@laptop → bastion (192.0.2.10:22)  closed after 12m03s, 3.6 kB out, 4.6 kB in`
    fn hop(&self, hop: &Conn, depth: usize) -> String {
        let model = self.forest.model;
        let host = super::host(self.forest, model.host_of(hop));
        let who = phrase::who(&model.names, &hop.party.who);
        let to = phrase::destination(self.forest, hop);
        let depth = if depth > INDENTED { format!("(hop {}) ", depth + 1) } else { String::new() };
        let time = self.time(hop.began());
        format!("{depth}{time}  {who}@{host} \u{2192} {}  {}", self.paint(BOLD, &to), self.ending(hop))
    }

    fn ending(&self, hop: &Conn) -> String {
        let names = &self.forest.model.names;
        let at = hop.end.map(|at| self.time(at)).filter(|at| *at != self.time(hop.began()));
        let mut ending = phrase::ending(names, hop, at.as_deref());
        if let Some(volume) = phrase::volume(hop) {
            ending = format!("{ending}, {volume}");
        }
        match phrase::fate(names, hop) {
            phrase::Fate::Open => self.paint(GREEN, &ending),
            phrase::Fate::Failed => self.paint(RED, &ending),
            phrase::Fate::Ended => ending,
        }
    }

    /// Chain, command and id; what is to be minded; sessions that ride on it; where it may go on.
    fn details(&self, hop: &Conn, indent: usize) -> Vec<String> {
        let names = &self.forest.model.names;
        let chain = phrase::chain(names, &hop.party);
        let command = phrase::command(names, &hop.party);
        let mut lines = vec![self.paint(DIM, &self.fit(&chain, command, &show_id(hop.id), indent))];
        let notes = phrase::notes(self.forest, hop);
        if !notes.is_empty() {
            lines.push(self.paint(YELLOW, &notes.join("; ")));
        }
        for (rider, is_other) in self.forest.riders(hop) {
            lines.push(format!("+ {}", self.rider(rider, if is_other { ", of another login" } else { "" })));
        }
        for entry in self.forest.may_continue(hop) {
            let host = super::host(self.forest, entry.host);
            let from = end(entry.remote());
            let line = format!("may go on from {host}, where {from} came in: cannot be proved");
            lines.push(self.paint(YELLOW, &line));
        }
        lines
    }

    fn rider(&self, rider: &Rider, more: &str) -> String {
        let names = &self.forest.model.names;
        let who = phrase::who(names, &rider.party.who);
        let chain = phrase::chain(names, &rider.party);
        let command =
            phrase::command(names, &rider.party).map(|line| format!("  {line}")).unwrap_or_default();
        let details = self.paint(DIM, &format!("{chain}{command}"));
        format!("{}  session of {who}{more}  {details}", self.time(rider.at))
    }

    /// One line that fits the terminal: first the id is cut, then the command.
    fn fit(&self, chain: &str, command: Option<String>, id: &str, indent: usize) -> String {
        let join = |command: &Option<String>, id: &str| match command {
            Some(command) => format!("{chain}  {command}  {id}"),
            None => format!("{chain}  {id}"),
        };
        let whole = join(&command, id);
        let Some(width) = self.style.width else { return whole };
        let excess = |line: &str| (line.chars().count() + indent).saturating_sub(width);
        if excess(&whole) == 0 {
            return whole;
        }
        let id = cut(id, SHORT_ID_CHARS + 1);
        let line = join(&command, &id);
        match (excess(&line), command) {
            (1.., Some(command)) => {
                let room = command.chars().count().saturating_sub(excess(&line)).max(12);
                join(&Some(cut(&command, room)), &id)
            }
            _ => line,
        }
    }
}
