//! What the unit leaves to somebody who took over the service, and which of its lines takes away what: as measured.

/// What the service needs, and what comes with it.
pub const ALLOWED: &[&str] = &[
    "write its log folder",
    "write its state folder",
    "read another's cmdline",
    "read another's status",
    "read another's exe",
    "read another's cwd",
    "read another's namespaces",
    "read another's fdinfo",
    "read another's maps",
    "read another's network tables",
    "netlink: read interfaces",
    "connect to a local service",
    // The links of /proc lead past closed folders and into other mount namespaces, where our own fences do not stand.
    // What is left is what every user may there.
    "open another's exe",
    "read another's file that is open to all",
    "read another's private /tmp",
    "write another's folder that is open to all",
    "write what is open to all, by another's root",
    "write the machine's /tmp, by pid 1's root",
];

/// What is refused, and how.
pub const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "EACCES",
        &[
            "write /etc/shadow",
            "write /etc/shadow, by another's root",
            "write a folder of /home that is open to all",
            "write another's oom_score_adj",
            "write a sysctl",
            "read /etc/shadow",
            "read /etc/shadow, by another's root",
            "read another's closed file",
            "read the same by its path",
            "list kernel modules",
            "read another's descriptors",
            "read another's environ",
            "read another's auxv",
            "read another's io",
            "read another's stack",
            "read another's map_files",
            "read another's memory",
        ],
    ),
    (
        "EROFS",
        &[
            "write a folder of /usr that is open to all",
            "write a folder of /var that is open to all",
            "write its own /proc",
            "write another's timerslack_ns",
            "write a control group that is open to all",
        ],
    ),
    (
        "ENOENT",
        &[
            "see the machine's /tmp",
            "open /dev/kmsg",
            "open a device that is open to all",
            "see others without the capability",
            "see the machine's shared memory",
        ],
    ),
    (
        "EAFNOSUPPORT",
        &["connect by TCP", "connect by TCP over IPv6", "connect by UDP", "raw socket", "packet socket"],
    ),
    (
        "EPERM",
        &[
            "read kernel messages",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "ptrace attach",
            "ptrace seize",
            "pidfd_getfd",
            "kcmp",
            "kill another's process",
            "kill pid 1",
            "renice another's process",
            "netlink: change routes",
            "netlink: end a connection",
            "netlink: packet filter",
            "load a module",
            "mount",
            "unmount",
            "chroot",
            "fsopen",
            "open_tree",
            "enter another's network",
            "new user namespace",
            "new user namespace, by clone",
            "new network namespace",
            "bpf",
            "perf_event_open",
            "io_uring",
            "userfaultfd",
            "memfd_create",
            "name_to_handle_at",
            "keyctl",
            "set the clock",
            "set the host name",
            "reboot",
            "become root",
            "set a setuid bit",
            "make a device",
            "change the personality",
            "memory to write and execute",
            "execute what was written",
            "run in real time",
            "pin itself to a core",
            "mincore",
        ],
    ),
    ("SIGSYS", &["32-bit system call"]),
    ("no effect", &["become root by a setuid program"]),
];

/// What it is given.
pub const VALUES: &[(&str, &str)] = &[
    ("bounding set", "000000080000"),
    ("mode of a new file", "640"),
    ("mode of its log folder", "750"),
    ("mode of its state folder", "700"),
    ("largest core file", "0"),
    ("most open files", "4096"),
];

/// What a container cannot always be asked: the first is what a machine of one's own shows.
pub const DEPENDS: &[(&str, [&str; 2])] = &[
    // No control group for devices and processes of the container's own in version 1 of these.
    ("open the same, by another's root", ["EPERM", "ok"]),
    ("most processes", ["limited", "200"]),
    // Lowering it takes a capability that the container may lack.
    ("oom_score_adj", ["-200", "0"]),
    // Denied by nspawn itself, in one way or another.
    ("read kernel symbols", ["EACCES", "ENOENT"]),
    // nspawn keeps audit to itself.
    ("netlink: audit", ["EPERM", "EAFNOSUPPORT"]),
];

/// How it shows that a line of the unit is there.
pub enum Shown {
    /// Without it, these and no others are refused no more, or are of another value, or (where the line allows
    /// something) are refused.
    By(&'static [&'static str]),
    /// Not in a container, or not by taking it away alone.
    Nowhere(&'static str),
}

use Shown::{By, Nowhere};

const TWICE: &str = "the system call filter and the missing capability forbid the same";

