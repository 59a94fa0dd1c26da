//! Which rows the kernel leaves out of a dump: INET_DIAG_REQ_BYTECODE, pure.
//!
//! The kernel walks forward from condition to condition; a row is passed if it comes out exactly at the end. Each
//! range here is "at least this port, else on to the next range; at most that port, else on to the next range; out".
//! The kernel checks a program before it runs it (`inet_diag_bc_audit`), in time that grows with the square of its
//! length.

use std::ops::RangeInclusive;

/// More ranges than this are left to the reader: a row then costs more to judge than to pass on, and the kernel's
/// check of the program more than a small dump.
const RANGES_MOST: usize = 64;

const JUMP: u8 = 1;
/// At least, at most: for the local port, ...
const LOCAL: (u8, u8) = (2, 3);
/// ... and for the remote one.
const REMOTE: (u8, u8) = (4, 5);

/// A reason to pass a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clause {
    /// Its remote port is one of these. That of a LISTEN row is 0.
    RemotePorts(RangeInclusive<u16>),
    /// Its local port is one of these.
    LocalPorts(RangeInclusive<u16>),
}

/// What the kernel asks of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(pub(super) Test);

/// How it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// By the request's own port, where it is that one alone: compared before anything else of a socket is looked at.
    RemotePort(u16),
    /// By a program.
    Program(Vec<u8>),
}

impl Filter {
    /// Passes the rows that any of the clauses names; no clause, no row.
    ///
    /// `None`: pass all rows. So it is where the clauses cover every port, and where they make more than 64
    /// separate ranges: then the rows must be judged after they were read. (They may be judged always.)
    pub fn any_of(clauses: impl IntoIterator<Item = Clause>) -> Option<Self> {
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for clause in clauses {
            match clause {
                Clause::LocalPorts(range) => local.push(range),
                Clause::RemotePorts(range) => remote.push(range),
            }
        }
        let (local, remote) = (merge(local), merge(remote));
        let ranges =
            remote.iter().map(|range| (REMOTE, range)).chain(local.iter().map(|range| (LOCAL, range)));
        let every = ranges.clone().any(|(_, range)| *range == (0..=u16::MAX));
        if every || remote.len() + local.len() > RANGES_MOST {
            return None;
        }
        let test = match (remote.as_slice(), local.as_slice()) {
            // Past the end, so that no row comes out at the end: a jump's own length is 4.
            ([], []) => Test::Program(operation(JUMP, 4, 8).to_vec()),
            // 0 in the request means "any".
            ([only], []) if only.start() == only.end() && *only.start() != 0 => {
                Test::RemotePort(*only.start())
            }
            _ => Test::Program(
                ranges.rev().fold(Vec::new(), |behind, (codes, range)| prepend(codes, range, behind)),
            ),
        };
        Some(Self(test))
    }
}

