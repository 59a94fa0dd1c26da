//! A change of one of SSH's files, in the schema's names and in one line.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::ascii::readable;
use super::message::{chain_of, command_line, shorten, word};
use super::program::{Actor, named};
use super::record::{Cut, Host, Members, set};
use crate::connection::Moment;
use crate::files::{Change, Witness};

/// A file was changed.
#[derive(Debug, Clone)]
pub struct FileChanged {
    /// Its path.
    pub path: Vec<u8>,
    /// What happened to it.
    pub changes: Vec<Change>,
    /// Who says so.
    pub by: Witness,
    /// So many writes there were since the last that was told.
    pub repeated: u64,
    /// By whom.
    pub who: Result<Actor, Unseen>,
}

/// Why nobody is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// The source does not tell the process, or it is in another pid namespace.
    NotTold,
    /// It had ended.
    Vanished,
}

impl Unseen {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTold => "not_told",
            Self::Vanished => "vanished",
        }
    }
}

impl FileChanged {
    /// `event.type`.
    pub(super) fn types(&self) -> &'static [&'static str] {
        let is = |wanted: &[Change]| self.changes.iter().any(|change| wanted.contains(change));
        let created = is(&[Change::Created, Change::MovedTo, Change::Found]);
        let changed = is(&[Change::Modified, Change::Written, Change::Attributes]);
        let deleted = is(&[Change::Deleted, Change::MovedFrom]);
        match (created, changed, deleted) {
            (true, false, false) => &["creation"],
            (true, true, false) => &["creation", "change"],
            (true, false, true) => &["creation", "deletion"],
            (true, true, true) => &["creation", "change", "deletion"],
            (false, _, false) => &["change"],
            (false, false, true) => &["deletion"],
            (false, true, true) => &["change", "deletion"],
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.changes.iter().map(|change| change.name()).collect()
    }
}

impl Host {
    pub(super) fn file(&self, record: &mut Members, file: &FileChanged, at: Moment, cut: Cut) {
        let most = if cut < Cut::Everything { 4_096 } else { 512 };
        let path = file.path.get(..most.min(file.path.len())).unwrap_or_default();
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (folder, name) = path.split_at_checked(slash).unwrap_or_default();
        let name = name.strip_prefix(b"/").unwrap_or(name);
        record.put(
            "file",
            json!({ "path": readable(path), "name": readable(name), "directory": readable(folder) }),
        );
        let mut own: Value = json!({ "change": file.names(), "source": file.by.name() });
        set(&mut own, "repeated", (file.repeated > 0).then(|| json!(file.repeated)));
        match &file.who {
            Ok(who) => self.program(record, who, at, cut),
            Err(unseen) => set(&mut own, "reason", Some(json!(unseen.name()))),
        }
        record.own("file", own);
    }
}

/// `touch  alice@pts/3  /home/alice/.ssh/authorized_keys  modified  vim[4242] ← bash[4100]  vim authorized_keys`
pub(super) fn changed(file: &FileChanged) -> String {
    let who = file.who.as_ref().map_or_else(|_| "user unknown".to_owned(), named);
    let mut line = format!("touch  {who}  {}  {}", shorten(word(&file.path)), file.names().join(", "));
    if file.repeated > 0 {
        let _ = write!(line, " {} times more", file.repeated);
    }
    let _ = match &file.who {
        Ok(who) => {
            let command = shorten(command_line(&who.lineage.process.args));
            write!(line, "  {}  {command}", chain_of(&who.lineage, usize::MAX))
        }
        Err(unseen) => write!(line, "  process unknown ({})", unseen.name()),
    };
    line.truncate(line.trim_end().len());
    line
}
