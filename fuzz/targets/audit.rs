//! Lines of an audit log: no panic, no more connects than calls, and none to a port or an address that cannot be.

use portreeve::audit::Assembler;

pub fn run(data: &[u8]) {
    let (mut assembler, mut told) = (Assembler::default(), 0);
    for line in data.split(|byte| *byte == b'\n') {
        assembler.line(line, |connect| {
            told += 1;
            assert!(connect.pid > 0 && connect.remote.port() > 0);
            assert_eq!(connect.remote.ip(), connect.remote.ip().to_canonical());
            assert!(connect.executable.is_none_or(|path| path.starts_with(b"/")));
        });
    }
    let calls = data.windows(12).filter(|window| window == b"type=SYSCALL").count();
    assert!(told <= calls);
    for kind in [1300, 1306, 1320, 1327] {
        assembler.record(kind, data, |_| {});
    }
}