/// Sorted, without overlap and without neighbours.
fn merge(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The code of one range and, behind it, that of the ranges that are asked when it does not hold the port.
fn prepend((at_least, at_most): (u8, u8), range: &RangeInclusive<u16>, behind: Vec<u8>) -> Vec<u8> {
    let bounds = [(at_least, *range.start()), (at_most, *range.end())];
    // Comparisons that every port passes are left out; a range of all ports is no filter.
    let needed = bounds.into_iter().filter(|bound| ![(at_least, 0), (at_most, u16::MAX)].contains(bound));
    // Behind the last range lies only what is past the end.
    let jump: u16 = 4;
    let mut next = 8 * u16::try_from(needed.clone().count()).unwrap_or(0) + jump;
    let mut code = Vec::new();
    for (comparison, port) in needed {
        code.extend(operation(comparison, 8, next));
        code.extend(operation(0, 0, port));
        next -= 8;
    }
    if !behind.is_empty() {
        let end = u16::try_from(behind.len()).unwrap_or(0) + jump;
        code.extend(operation(JUMP, 4, end));
    }
    code.extend(behind);
    code
}

/// `struct inet_diag_bc_op`; behind a comparison, one whose `no` is the port.
fn operation(code: u8, yes: u8, no: u16) -> [u8; 4] {
    let [low, high] = no.to_ne_bytes();
    [code, yes, low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: &[u8]) -> (u8, usize, usize) {
        (code[0], usize::from(code[1]), usize::from(u16::from_ne_bytes([code[2], code[3]])))
    }

    /// What the kernel does with a row.
    fn passes(filter: &Filter, local: u16, remote: u16) -> bool {
        let program = match &filter.0 {
            Test::RemotePort(port) => return *port == remote,
            Test::Program(program) => program,
        };
        let mut at = 0;
        while at < program.len() {
            let (code, yes, no) = op(&program[at..]);
            let holds = match code {
                1 => false,
                code => {
                    let port = u16::try_from(op(&program[at + 4..]).2).unwrap();
                    match code {
                        2 => local >= port,
                        3 => local <= port,
                        4 => remote >= port,
                        5 => remote <= port,
                        _ => panic!("operation {code}"),
                    }
                }
            };
            at += if holds { yes } else { no };
        }
        at == program.len()
    }

    /// What the kernel demands of a program.
    fn audit(filter: &Filter) {
        let Test::Program(program) = &filter.0 else { return };
        let begins: Vec<usize> =
            std::iter::successors(Some(0), |at| (*at < program.len()).then(|| at + op(&program[*at..]).1))
                .collect();
        assert_eq!(begins.last(), Some(&program.len()));
        assert!(!program.is_empty());
        for at in &begins[..begins.len() - 1] {
            let (code, yes, no) = op(&program[*at..]);
            let least = if code == JUMP { 4 } else { 8 };
            let left = program.len() - at;
            assert!(least <= no && no <= left + 4 && no % 4 == 0, "{at}: {no}");
            assert!(no >= left || begins.contains(&(at + no)), "{at}: {no} hits no beginning");
            assert_eq!(yes, least);
        }
    }

    fn wanted(clauses: &[Clause], local: u16, remote: u16) -> bool {
        clauses.iter().any(|clause| match clause {
            Clause::LocalPorts(range) => range.contains(&local),
            Clause::RemotePorts(range) => range.contains(&remote),
        })
    }

    #[test]
    fn what_covers_every_port_is_no_filter() {
        assert_eq!(Filter::any_of([Clause::RemotePorts(0..=u16::MAX)]), None);
        assert_eq!(Filter::any_of([Clause::RemotePorts(1..=u16::MAX), Clause::RemotePorts(0..=0)]), None);
        assert!(Filter::any_of([Clause::RemotePorts(1..=u16::MAX)]).is_some(), "LISTEN rows have port 0");
    }

    #[test]
    fn a_list_too_long_for_the_kernel_is_no_filter() {
        let apart = |count: u16| Filter::any_of((0..count).map(|n| Clause::RemotePorts(n * 2..=n * 2)));
        audit(&apart(64).unwrap());
        assert_eq!(apart(65), None);
        assert!(
            Filter::any_of((1..=500).map(|port| Clause::RemotePorts(port..=port))).is_some(),
            "one range"
        );
    }

    #[test]
    fn no_clause_passes_nothing() {
        #[expect(clippy::reversed_empty_ranges, reason = "that is the case")]
        for none in [vec![], vec![Clause::LocalPorts(9..=8)]] {
            let filter = Filter::any_of(none).unwrap();
            audit(&filter);
            assert!(!passes(&filter, 0, 0) && !passes(&filter, 22, 22));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_filter_passes_what_its_clauses_name_and_nothing_else(
            ranges in proptest::collection::vec((0u16..40, 0u16..6, 0u8..4), 0..12),
        ) {
            // Few ports, and the ends of the scale, so that ranges touch and overlap.
            let port = |n: u16| if n < 20 { n } else { u16::MAX - (39 - n) };
            let clauses: Vec<_> = ranges.into_iter().map(|(start, length, kind)| {
                let range = port(start)..=port(start).saturating_add(length);
                if kind == 0 { Clause::LocalPorts(range) } else { Clause::RemotePorts(range) }
            }).collect();
            let filter = Filter::any_of(clauses.clone()).expect("not every port, and not many ranges");
            audit(&filter);
            let ports = || (0..30).chain(u16::MAX - 30..=u16::MAX);
            for (local, remote) in ports().flat_map(|local| ports().map(move |remote| (local, remote))) {
                assert_eq!(passes(&filter, local, remote), wanted(&clauses, local, remote), "{clauses:?} {local} {remote}");
            }
        }

        #[test]
        fn any_ports_make_a_program_that_the_kernel_takes(
            ranges in proptest::collection::vec((0u16.., 0u16.., 0u8..2), 1..64),
            rows in proptest::collection::vec((0u16.., 0u16..), 50),
        ) {
            let clauses: Vec<_> = ranges.iter().map(|(a, b, kind)| {
                let range = *a.min(b)..=a.saturating_add(b % 300).max(*a);
                if *kind == 0 { Clause::LocalPorts(range) } else { Clause::RemotePorts(range) }
            }).collect();
            if let Some(filter) = Filter::any_of(clauses.clone()) {
                audit(&filter);
                for (local, remote) in rows {
                    assert_eq!(passes(&filter, local, remote), wanted(&clauses, local, remote));
                }
            }
        }
    }
}
