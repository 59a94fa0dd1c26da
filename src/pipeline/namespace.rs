//! One network namespace: how its table is read, when, and what its counters said.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::coverage::Balance;
use super::flows::FlowState;
use crate::connection::{Key, Moment, Netns};
use crate::event::Event;
use crate::netlink::UnixDiag;
use crate::proc::{Net, Proc, ProcError};
use crate::source::events::Entered;
use crate::source::gate::{Failures, Gate, Opens};
use crate::source::namespaces::Changes;
use crate::source::poll::{Choice, Source, Tables, Wanted, choose};
use crate::source::{Events, Kind, Tally};

/// The kernel keeps TIME_WAIT this long, and a bit: after a notice was lost, what it would have told shows there.
const AFTER_LOSS: Duration = Duration::from_secs(62);

/// And so often it is asked for then: it stands for a minute.
const ENDS_EVERY: Duration = Duration::from_secs(10);

/// What is known of a namespace from tick to tick.
pub(super) struct Namespace {
    pub netns: Netns,
    pub is_own: bool,
    pub tables: Tables,
    pub gate: Gate,
    /// True until its first snapshot, if what that shows stood before the watch.
    pub standing: bool,
    /// Connections in SYN_SENT or CLOSE_WAIT: what happens to them next may move no counter.
    pub fragile: Vec<Key>,
    /// Kinds of notices that are on in it.
    pub on: Vec<Kind>,
    /// True if nothing is followed in it that the kernel's own words do not tell the end of: no socket that was accepted.
    pub hears_all: bool,
    pub tally: Option<Arc<Tally>>,
    /// Socket of the destroy notices, and how many it had dropped when that was asked last.
    pub destroy_inode: Option<u64>,
    pub drops: u64,
    /// Until then what was lost shows in TIME_WAIT.
    doubtful_until: Duration,
    /// When TIME_WAIT is asked for again meanwhile.
    ends_due: Duration,
    pub balance: Balance,
    pub flows: FlowState,
    /// Failures since the last tick, as they were read for this batch of notices.
    pub failures: Cell<Option<Failures>>,
    /// True while it cannot be read and that has been told.
    pub failing: bool,
    /// Kinds of notices that are off in it, and why.
    pub off: Vec<(Kind, String)>,
}

impl Namespace {
    pub fn new(netns: Netns, is_own: bool, entered: Option<Entered>) -> Self {
        let (diag, on, tally, destroy_inode, off) = match entered {
            None => (None, Vec::new(), None, None, Vec::new()),
            Some(Entered { diag, on, tally, destroy_inode, off, notes: _ }) => {
                (diag.ok(), on, Some(tally), destroy_inode, off)
            }
        };
        Self {
            netns,
            is_own,
            tables: Tables::new(netns, diag),
            gate: Gate::default(),
            standing: false,
            fragile: Vec::new(),
            on,
            hears_all: true,
            tally,
            destroy_inode,
            drops: 0,
            doubtful_until: Duration::ZERO,
            ends_due: Duration::ZERO,
            balance: Balance::default(),
            flows: FlowState::default(),
            failures: Cell::new(None),
            failing: false,
            off,
        }
    }

    /// True if notices tell of every end.
    pub fn is_noticed(&self, at: Duration) -> bool {
        self.hears_ends() && at >= self.doubtful_until && !self.gate.is_unsure()
    }

    fn hears_ends(&self) -> bool {
        self.on.contains(&Kind::Destroy) || self.hears_words() && self.hears_all
    }

    /// True if each opening of a watched port is told with its owner.
    pub fn hears_words(&self) -> bool {
        self.on.contains(&Kind::Ebpf)
    }

    /// True if SYNs are told, of all watched ports or of those that somebody's rule names.
    pub fn hears_syns(&self) -> bool {
        self.on.iter().any(|kind| kind.tells_syns())
    }

    /// True while what was lost may show in TIME_WAIT.
    pub fn is_doubtful(&self, at: Duration) -> bool {
        at < self.doubtful_until
    }

    /// True if a reading at this moment need not ask for TIME_WAIT: notices tell of every end, or those that were lost
    /// have been looked for a moment ago. A flood leaves hundreds of thousands, which cost a quarter of a second to read.
    pub fn leaves_ends(&mut self, at: Duration) -> bool {
        if !self.hears_ends() || self.standing {
            return false;
        }
        if self.is_doubtful(at) && at >= self.ends_due {
            self.ends_due = at + ENDS_EVERY;
            return false;
        }
        true
    }

    /// How opens to watched ports are learned of.
    pub fn opens(&self, at: Duration) -> Opens {
        let syns = self.on.contains(&Kind::Syn) && self.tables.looks_up();
        let tells = (syns || self.hears_words()) && at >= self.doubtful_until;
        if tells { Opens::Noticed } else { Opens::Counted }
    }

    /// A notice was lost: for a minute the table must tell what it would have told.
    pub fn doubt(&mut self, at: Duration) {
        self.doubtful_until = at + AFTER_LOSS;
        self.gate.want_look();
        self.gate.want_read();
    }
}

