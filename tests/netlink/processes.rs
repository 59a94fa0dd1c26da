use portreeve::netlink::{ProcessNotice, ProcessNotices};

use crate::support::not_run;

#[test]
fn a_child_is_made_becomes_another_program_and_ends() {
    let mut notices = match ProcessNotices::subscribe() {
        Ok(notices) => notices,
        Err(error) => {
            assert!(error.is_unsupported(), "{error:?}");
            return not_run("netlink::processes", "needs CAP_NET_ADMIN and the machine's first namespaces");
        }
    };
    let mut child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    let (parent, pid) = (std::process::id(), child.id());
    child.wait().unwrap();
    let mut about_it = Vec::new();
    loop {
        let received = notices.receive(64, |notice| {
            let (ProcessNotice::Fork { child: about, .. }
            | ProcessNotice::Exec { pid: about }
            | ProcessNotice::Exit { pid: about, .. }) = notice;
            about_it.extend((about == pid).then_some(notice));
        });
        if received.unwrap().drained {
            break;
        }
    }
    let wanted = [
        ProcessNotice::Fork { parent, child: pid },
        ProcessNotice::Exec { pid },
        ProcessNotice::Exit { pid, status: Some(0x700) },
    ];
    assert_eq!(about_it, wanted);
}
