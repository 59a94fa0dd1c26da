//! `portreeve paths`: the whole way of each login, from the logs of one or many hosts.
//! Knows nothing of the command line or of exit codes; it reports what it could not read.
//! Truth: `join` says what is proved; the outputs only tell it.

mod dot;
pub(crate) mod join;
mod json;
mod mermaid;
pub(crate) mod model;
pub(crate) mod phrase;
pub(crate) mod read;
pub(crate) mod record;
mod tree;

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use crate::report::filter::Filter;
use crate::report::notice::Notice;
use crate::report::show::{Logs, ShowError, Summary};
use crate::report::words::{moment, word};
use crate::text::Style;

use join::{Entry, Forest};
use model::{Conn, Host, Micros, Model, Party};
use record::show_id;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Which files, of one host or of many.
    pub logs: Logs,
    /// Which ways: for each kind of filter, one hop has to match.
    pub filter: Filter,
    /// As what.
    pub format: Format,
    /// How text looks; its zone is that of the graphs too.
    pub style: Style,
}

/// As what ways are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A tree for people.
    Text,
    /// One object a line for each way.
    Json,
    /// A graph for Graphviz.
    Dot,
    /// A flowchart for Mermaid.
    Mermaid,
}

/// Reads the logs and prints each way into `out`; says through `say` what cannot be read.
///
/// Keeps every connection of the logs in memory, about 1.1 kB each (measured: 536 MiB for 500,000), because any record may be the one that
/// joins two hosts.
///
/// # Errors
/// `NoLog` where the default log does not exist, `Write` where the output fails.
pub fn run(paths: &Paths, out: &mut dyn Write, say: &mut dyn FnMut(&Notice)) -> Result<Summary, ShowError> {
    let read = read::read(&paths.logs, say).map_err(|path| ShowError::NoLog { path })?;
    let mut summary = Summary { shown: 0, failures: read.failures };
    let forest = Forest::grow(&read.model);
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    match print(paths, &forest, &mut out, &mut summary.shown).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ShowError::Write(error)),
        _ => Ok(summary),
    }
}

fn print(paths: &Paths, forest: &Forest<'_>, out: &mut dyn Write, shown: &mut u64) -> io::Result<()> {
    match paths.format {
        Format::Dot => dot::begin(out)?,
        Format::Mermaid => mermaid::begin(out)?,
        Format::Text | Format::Json => {}
    }
    for root in &forest.roots {
        if !is_wanted(&paths.filter, forest, *root) {
            continue;
        }
        *shown += 1;
        match paths.format {
            Format::Text => {
                if *shown > 1 {
                    out.write_all(b"\n")?;
                }
                tree::write(forest, *root, &paths.style, out)?;
            }
            Format::Json => json::write(forest, *root, out)?,
            Format::Dot => dot::write(forest, *root, *shown, &paths.style, out)?,
            Format::Mermaid => mermaid::write(forest, *root, *shown, &paths.style, out)?,
        }
    }
    if paths.format == Format::Dot { dot::end(out) } else { Ok(()) }
}

/// A host's name, harmless.
fn host(forest: &Forest<'_>, host: Host) -> String {
    word(forest.model.host_name(host))
}

/// Whether a way is to be shown: of each kind of filter one of its hops has to match.
fn is_wanted(filter: &Filter, forest: &Forest<'_>, root: usize) -> bool {
    let Filter { since, until, users, addresses, executables: _, ids } = filter;
    if since.is_none() && until.is_none() && users.is_empty() && addresses.is_empty() && ids.is_empty() {
        return true;
    }
    let model = forest.model;
    let way = forest.way(root);
    let conns: Vec<&Conn> =
        way.iter().flat_map(|entry| entry.hops.iter().copied().chain(entry.inbound)).collect();
    let parties = || {
        let riders = way.iter().flat_map(|entry| entry.riders.iter().map(|rider| &rider.party));
        conns.iter().map(|conn| &conn.party).chain(riders)
    };
    let (since, until) = (since.map(|at| at.as_microsecond()), until.map(|at| at.as_microsecond()));
    let stood = |from: Micros, to: Option<Micros>| {
        until.is_none_or(|until| from < until) && since.is_none_or(|since| to.is_none_or(|to| since <= to))
    };
    let in_time = conns.iter().any(|conn| stood(conn.began(), conn.end))
        || way.iter().any(|entry| stood(entry.earliest, Some(entry.earliest)));
    in_time
        && (users.is_empty() || parties().any(|party| users.iter().any(|user| is_user(model, party, user))))
        && (addresses.is_empty()
            || conns.iter().any(|conn| {
                let ends = [conn.source, conn.destination];
                addresses.iter().any(|wanted| {
                    ends.iter().flatten().any(|end| wanted.accepts_end(Some(end.ip()), Some(end.port())))
                })
            })
            || way.iter().any(|entry: &&Entry<'_>| {
                let port = entry.remote().map(|end| end.port());
                addresses.iter().any(|wanted| wanted.accepts_end(entry.remote_ip(), port))
            }))
        && (ids.is_empty()
            || conns.iter().any(|conn| {
                let id = show_id(conn.id);
                ids.iter().any(|wanted| wanted.begins(&id))
            }))
}