impl Pipeline {
    /// Uses these sources from now on. `prefer`: the source to read tables from; `None`: the cheaper one. Answers why
    /// that one, and what the two did not agree on.
    pub fn attach(
        &mut self,
        proc: &Proc,
        events: Option<Rc<Events>>,
        prefer: Option<Source>,
        all_namespaces: bool,
        at: Moment,
    ) -> Choice {
        self.prefer = prefer;
        self.events = events;
        self.follows_all = all_namespaces;
        let mut entered = self.events.as_ref().map(|events| events.enter(self.own, None));
        if let Some(entered) = &mut entered {
            self.leave_out_audit(proc, entered);
        }
        let notes = entered.as_mut().map(|entered| std::mem::take(&mut entered.notes)).unwrap_or_default();
        let unavailable = entered.as_ref().and_then(|entered| entered.diag.as_ref().err().cloned());
        let mut own = Namespace::new(self.own, true, entered);
        own.standing = true;
        own.gate.follow_accepted(self.select.inbound);
        if unavailable.is_none() && self.events.is_some() {
            self.origins.use_netlink();
            self.unix = UnixDiag::open().ok();
        }
        self.watch_server_ports();
        self.words.is_on = own.hears_words();
        own.hears_all = !self.select.inbound;
        self.hears_ends = own.on.contains(&Kind::Destroy) || self.words.is_on;
        self.audited.is_on = own.on.contains(&Kind::Audit);
        if let Some(tally) = &own.tally {
            tally.set_ephemeral(self.ephemeral);
        }
        let mut choice = self.choose_source(proc, &mut own, unavailable);
        choice.differences.extend(notes);
        self.spaces = vec![own];
        let mut told = Vec::new();
        self.find_namespaces(proc, at, &mut told);
        self.untold.extend(told);
        choice
    }

    /// Whether notices of this kind are on in our own namespace: `on`, or `off: ` and why.
    #[must_use]
    pub fn state_of(&self, kind: Kind) -> String {
        let is_it = |of: &Kind| of.name() == kind.name();
        let own = self.spaces.first();
        match own.and_then(|own| own.off.iter().find(|(of, _)| is_it(of))) {
            Some((_, why)) => format!("off: {why}"),
            None if own.is_some_and(|own| own.on.iter().any(is_it)) => "on".to_owned(),
            None => "off: not asked for".to_owned(),
        }
    }

    /// Opens in all namespaces these kinds, which were not for want of the kernel's own words, and are now.
    pub fn hear_also(&mut self, proc: &Proc, kinds: &[Kind], at: Moment) {
        let Some(events) = self.events.clone().filter(|_| !kinds.is_empty()) else { return };
        let mut spaces = std::mem::take(&mut self.spaces);
        let mut told = Vec::new();
        for space in &mut spaces {
            let file = self.open_member(proc, space.netns).filter(|_| !space.is_own);
            let Some(tally) = space.tally.clone().filter(|_| space.is_own || file.is_some()) else {
                continue;
            };
            let Entered { on, off, destroy_inode, .. } = events.enter_for(space.netns, file, kinds, tally);
            space.off.retain(|(kind, _)| !kinds.contains(kind));
            space.off.extend(off);
            space.on.extend(on);
            space.destroy_inode = space.destroy_inode.or(destroy_inode);
            if !space.is_own {
                self.tell_off(space, at, &mut told);
            }
        }
        self.spaces = spaces;
        self.untold.extend(told);
    }

    /// The kernel lets whoever may listen to its audit records anywhere, and gives them in its first namespace alone.
    fn leave_out_audit(&self, proc: &Proc, entered: &mut Entered) {
        let is_file = self.events.as_ref().is_some_and(|events| events.reads_audit_log());
        let marks = proc.network_mark("1").ok().zip(proc.network_mark("self").ok());
        let is_elsewhere = marks.is_some_and(|(first, own)| first != own);
        if !is_file && is_elsewhere && entered.on.contains(&Kind::Audit) {
            entered.on.retain(|kind| *kind != Kind::Audit);
            let why =
                "the kernel gives audit records in the machine's first network namespace alone".to_owned();
            entered.off.push((Kind::Audit, why));
        }
    }

    fn choose_source(&self, proc: &Proc, own: &mut Namespace, unavailable: Option<String>) -> Choice {
        let wanted = Wanted {
            select: &self.select,
            server_ports: &self.server_ports,
            ephemeral: self.ephemeral,
            noticed: false,
        };
        match (self.prefer, unavailable) {
            (Some(Source::Procfs), _) => {
                own.tables.prefer(Source::Procfs);
                Choice { reason: "as asked for".to_owned(), differences: Vec::new() }
            }
            (_, Some(why)) => {
                own.tables.prefer(Source::Procfs);
                Choice { reason: format!("netlink cannot be had: {why}"), differences: Vec::new() }
            }
            (Some(Source::Netlink), None) => {
                own.tables.prefer(Source::Netlink);
                Choice { reason: "as asked for".to_owned(), differences: Vec::new() }
            }
            (None, None) => choose(&mut own.tables, proc, Net::Own, &wanted, &self.cputime),
        }
    }