/// Each line of the unit's `[Service]` that fences in, by its beginning.
pub const LINES: &[(&str, Shown)] = &[
    (
        "User=",
        By(&[
            "become root by a setuid program",
            "kill pid 1",
            "read /etc/shadow",
            "read /etc/shadow, by another's root",
            "see others without the capability",
            "write /etc/shadow, by another's root",
        ]),
    ),
    ("Group=", Nowhere("the user's own group is the same")),
    ("UMask=", By(&["mode of a new file"])),
    ("LogsDirectory=", By(&["mode of a new file", "write its log folder"])),
    ("LogsDirectoryMode=", By(&["mode of its log folder"])),
    ("StateDirectory=", By(&["write its state folder"])),
    ("StateDirectoryMode=", By(&["mode of its state folder"])),
    (
        "AmbientCapabilities=",
        By(&[
            "open another's exe",
            "read another's cmdline",
            "read another's cwd",
            "read another's exe",
            "read another's fdinfo",
            "read another's file that is open to all",
            "read another's maps",
            "read another's namespaces",
            "read another's network tables",
            "read another's private /tmp",
            "read another's status",
            "write another's folder that is open to all",
            "write the machine's /tmp, by pid 1's root",
            "write what is open to all, by another's root",
        ]),
    ),
    ("CapabilityBoundingSet=", By(&["bounding set"])),
    ("NoNewPrivileges=", Nowhere("systemd sets it for every user but root that has a system call filter")),
    (
        "ProcSubset=",
        Nowhere("it is the default, and stands there because another value would blind the watch"),
    ),
    ("ProtectProc=", By(&["see others without the capability"])),
    ("ReadOnlyPaths=/proc", By(&["write another's timerslack_ns", "write its own /proc"])),
    (
        "ProtectSystem=",
        By(&["write a folder of /usr that is open to all", "write a folder of /var that is open to all"]),
    ),
    ("ProtectHome=", By(&["write a folder of /home that is open to all"])),
    ("PrivateTmp=", By(&["see the machine's /tmp"])),
    ("PrivateDevices=", By(&["open a device that is open to all"])),
    ("PrivateIPC=", By(&["see the machine's shared memory"])),
    ("PrivateMounts=", Nowhere("each line that changes a mount gives a mount namespace")),
    ("DevicePolicy=", Nowhere("nspawn has no control group for devices to hand on")),
    ("ProtectClock=", Nowhere(TWICE)),
    ("ProtectControlGroups=", By(&["write a control group that is open to all"])),
    ("ProtectHostname=", Nowhere(TWICE)),
    ("ProtectKernelLogs=", Nowhere(TWICE)),
    ("ProtectKernelModules=", By(&["list kernel modules"])),
    ("ProtectKernelTunables=", Nowhere("nspawn protects them already")),
    ("KeyringMode=", Nowhere("the filter takes the calls away by which keys are read")),
    ("LockPersonality=", By(&["change the personality"])),
    ("MemoryDenyWriteExecute=", By(&["execute what was written", "memory to write and execute"])),
    ("RemoveIPC=", Nowhere("nothing is left behind in an IPC namespace of one's own")),
    ("RestrictNamespaces=", By(&["new user namespace", "new user namespace, by clone"])),
    ("RestrictRealtime=", Nowhere(TWICE)),
    ("RestrictSUIDSGID=", By(&["set a setuid bit"])),
    ("RestrictAddressFamilies=", By(&["connect by TCP", "connect by TCP over IPv6", "connect by UDP"])),
    ("IPAddressDeny=", Nowhere("no packet leaves through the allowed families; in nspawn it filters none")),
    ("SystemCallArchitectures=", By(&["32-bit system call"])),
    ("SystemCallFilter=@system-service", By(&["mincore"])),
    ("SystemCallFilter=~@privileged", By(&["io_uring", "pin itself to a core"])),
    ("SystemCallFilter=~process_vm_readv", By(&["kcmp", "memfd_create", "process_vm_readv", "userfaultfd"])),
    ("SystemCallErrorNumber=", Nowhere("what is refused is refused by a signal then")),
    ("MemoryMax=", Nowhere("nspawn has no control group for memory to hand on")),
    ("TasksMax=", Nowhere("nspawn has no control group for processes to hand on")),
    ("LimitNOFILE=", By(&["most open files"])),
    ("LimitCORE=", By(&["largest core file"])),
    ("OOMScoreAdjust=", Nowhere("nspawn may not lower it")),
];

/// Lines of `[Service]` that say how it is run; `tests/service.rs` has their tests.
pub const RUN: &[&str] = &[
    "Type=",
    "NotifyAccess=",
    "WatchdogSec=",
    "EnvironmentFile=",
    "ExecStart=",
    "ExecReload=",
    "Restart=",
    "RestartSec=",
    "RestartPreventExitStatus=",
    "TimeoutStopSec=",
    "LogRateLimitIntervalSec=",
];
