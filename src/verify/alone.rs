//! What one record of a connection says about itself: V29, V34 to V37.
//! Knows no other record but the ports that the run watches.

use super::fields::on;
use super::findings::Findings;
use super::moment;
use super::record::{Record, f, quote};
use super::schema::{Ancestor, whole};

/// The writer reads no more ancestors.
const MOST_ANCESTORS: usize = 32;
const SECOND: i64 = 1_000_000;

/// The ports that a run watches, as ranges; `None`: not known.
pub type Ports = Option<Vec<(u64, u64)>>;

/// `22,2222,8000-8100` or `all`.
pub fn parse_ports(text: &[u8]) -> Ports {
    if text == b"all" {
        return Some(vec![(0, u64::from(u16::MAX))]);
    }
    let range = |part: &[u8]| {
        let mut ends = part.splitn(2, |byte| *byte == b'-').map(<[u8]>::trim_ascii);
        let first = whole(ends.next()?)?;
        Some((first, ends.next().map_or(Some(first), whole)?))
    };
    text.split(|byte| *byte == b',').map(|part| range(part.trim_ascii())).collect()
}

/// All rules about one record of a connection alone.
pub fn check(record: &Record<'_>, ports: &Ports, found: &mut Findings<'_>) {
    if record.action == on::OPEN {
        // An inbound session came to a port of ours.
        let ports = if record.is(f::DIRECTION, "ingress") { &None } else { ports };
        check_port(record, ports, found);
        check_inode(record, found);
    }
    check_owner(record, found);
    check_outcome(record, found);
    check_ancestry(record, found);
}

/// V29.
fn check_port(record: &Record<'_>, ports: &Ports, found: &mut Findings<'_>) {
    let (Some(ports), Some(port)) = (ports, record.number(f::DESTINATION_PORT)) else { return };
    if !ports.iter().any(|(first, last)| (*first..=*last).contains(&port)) {
        found.add(29, format!("port {port} is not watched"));
    }
}

/// V34.
fn check_owner(record: &Record<'_>, found: &mut Findings<'_>) {
    let is_unknown = record.is(f::STATUS, "unknown");
    let (has_reason, has_pid) = (record.found.present.has(f::WHY_UNKNOWN), record.found.present.has(f::PID));
    if is_unknown != has_reason {
        let what = if has_reason { "and has a reason for none" } else { "and has no reason" };
        found.add(34, format!("the attribution is {} {what}", record.quote(f::STATUS)));
    } else if is_unknown == has_pid {
        let what = if has_pid { "and there is a process" } else { "and there is no process" };
        found.add(34, format!("the attribution is {} {what}", record.quote(f::STATUS)));
    }
}

/// V35.
fn check_inode(record: &Record<'_>, found: &mut Findings<'_>) {
    let seen = record.text(f::SEEN).unwrap_or_default();
    if !record.found.present.has(f::INODE)
        && !matches!(seen, b"destroy" | b"time_wait" | b"syn" | b"nflog" | b"audit" | b"ebpf")
    {
        found.add(35, format!("it has no inode and was seen by {}", quote(seen)));
    }
}

/// Whether anybody answers is known of a flow only when its end tells what it received.
fn check_answer(record: &Record<'_>, outcome: &[u8], found: &mut Findings<'_>) {
    let is_answered = record.number(f::RECEIVED).map(|packets| packets > 0);
    let fits = match (record.action == on::CLOSE, is_answered) {
        (false, _) | (_, Some(false)) => outcome == b"unknown",
        (_, Some(true)) => outcome == b"success",
        // What was received before the watch, or counted in part, is no number of the record.
        (_, None) => matches!(outcome, b"unknown" | b"success"),
    };
    if !fits {
        found.add(36, format!("the outcome is {} of a UDP flow", quote(outcome)));
    }
}

/// V36.
fn check_outcome(record: &Record<'_>, found: &mut Findings<'_>) {
    let outcome = record.text(f::OUTCOME).unwrap_or_default();
    if record.is(f::TRANSPORT, "udp") {
        check_answer(record, outcome, found);
        return;
    }
    // Audit alone does not say whether it was a connection that was asked for.
    let is_untold = !record.found.present.has(f::TRANSPORT);
    if is_untold && !record.is(f::SEEN, "audit") {
        found.add(36, "it has no transport and was not told by audit alone".to_owned());
    }
    if record.action != on::CLOSE {
        let pending = is_untold || record.is(f::STATE, "syn_sent");
        let fits = if pending { "unknown" } else { "success" };
        if outcome != fits.as_bytes() {
            found.add(
                36,
                format!("the outcome is {} in the state {}", quote(outcome), record.quote(f::STATE)),
            );
        }
        return;
    }
    let reason = record.text(f::CLOSE_REASON).unwrap_or_default();
    let fits: &[&[u8]] = match reason {
        b"closed" if is_untold => &[b"unknown"],
        b"closed" => &[b"success"],
        b"refused" | b"timed_out" | b"unreachable" => &[b"failure"],
        b"failed" => &[b"failure", b"unknown"],
        // Of a SYN that was followed by a reset it is not known whether it was answered.
        _ => &[b"success", b"unknown"],
    };
    if !fits.contains(&outcome) {
        found.add(36, format!("the outcome is {} and the reason {}", quote(outcome), quote(reason)));
    }
}

/// V37.
pub fn check_ancestry(record: &Record<'_>, found: &mut Findings<'_>) {
    let ancestry = &record.found.ancestry;
    let text = |ancestor: &Ancestor| ancestor.pid.as_ref().map(|span| record.at(span));
    let parent = ancestry.first().and_then(text);
    if ancestry.len() > MOST_ANCESTORS {
        found.add(37, format!("there are {} ancestors", ancestry.len()));
        return;
    }
    if record.text(f::PARENT_PID) != parent {
        found
            .add(37, format!("the parent is {} and the first ancestor another", record.quote(f::PARENT_PID)));
        return;
    }
    let (mut child, mut start) = (record.text(f::PID), record.text(f::PROCESS_START));
    for (index, ancestor) in ancestry.iter().enumerate() {
        let pid = text(ancestor);
        let above = ancestry.iter().skip(index + 1).map(text);
        if pid.is_some() && (pid == record.text(f::PID) || above.into_iter().any(|other| other == pid)) {
            found.add(37, format!("the process {} stands twice", quote(pid.unwrap_or_default())));
            return;
        }
        let began = ancestor.start.as_ref().map(|span| record.at(span));
        if let (Some(start), Some(began)) = (start, began)
            && is_younger(began, start)
        {
            let (pid, child) = (pid.unwrap_or_default(), child.unwrap_or_default());
            found.add(37, format!("the process {} is younger than its child {}", quote(pid), quote(child)));
            return;
        }
        (child, start) = (pid, began.or(start));
    }
}

/// Times of the same length compare as text.
fn is_younger(parent: &[u8], child: &[u8]) -> bool {
    if parent.len() == child.len() && parent <= child {
        return false;
    }
    let times = moment::parse(parent).zip(moment::parse(child));
    times.is_some_and(|(parent, child)| parent.saturating_sub(SECOND) > child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_typed() {
        assert_eq!(parse_ports(b"22,2222, 8000-8100"), Some(vec![(22, 22), (2222, 2222), (8000, 8100)]));
        assert_eq!(parse_ports(b"all"), Some(vec![(0, 65_535)]));
        assert_eq!(parse_ports(b"22,x"), None);
    }
}
