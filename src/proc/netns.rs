//! Which network namespace a process lives in: the text of its `ns/net` link.
//!
//! Knows nothing of which namespaces matter. Asked of many processes that are mostly gone already: no heap, no path in
//! an answer. 3 µs each, checked on 6.18.

use rustix::fd::AsFd;
use rustix::fs::readlinkat_raw;

use super::{Decimal, Held, Proc, is_gone, parse_netns_link};
use crate::connection::Netns;

/// Where a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// In this one.
    In(Netns),
    /// Nowhere: it has ended, also where its parent has not taken its leave of it yet.
    Gone,
    /// That may not be asked.
    Denied,
}

impl Proc {
    /// Where the process or thread of this number lives.
    ///
    /// Whether it is alive at all the kernel tells by a system call for a tenth of the price of a look into `/proc`.
    #[must_use]
    pub fn lives(&self, pid: u32) -> Lives {
        if !self.may_exist(pid) {
            return Lives::Gone;
        }
        const TAIL: &[u8] = b"/ns/net";
        let number = Decimal::new(pid);
        let digits = number.as_str().as_bytes();
        let mut path = [0; 20 + TAIL.len()];
        let bytes = digits.iter().chain(TAIL);
        path.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let path = path.get(..digits.len() + TAIL.len()).and_then(|path| std::str::from_utf8(path).ok());
        lives_at(&self.dir, path.unwrap_or_default())
    }

    /// Where a held process lives now: it may have moved.
    #[must_use]
    pub fn held_lives(&self, held: &Held) -> Lives {
        lives_at(&held.dir, "ns/net")
    }
}

fn lives_at(dir: impl AsFd, path: &str) -> Lives {
    let mut target = [0; 64];
    match readlinkat_raw(dir, path, &mut target) {
        Ok(length) => {
            parse_netns_link(target.get(..length).unwrap_or_default()).map_or(Lives::Denied, Lives::In)
        }
        Err(e) if is_gone(Some(e.raw_os_error())) => Lives::Gone,
        Err(_) => Lives::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_where_our_link_says_and_the_dead_nowhere() {
        let proc = Proc::new("/proc").unwrap();
        let ours = proc.own_netns().unwrap();
        let mut child = std::process::Command::new("sleep").arg("9").spawn().unwrap();
        let held = proc.hold(child.id()).unwrap();
        assert_eq!((proc.lives(child.id()), proc.held_lives(&held)), (Lives::In(ours), Lives::In(ours)));
        child.kill().unwrap();
        // Ended, but not waited for: the kernel has taken its namespaces from it already.
        let ended = || proc.held_lives(&held) == Lives::Gone;
        while !ended() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(ended());
        assert_eq!(proc.lives(u32::MAX), Lives::Gone);
        // Kernel threads among them, which are in no process group.
        let all = proc.pids().unwrap();
        assert!(all.iter().any(|pid| proc.lives(*pid) == Lives::In(ours)));
    }
}
