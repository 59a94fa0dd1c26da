//! Standard output, without ever waiting for its reader.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::stdio::stdout;

/// A pipe that can take anything can take this much at once (PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// Standard output, and the end of a line that it had no room for.
#[derive(Debug, Default)]
pub struct Stdout {
    unsent: Vec<u8>,
}

impl Stdout {
    /// Takes a whole line, or nothing of it. What has been begun is ended before the next line.
    ///
    /// Setting O_NONBLOCK would set it for everyone who shares the descriptor, a shell for one; so it is asked before
    /// each piece whether there is room, and a piece is no larger than what a pipe with room takes at once.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; what else the write says.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.finish()?;
        match send(line)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            sent => {
                self.unsent = line.get(sent..).unwrap_or_default().to_vec();
                Ok(())
            }
        }
    }

    /// Ends a line that was begun.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room for all of it; what else the write says.
    pub fn finish(&mut self) -> io::Result<()> {
        let sent = send(&self.unsent)?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// True if no line is begun.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unsent.is_empty()
    }
}

/// Writes as much as there is room for; answers how much that was.
fn send(bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        if !has_room()? {
            break;
        }
        match rustix::io::write(stdout(), rest.get(..rest.len().min(PIPE_BUF)).unwrap_or_default()) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(e) if sent == 0 => return Err(e.into()),
            // The next write will say it again.
            Err(_) => break,
            Ok(length) => sent += length,
        }
    }
    Ok(sent)
}

fn has_room() -> io::Result<bool> {
    let out = stdout();
    let mut wanted = [PollFd::new(&out, PollFlags::OUT)];
    match poll(&mut wanted, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Err(Errno::INTR) => Ok(false),
        outcome => Ok(outcome? > 0),
    }
}
