//! What the records of an owner's connections repeat of it, as JSON that is made once.
//!
//! An open and its close tell the same owner, the same chain and the same session, and so does the next connection of that
//! owner. Knows no field: what is drawn is what `who` and `way` say.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::ascii::to_json;
use super::record::{Cut, Host, Members};
use super::way;
use super::who::ANCESTRY;
use crate::connection::Moment;
use crate::process::{Lineage, Process};
use crate::way::Origin;

/// As many are kept: a few programs make most of the connections that come at once.
const MOST: usize = 8;
/// And as many links of chains: the same few stand above most owners.
const MOST_LINKS: usize = 48;
/// Starts are told in hundredths of a second, and so are the kernel's ticks: where the wall clock stands against the time
/// since boot in the same half of one, each start is the same text.
const STEP_NS: i128 = 5_000_000;
const TICKS_PER_SECOND: u64 = 100;

/// Members with what they hold, in the order of their names.
pub(super) type Drawn = Vec<(String, Box<RawValue>)>;

/// An owner in the schema's names.
#[derive(Debug)]
pub(super) struct Portrait {
    lineage: Arc<Lineage>,
    origin: Option<Arc<Origin>>,
    step: i128,
    pub(super) fields: Drawn,
    /// Below `portreeve`.
    pub(super) own: Drawn,
}

/// A link of a chain.
#[derive(Debug)]
struct Link {
    process: Arc<Process>,
    step: i128,
    json: Box<RawValue>,
}

/// Those that were wanted last, the very last one first.
#[derive(Debug, Default)]
pub(super) struct Portraits {
    owners: Vec<Rc<Portrait>>,
    links: Vec<Link>,
}

impl Portraits {
    /// That of an owner and its session, of a connection that was opened then. `None`: it cannot be kept.
    pub(super) fn of(
        &mut self,
        host: &Host,
        lineage: &Arc<Lineage>,
        origin: Option<&Arc<Origin>>,
        opened: Moment,
    ) -> Option<Rc<Portrait>> {
        let step = step(host, lineage, opened)?;
        let is_it = |known: &Rc<Portrait>| {
            known.step == step && Arc::ptr_eq(&known.lineage, lineage) && known.origin.as_ref() == origin
        };
        let portrait = match self.owners.iter().position(is_it) {
            Some(place) => self.owners.remove(place),
            None => {
                let chain = self.chain(host, lineage, opened, step)?;
                Rc::new(draw(host, lineage, chain, origin, opened, step)?)
            }
        };
        self.owners.truncate(MOST - 1);
        self.owners.insert(0, Rc::clone(&portrait));
        Some(portrait)
    }

    fn chain(&mut self, host: &Host, lineage: &Lineage, opened: Moment, step: i128) -> Option<Box<RawValue>> {
        for (nth, process) in lineage.ancestry.iter().enumerate() {
            let is_it = |known: &Link| known.step == step && Arc::ptr_eq(&known.process, process);
            let link = match self.links.iter().position(is_it) {
                Some(place) => self.links.remove(place),
                None => {
                    let json = as_json(&host.link(process, opened, Cut::None))?;
                    Link { process: Arc::clone(process), step, json }
                }
            };
            self.links.insert(nth.min(self.links.len()), link);
        }
        let links = self.links.iter().take(lineage.ancestry.len()).map(|link| &*link.json);
        let chain = to_raw_value(&links.collect::<Vec<_>>()).ok();
        self.links.truncate(MOST_LINKS);
        chain
    }
}

fn draw(
    host: &Host,
    lineage: &Arc<Lineage>,
    chain: Box<RawValue>,
    origin: Option<&Arc<Origin>>,
    opened: Moment,
    step: i128,
) -> Option<Portrait> {
    let mut members = Members::default();
    host.lineage_but_chain(&mut members, lineage, opened, Cut::None);
    if let Some(origin) = origin {
        way::tell_origin(&mut members, origin);
    }
    let (fields, own) = members.into_maps();
    let (lineage, origin) = (Arc::clone(lineage), origin.map(Arc::clone));
    let mut own = drawn(own)?;
    let place = own.partition_point(|(name, _)| name.as_str() < ANCESTRY);
    own.insert(place, (ANCESTRY.to_owned(), chain));
    Some(Portrait { lineage, origin, step, fields: drawn(fields)?, own })
}

fn drawn(members: Map<String, Value>) -> Option<Drawn> {
    members.into_iter().map(|(name, value)| Some((name, as_json(&value)?))).collect()
}

fn as_json(value: &Value) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(to_json(value).ok()?).ok()?).ok()
}

