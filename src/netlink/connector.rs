//! The kernel's notices of processes: fork, exec and exit of the whole machine, about 11 µs each to receive.
//!
//! Only for a reader in the first user, process and network namespace; before Linux 6.6 it needs CAP_NET_ADMIN.
//! Layout: `linux/connector.h`, `linux/cn_proc.h`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netlink::CONNECTOR;
use rustix::net::{RecvFlags, SocketFlags};

use super::{Link, Messages, NLMSG_DONE, NOTICE_MOST, NetlinkError, Received, bytes_at, u32_at};

/// CN_IDX_PROC and CN_VAL_PROC, and the group of the notices.
const PROC: u32 = 1;
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;
/// Bytes of `struct cn_msg`.
const HEADER: usize = 20;
const NONE: u32 = 0;
const FORK: u32 = 1;
const EXEC: u32 = 2;
const EXIT: u32 = 0x8000_0000;
/// Room for some 6,000 notices.
const BUFFER: usize = 4 << 20;

/// What happened to a process. Threads are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessNotice {
    /// It was made.
    Fork {
        /// By this one.
        parent: u32,
        /// Its pid.
        child: u32,
    },
    /// It became another program.
    Exec {
        /// Its pid.
        pid: u32,
    },
    /// Its first thread is over.
    Exit {
        /// Its pid.
        pid: u32,
        /// As wait(2) would tell it. `None`: not told.
        status: Option<u32>,
    },
}

/// A subscription to these notices.
#[derive(Debug)]
pub struct ProcessNotices(Link);

impl ProcessNotices {
    /// Subscribes.
    ///
    /// # Errors
    /// `is_denied` without the privilege, or outside the first namespaces.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let open = || {
            let notices = Self(Link::open(CONNECTOR, PROC, SocketFlags::NONBLOCK)?);
            notices.0.raise_buffer(BUFFER);
            notices.tell(LISTEN)?;
            notices.take_answer()?;
            Ok(notices)
        };
        open()
            .map_err(|errno| match errno {
                // Nobody listens on the kernel's side of another network namespace.
                Errno::CONNREFUSED => Errno::PERM,
                other => other,
            })
            .map_err(NetlinkError::new("subscribe to the kernel's notices of processes"))
    }

    /// Gives up to `most` notices to `visit`, without waiting.
    ///
    /// # Errors
    /// If the socket fails. An overflow is none.
    pub fn receive(
        &mut self,
        most: usize,
        mut visit: impl FnMut(ProcessNotice),
    ) -> Result<Received, NetlinkError> {
        let each = |datagram: &[u8]| parse_processes(datagram).for_each(&mut visit);
        self.0.drain(most, each).map_err(NetlinkError::new("receive the kernel's notices of processes"))
    }

    fn tell(&self, operation: u32) -> Result<(), Errno> {
        let words = [PROC, PROC, 0, 0];
        let mut message: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        message.extend(4u16.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(operation.to_ne_bytes());
        self.0.send(NLMSG_DONE, 0, 0, &message)
    }

    /// The kernel answers before `send` returns, to all who listen; if nobody does then we were not let in.
    fn take_answer(&self) -> Result<(), Errno> {
        let mut buffer = [0; NOTICE_MOST];
        loop {
            let datagram = match self.0.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Err(Errno::PERM),
                outcome => outcome?,
            };
            let answer = Messages(datagram).find(|message| u32_at(message.payload, HEADER) == Some(NONE));
            if let Some(code) = answer.and_then(|message| u32_at(message.payload, HEADER + 16)) {
                return match code {
                    0 => Ok(()),
                    code => Err(Errno::from_raw_os_error(code.cast_signed())),
                };
            }
        }
    }
}

impl Drop for ProcessNotices {
    /// Before Linux 6.6 the kernel goes on making notices for nobody unless it is told.
    fn drop(&mut self) {
        let _nothing_to_be_done = self.tell(IGNORE);
    }
}

impl AsFd for ProcessNotices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// The notices of one datagram. Public for `fuzz/`.
pub fn parse_processes(datagram: &[u8]) -> impl Iterator<Item = ProcessNotice> {
    Messages(datagram).filter_map(|message| parse(message.payload))
}

/// `struct cn_msg` and `struct proc_event`. `None` for the notices that are not told.
fn parse(payload: &[u8]) -> Option<ProcessNotice> {
    let event = payload.get(HEADER..)?;
    let what =
        bytes_at(payload, 0).map(u32::from_ne_bytes).filter(|index| *index == PROC).and(u32_at(event, 0))?;
    // Thread and process; where they differ it is about a thread.
    let pair = |at: usize| Some((u32_at(event, at)?, u32_at(event, at + 4)?));
    let process = |at: usize| pair(at).filter(|(thread, process)| thread == process).map(|(pid, _)| pid);
    match what {
        FORK => Some(ProcessNotice::Fork { parent: pair(16)?.1, child: process(24)? }),
        // Whichever thread calls it, the process is then that thread alone, under its own number.
        EXEC => Some(ProcessNotice::Exec { pid: pair(16)?.1 }),
        EXIT => Some(ProcessNotice::Exit { pid: process(16)?, status: u32_at(event, 24) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(words: &[u32]) -> Vec<u8> {
        let header = [PROC, PROC, 0, 0, 40];
        let words = header.iter().chain(words);
        words.flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn processes_are_told_and_threads_are_not() {
        let told = |words: &[u32]| parse(&event(words));
        assert_eq!(
            told(&[FORK, 0, 0, 0, 11, 10, 20, 20]),
            Some(ProcessNotice::Fork { parent: 10, child: 20 }),
            "a thread of 10 forked"
        );
        assert_eq!(told(&[FORK, 0, 0, 0, 10, 10, 11, 10]), None, "a thread");
        assert_eq!(told(&[EXEC, 0, 0, 0, 20, 20]), Some(ProcessNotice::Exec { pid: 20 }));
        assert_eq!(
            told(&[EXIT, 0, 0, 0, 20, 20, 0x300, 17]),
            Some(ProcessNotice::Exit { pid: 20, status: Some(0x300) })
        );
        assert_eq!(told(&[EXIT, 0, 0, 0, 11, 10, 0, 0]), None, "a thread");
        assert_eq!(told(&[4, 0, 0, 0, 20, 20]), None, "a change of user");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..80), what: u32) {
            let _ = parse(&bytes);
            let _ = parse(&[event(&[what]).as_slice(), &bytes].concat());
        }
    }
}
