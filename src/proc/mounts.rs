//! How a `/proc` is mounted: whether it hides processes or files.

use std::path::Path;

use procfs::FromRead;
use procfs::process::MountInfos;

use super::Proc;

impl Proc {
    /// The mount options that hide something here (`hidepid=invisible`, `subset=pid`).
    #[must_use]
    pub fn hiding_options(&self) -> Vec<String> {
        let text = self.read_file("self/mountinfo", 1 << 20);
        text.map(|text| parse_hiding_options(&text, &self.root)).unwrap_or_default()
    }
}

/// Those options in the text of `mountinfo`, of the `/proc` that is mounted at `root`. Public for `fuzz/`.
#[must_use]
pub fn parse_hiding_options(mountinfo: &[u8], root: &Path) -> Vec<String> {
    let mut mounts = MountInfos::from_read(mountinfo).into_iter().flatten();
    let Some(mount) = mounts.rfind(|m| m.fs_type == "proc" && m.mount_point == root) else {
        return Vec::new();
    };
    let hides = |(key, value): (&String, &Option<String>)| match (key.as_str(), value.as_deref()) {
        ("hidepid", Some("0" | "off")) => None,
        ("hidepid" | "subset", Some(value)) => Some(format!("{key}={value}")),
        _ => None,
    };
    mount.super_options.iter().filter_map(hides).collect()
}