/// Where the wall clock stood against the time since boot. `None`: of one that started later it is told otherwise.
fn step(host: &Host, lineage: &Lineage, opened: Moment) -> Option<i128> {
    let has_started = |ticks: u64| u128::from(ticks) * 10_000_000 <= opened.boot.as_nanos();
    let mut all = [&lineage.process].into_iter().chain(&lineage.ancestry);
    if host.ticks_per_second != TICKS_PER_SECOND || !all.all(|process| has_started(process.start_ticks)) {
        return None;
    }
    let boot = i128::try_from(opened.boot.as_nanos()).ok()?;
    Some((opened.wall.as_nanosecond() - boot).div_euclid(STEP_NS))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::{Connection, Direction, Netns, Seen, TcpState, Transport, Tuple};
    use crate::process::{Attribution, ChainCut, Ids, Process};
    use crate::way::Way;

    fn process(pid: u32, start_ticks: u64) -> Arc<Process> {
        let ids = Some(Ids { real_uid: 1_000, effective_uid: 0, real_gid: 7 });
        let args = vec![b"ssh".to_vec(), "\u{1b} \u{fc}".into()];
        let cgroup = Some(b"/system.slice/ssh.service".to_vec());
        Arc::new(Process { start_ticks, ids, args, cgroup, comm: b"ssh".to_vec(), ..Process::of_pid(pid) })
    }

    fn connection(lineage: &Arc<Lineage>, origin: Option<&Arc<Origin>>, opened: Moment) -> Connection {
        let way = origin.map(|origin| {
            Arc::new(Way {
                origin: Arc::clone(origin),
                route: Some(crate::ssh::Route::Direct),
                ssh: None,
                is_ssh: true,
                listening: Vec::new(),
            })
        });
        Connection {
            id: uuid::Uuid::nil(),
            netns: Netns(1),
            inode: None,
            cookie: None,
            transport: Transport::Tcp,
            tuple: Tuple { local: "[::1]:1".parse().unwrap(), remote: "[::1]:22".parse().unwrap() },
            state: TcpState::Established,
            direction: Direction::Egress,
            way,
            uid: None,
            user: None,
            seen: Seen::Ebpf,
            opened,
            last_seen: opened,
            attribution: Attribution::Owned {
                lineage: Arc::clone(lineage),
                holders: Arc::new([]),
                latency: Duration::ZERO,
            },
        }
    }

    #[test]
    fn what_was_told_before_is_told_again_to_the_letter() {
        let host = Host {
            name: "h".into(),
            boot_id: Some("boot".into()),
            os: None,
            kernel: None,
            ticks_per_second: 100,
        };
        let (mut portraits, mut with_portrait) = (Portraits::default(), 0);
        let origin = |tuple: Option<Tuple>| {
            let kind = if tuple.is_some() { crate::way::Kind::Ssh } else { Default::default() };
            Arc::new(Origin { kind, inbound: tuple, ..Origin::default() })
        };
        let came = Tuple { local: "10.0.0.1:22".parse().unwrap(), remote: "10.0.0.2:9".parse().unwrap() };
        let origins = [None, Some(origin(None)), Some(origin(Some(came)))];
        let chains = [vec![], vec![process(3, 20)], vec![process(3, 20), process(1, 10)]];
        let lineages = chains.into_iter().map(|ancestry| {
            let cut = ancestry.is_empty().then_some(ChainCut::Vanished);
            Arc::new(Lineage { process: process(9, 800), ancestry, cut, hash: None })
        });
        let lineages: Vec<_> = lineages.collect();
        // The wall clock is slewed, and then set; the first of these is before the owner's start.
        for (boot_ms, wall_ns) in
            [(7_990, 0), (8_000, 0), (8_001, 4_000_000), (8_002, 9_000_000), (8_003, 10_000_000)]
        {
            let boot = Duration::from_millis(boot_ms);
            let wall = jiff::Timestamp::from_second(1_800_000_000).unwrap() + boot;
            let opened = Moment { wall: wall + Duration::from_nanos(wall_ns), boot };
            for lineage in &lineages {
                for origin in &origins {
                    let connection = connection(lineage, origin.as_ref(), opened);
                    for _ in 0..2 {
                        let (mut plain, mut quick) = (Members::default(), Members::default());
                        host.connection(&mut plain, &connection, Cut::None, None);
                        host.connection(&mut quick, &connection, Cut::None, Some(&mut portraits));
                        with_portrait += usize::from(quick.has_portrait());
                        let (plain, quick) = (to_json(&plain).unwrap(), to_json(&quick).unwrap());
                        assert_eq!(String::from_utf8(quick).unwrap(), String::from_utf8(plain).unwrap());
                    }
                }
            }
            assert!(portraits.owners.len() <= MOST && portraits.links.len() <= MOST_LINKS);
        }
        assert_eq!(with_portrait, 4 * 3 * 3 * 2);
    }
}
