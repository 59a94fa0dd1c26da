//! Arguments, titles and the variable of SSH's clients and servers: no panic, no meaning of what has nothing to do with SSH,
//! no text that is longer than what it was read from allows, and the same answer for the same words.
//!
//! The input is a chain of processes from the owner upwards, parted by a byte 1; the arguments of each end with a NUL.

use std::net::SocketAddr;
use std::sync::Arc;

use portreeve::origin::parse_variable;
use portreeve::process::Process;
use portreeve::ssh::{
    Forwards, Meaning, Route, TOOLS, is_client, is_server, meaning, mux_title, parse_title, route,
};

/// As many ancestors as a chain of a record may have.
const MOST: usize = 32;

pub fn run(data: &[u8]) {
    if let Some(inbound) = parse_variable(data) {
        let folded = |end: SocketAddr| end.ip() == end.ip().to_canonical();
        assert!(folded(inbound.local) && folded(inbound.remote));
    }
    let mut chain = data.split(|byte| *byte == 1).take(MOST).map(process);
    let Some(owner) = chain.next() else { return };
    let ancestry: Vec<_> = chain.map(Arc::new).collect();
    for process in ancestry.iter().map(AsRef::as_ref).chain([&owner]) {
        let _ = (parse_title(&process.args), mux_title(&process.args));
    }
    let (route, meaning) = (route(&owner, &ancestry), meaning(&owner, &ancestry));
    assert_eq!(route == Route::Forwarded, is_server(&owner));
    assert!(!is_client(&owner) || meaning.is_some());
    assert!(!matches!(route, Route::Direct | Route::Jump | Route::MuxMaster) || is_client(&owner));
    let Some(meaning) = meaning else { return };
    let Meaning { target, host, login, jump, forwards, tool, destination, .. } = &meaning;
    assert!(tool.is_none_or(|tool| TOOLS.contains(&tool)));
    assert!(destination.as_ref().is_none_or(|host| !host.is_empty() && is_client(&owner)));
    let Forwards { local, remote, dynamic, stdio, tunnel } = forwards;
    for texts in [local, remote, dynamic, stdio, tunnel, jump] {
        assert!(texts.len() <= 64);
        assert!(texts.iter().all(|text| text.len() <= 2 * data.len() + 16));
    }
    for text in [target, host, login].into_iter().flatten() {
        assert!(text.len() <= 2 * data.len() + 1024);
    }
}

/// A process of these arguments, whose program is what it calls itself.
fn process(text: &[u8]) -> Process {
    let args: Vec<_> =
        text.strip_suffix(b"\0").unwrap_or(text).split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let name = args[0].split(|byte| *byte == b':').next().unwrap_or_default();
    let executable = Some(name.to_vec()).filter(|name| name.contains(&b'/'));
    Process { comm: name.to_vec(), executable, args, ..Process::of_pid(7) }
}