    /// Where the table of our own namespace is read from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.spaces.first().map_or(Source::Procfs, |own| own.tables.source())
    }

    /// How many namespaces are watched.
    #[must_use]
    pub fn namespaces(&self) -> usize {
        self.spaces.len()
    }

    /// How many processes could not be asked which namespace they live in.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.namespaces.denied()
    }

    /// Notices which namespaces are new and which are gone.
    pub(super) fn find_namespaces(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        if !self.follows_all {
            return;
        }
        self.looked = at.boot;
        let changes = self.namespaces.look(proc, at.boot, &self.cputime);
        self.take_changes(proc, changes, at, told);
    }

    /// A process that becomes another program has mostly moved to its namespace: asked at once, it leads there before it
    /// connects, however short its life.
    pub(super) fn ask_where_they_live(
        &mut self,
        proc: &Proc,
        pids: &[u32],
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let asked = if self.follows_all { pids } else { &[] };
        for pid in asked {
            let changes = self.namespaces.notice(proc, *pid);
            self.take_changes(proc, changes, at, told);
        }
    }

    fn take_changes(&mut self, proc: &Proc, changes: Changes, at: Moment, told: &mut Vec<Event>) {
        self.appeared.extend(changes.appeared);
        // All that stood before the watch are entered before it says that it is on.
        let until = if self.totals.polls <= 1 { Duration::MAX } else { self.until_spent() };
        while let Some(netns) = self.appeared.pop_front() {
            let mut namespace = self.enter(proc, netns);
            self.tell_off(&namespace, at, told);
            // Not when its turn comes: it may not live so long.
            if !namespace.standing
                && let Err(error) = self.tick_space(proc, &mut namespace, at, told)
            {
                self.note_unreadable(proc, &mut namespace, &error, at, told);
            }
            self.spaces.push(namespace);
            if (self.cputime)() > until {
                break;
            }
        }
        for netns in changes.gone {
            self.leave(netns, at, told);
        }
    }

    /// Once, of all namespaces together, why notices that are on in our own are not in others.
    fn tell_off(&mut self, space: &Namespace, at: Moment, told: &mut Vec<Event>) {
        let Some((_, why)) = space.off.first().filter(|_| !self.told_off) else { return };
        self.told_off = true;
        let kinds: Vec<_> = space.off.iter().map(|(kind, _)| kind.name()).collect();
        let kinds = kinds.join(" and ");
        let detail = format!(
            "{kinds} notices are off in net:[{}], and in other namespaces for the same reason: {why}",
            space.netns.0
        );
        told.push(Event::gap(at, "events_off", detail));
    }

    /// Opens its sources inside where that is permitted; else it is read through a member's `/proc/PID/net`.
    fn enter(&self, proc: &Proc, netns: Netns) -> Namespace {
        let file = self.open_member(proc, netns);
        let entered = self.events.as_ref().zip(file).map(|(events, file)| events.enter(netns, Some(file)));
        let mut namespace = Namespace::new(netns, false, entered);
        if let Some(source) = self.prefer {
            namespace.tables.prefer(source);
        }
        // What stands in a namespace that is noticed with the first look stood before the watch.
        namespace.standing = self.totals.polls <= 1;
        namespace.gate.follow_accepted(self.select.inbound);
        namespace.hears_all = !self.select.inbound;
        namespace.on.extend(self.words.is_on.then_some(Kind::Ebpf));
        namespace.balance.is_new = !namespace.standing;
        namespace
    }

    fn open_member(&self, proc: &Proc, netns: Netns) -> Option<OwnedFd> {
        let (file, place) = proc.open_netns(self.namespaces.member(netns)?).ok()?;
        // A member that has just moved would let us into another.
        (place == netns).then_some(file)
    }

    fn leave(&mut self, netns: Netns, at: Moment, told: &mut Vec<Event>) {
        self.appeared.retain(|appeared| *appeared != netns);
        if let Some(events) = &self.events {
            events.leave(netns);
        }
        self.tell_vanished(netns, at, told);
        self.table.forget_namespace(netns);
        self.origins.forget(netns);
        if let Some(place) = self.spaces.iter().position(|space| space.netns == netns) {
            let gone = self.spaces.swap_remove(place);
            let attempts = self.attempts_in(&gone);
            self.coverage.add_gone(&gone, attempts);
        }
    }

    /// What to do about one that cannot be read: its member may be gone, and another may be found.
    pub(super) fn note_unreadable(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        error: &ProcError,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if !self.namespaces.lost_member(proc, space.netns) && !error.is_gone() && !space.failing {
            space.failing = true;
            let detail = format!("net:[{}]: {error}", space.netns.0);
            told.push(Event::gap(at, "netns_unreadable", detail));
        }
    }

    /// Whose `net` folder tells of this namespace. `None`: of one that nobody is known to live in any more.
    pub(super) fn net_of<'a>(&'a self, space: &Namespace) -> Option<Net<'a>> {
        if space.is_own { Some(Net::Own) } else { self.namespaces.member(space.netns).map(Net::Of) }
    }
}
