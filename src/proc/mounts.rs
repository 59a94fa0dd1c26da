//! How a `/proc` is mounted: whether it hides processes or files.

use std::path::Path;

use procfs::FromRead;
use procfs::process::MountInfos;

use super::Proc;

impl Proc {
    /// The mount option that hides something here (`hidepid=invisible`, `subset=pid`), if there is one.
    #[must_use]
    pub fn hiding_option(&self) -> Option<String> {
        parse_hiding_option(&self.read_file("self/mountinfo", 1 << 20).ok()?, &self.root)
    }
}

/// That option in the text of `mountinfo`, of the `/proc` that is mounted at `root`. Public for `fuzz/`.
#[must_use]
pub fn parse_hiding_option(mountinfo: &[u8], root: &Path) -> Option<String> {
    let mounts = MountInfos::from_read(mountinfo).ok()?;
    let mount = mounts.into_iter().rfind(|m| m.fs_type == "proc" && m.mount_point == root)?;
    let hides = |(key, value): (&String, &Option<String>)| match (key.as_str(), value.as_deref()) {
        ("hidepid", Some("0" | "off")) => None,
        ("hidepid" | "subset", Some(value)) => Some(format!("{key}={value}")),
        _ => None,
    };
    mount.super_options.iter().find_map(hides)
}