fn is_user(model: &Model, party: &Party, wanted: &str) -> bool {
    let who = &party.who;
    let origin = party.origin.as_ref().and_then(|origin| origin.user);
    let fields = [who.name, who.id, who.effective, who.effective_id, who.login, who.login_id, origin];
    fields.into_iter().any(|field| model.names.is(field, wanted))
}

/// What a graph shows of a way: where things are, and what leads from one to the other.
struct Graph {
    /// When it began.
    title: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

struct Node {
    lines: Vec<String>,
    is_host: bool,
}

struct Edge {
    from: usize,
    to: usize,
    lines: Vec<String>,
    look: Look,
}

/// How an edge is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    /// Nothing came through.
    Failed,
    /// It may not be there.
    Unproved,
}

/// The graph of one way. A host that is reached twice stands there twice: a way is a tree.
fn graph(forest: &Forest<'_>, root: usize, style: &Style) -> Graph {
    let first = forest.entries.get(root);
    let (date, clock) = moment(first.map_or(0, |entry| entry.earliest), style);
    let mut graph = Graph { title: format!("{date} {clock}"), nodes: Vec::new(), edges: Vec::new() };
    let mut places = HashMap::new();
    let Some(first) = first else { return graph };
    let top = graph.add_entry(forest, first);
    if let Some(ip) = first.remote_ip() {
        let outside = first.remote().map_or_else(|| ip.to_string(), |end| end.to_string());
        let from = graph.add(vec![outside], false);
        let lines = first.inbound.map(|conn| edge_lines(forest, conn, style)).unwrap_or_default();
        let look = first.inbound.map_or(Look::Plain, |conn| look(forest, conn));
        graph.edges.push(Edge { from, to: top, lines, look });
    }
    places.insert(first.number, top);
    for entry in forest.way(root) {
        let Some(from) = places.get(&entry.number).copied() else { continue };
        for hop in &entry.hops {
            graph.add_hop(forest, hop, from, style, &mut places);
        }
    }
    graph
}

impl Graph {
    fn add(&mut self, lines: Vec<String>, is_host: bool) -> usize {
        self.nodes.push(Node { lines, is_host });
        self.nodes.len() - 1
    }

    fn add_entry(&mut self, forest: &Forest<'_>, entry: &Entry<'_>) -> usize {
        let mut lines = vec![host(forest, entry.host)];
        lines.extend(phrase::entry_who(forest, entry));
        lines.extend(phrase::entrance(forest, entry));
        self.add(lines, true)
    }

    fn add_hop(
        &mut self,
        forest: &Forest<'_>,
        hop: &Conn,
        from: usize,
        style: &Style,
        places: &mut HashMap<usize, usize>,
    ) {
        let lines = edge_lines(forest, hop, style);
        let look = look(forest, hop);
        let mut ends = Vec::new();
        for next in forest.arrivals(hop) {
            let to = self.add_entry(forest, next);
            places.insert(next.number, to);
            ends.push(to);
        }
        if ends.is_empty() {
            let name = phrase::destination_name(forest, hop);
            ends.push(
                self.add(
                    name.into_iter().chain([crate::report::words::end(hop.destination)]).collect(),
                    false,
                ),
            );
        }
        for to in ends {
            self.edges.push(Edge { from, to, lines: lines.clone(), look });
        }
        for next in forest.may_continue(hop) {
            let to = self.add(vec![host(forest, next.host)], true);
            let lines = vec!["may go on: cannot be proved".to_owned()];
            self.edges.push(Edge { from, to, lines, look: Look::Unproved });
        }
    }
}

fn look(forest: &Forest<'_>, conn: &Conn) -> Look {
    match phrase::fate(&forest.model.names, conn) {
        phrase::Fate::Failed => Look::Failed,
        phrase::Fate::Open | phrase::Fate::Ended => Look::Plain,
    }
}

fn edge_lines(forest: &Forest<'_>, hop: &Conn, style: &Style) -> Vec<String> {
    let names = &forest.model.names;
    let (date, clock) = crate::report::words::moment(hop.began(), style);
    let who = phrase::who(names, &hop.party.who);
    let mut lines = Vec::new();
    if !hop.is_inbound {
        lines.push(who);
    }
    lines.push(format!("{date} {clock}"));
    lines.push(phrase::ending(names, hop, None));
    lines.extend(phrase::volume(hop));
    lines.extend(phrase::forwards(forest, hop));
    lines
}
