//! How a `/proc` is mounted: whether it hides processes or files.

use procfs::FromRead;
use procfs::process::MountInfos;

use super::Proc;

impl Proc {
    /// The mount options that hide something here (`hidepid=invisible`, `subset=pid`).
    #[must_use]
    pub fn hiding_options(&self) -> Vec<String> {
        let Ok(text) = self.read_file("self/mountinfo", 1 << 20) else { return Vec::new() };
        let mounts = MountInfos::from_read(text.as_slice()).into_iter().flatten();
        let Some(mount) = mounts.filter(|m| m.fs_type == "proc" && m.mount_point == self.root).last() else {
            return Vec::new();
        };
        let hides = |(key, value): (&String, &Option<String>)| match (key.as_str(), value.as_deref()) {
            ("hidepid", Some("0" | "off")) => None,
            ("hidepid" | "subset", Some(value)) => Some(format!("{key}={value}")),
            _ => None,
        };
        mount.super_options.iter().filter_map(hides).collect()
    }
}
