//! OpenSSH as it is since 9.8 and 10.0: sshd, sshd-session and sshd-auth. `tests/run` fetches it, for the bastion.

use std::path::{Path, PathBuf};

use crate::check::Outcome;
use crate::host::Logins;
use crate::net::Net;
use crate::{forwards, shells};

/// The `/usr` of another Debian; the machine's own where that has it.
fn usr() -> Result<Option<PathBuf>, String> {
    if Path::new("/usr/lib/openssh/sshd-session").exists() {
        return Ok(None);
    }
    let usr = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openssh-newer/usr");
    if usr.join("lib/openssh/sshd-session").exists() {
        return Ok(Some(usr));
    }
    Err("no OpenSSH with sshd-session is here, and tests/run could not fetch one".into())
}

fn net(logins: Logins) -> Result<Net, String> {
    Net::with_usr(logins, usr()?.as_deref())
}

pub fn then_ssh(logins: Logins) -> Outcome {
    shells::shell_on(&net(logins)?)
}

pub fn jump() -> Outcome {
    forwards::jump_on(&net(Logins::Audited)?, "sshd-session")
}
