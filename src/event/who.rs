//! Who: the owner of a connection and its ancestors, in the schema's names.

use std::time::Duration;

use serde_json::{Value, json};

use super::ascii::readable;
use super::message::command_line;
use super::record::{Cut, Host, Members, set};
use crate::cgroup;
use crate::connection::Moment;
use crate::process::{Asker, ChainCut, Departed, Hash, Ids, Lineage, Login, Process, Tty};

/// The whole chain, below `portreeve`.
pub(super) const ANCESTRY: &str = "ancestry";

impl Host {
    /// The owner with all that was read of it, its parent in ECS's place, and the whole chain in ours.
    pub(super) fn lineage(&self, record: &mut Members, lineage: &Lineage, opened: Moment, cut: Cut) {
        self.lineage_but_chain(record, lineage, opened, cut);
        let chain = lineage.ancestry.iter().map(|p| self.link(p, opened, cut)).collect::<Vec<_>>();
        record.own(ANCESTRY, json!(chain));
    }

    /// The same without the whole chain.
    pub(super) fn lineage_but_chain(
        &self,
        record: &mut Members,
        lineage: &Lineage,
        opened: Moment,
        cut: Cut,
    ) {
        self.owner(record, &lineage.process, opened, cut);
        if let Some(hash) = lineage.hash {
            put_hash(record, hash);
        }
        if let Some(parent) = lineage.ancestry.first() {
            let parent = self.parent(parent, opened, cut);
            if let Some(process) = record.fields.get_mut("process") {
                set(process, "parent", Some(parent));
            }
        }
        if let Some(cut) = lineage.cut {
            record.own("ancestry_cut", json!(cut.name()));
        }
    }

    /// Who asked for it, as the audit log has it.
    pub(super) fn asker(&self, record: &mut Members, asker: &Asker, opened: Moment, cut: Cut) {
        match asker {
            Asker::Living(lineage) => self.lineage(record, lineage, opened, cut),
            Asker::Departed(departed) => self.departed(record, departed, opened, cut),
        }
    }

    /// Every field of it is placed here. When it started the log does not say, so it has no id.
    fn departed(&self, record: &mut Members, departed: &Departed, opened: Moment, cut: Cut) {
        let Departed { pid, comm, executable, args, args_cut, redacted, .. } = departed;
        let Departed { tty, ids, user, effective_user, login, parent, .. } = departed;
        let mut fields = json!({ "pid": pid, "name": readable(comm) });
        set(&mut fields, "executable", path(executable.as_deref(), cut.owner_path()));
        let kept = kept_args(args, cut);
        set(&mut fields, "args", (!kept.is_empty()).then(|| texts(&kept)));
        set(&mut fields, "args_count", (!args_cut && !args.is_empty()).then(|| json!(args.len())));
        set(&mut fields, "command_line", (!kept.is_empty()).then(|| json!(command_line(&kept))));
        set(&mut fields, "tty", tty.map(terminal));
        let chain = parent.iter().flat_map(|parent| [&parent.process].into_iter().chain(&parent.ancestry));
        let chain: Vec<_> = chain.map(|process| self.link(process, opened, cut)).collect();
        set(&mut fields, "parent", parent.as_ref().map(|parent| self.parent(&parent.process, opened, cut)));
        record.put("process", fields);
        if !chain.is_empty() {
            record.own(ANCESTRY, json!(chain));
        }
        let cut = parent.as_ref().map_or(Some(ChainCut::Vanished), |parent| parent.cut);
        if let Some(cut) = cut {
            record.own("ancestry_cut", json!(cut.name()));
        }
        put_user(record, *ids, user.as_deref(), effective_user.as_deref());
        if let Some(login) = login {
            record.own("login", login_fields(login));
        }
        if *redacted > 0 {
            record.own("redacted", json!(redacted));
        }
    }

    /// Every field of the owner is placed here or in what this calls.
    fn owner(&self, record: &mut Members, process: &Process, opened: Moment, cut: Cut) {
        let Process {
            args, args_bytes, args_cut, executable_deleted, redacted, working_directory, tty, ..
        } = process;
        let Process { ids, user, effective_user, login, cgroup, denied, remembered, .. } = process;
        let mut fields = self.link(process, opened, cut);
        if let Some(map) = fields.as_object_mut() {
            map.remove("user");
            map.remove("command_line");
            map.remove("remembered");
        }
        set(&mut fields, "executable", path(process.executable.as_deref(), cut.owner_path()));
        let kept = kept_args(args, cut);
        set(&mut fields, "entity_id", Some(json!(self.entity_id(process))));
        set(&mut fields, "args", Some(texts(&kept)));
        set(&mut fields, "args_count", Some(json!(args.len())));
        set(&mut fields, "command_line", (!kept.is_empty()).then(|| json!(command_line(&kept))));
        set(&mut fields, "working_directory", path(working_directory.as_deref(), cut.owner_path()));
        set(&mut fields, "tty", tty.map(terminal));
        set(&mut fields, "cgroup", path(cgroup.as_deref(), cut.owner_path()));
        record.put("process", fields);
        if let Some(ids) = ids {
            put_user(record, *ids, user.as_deref(), effective_user.as_deref());
        }
        if let Some(login) = login {
            record.own("login", login_fields(login));
        }
        if let Some(cgroup) = cgroup {
            put_place(record, cgroup);
        }
        if !denied.is_empty() {
            record.own("denied", json!(denied));
        }
        if *remembered {
            record.own("remembered", json!(true));
        }
        if *executable_deleted {
            record.own("executable_deleted", json!(true));
        }
        if *redacted > 0 {
            record.own("redacted", json!(redacted));
        }
        if *args_cut {
            record.own("args_cut", json!({ "bytes": args_bytes }));
        }
    }

    /// What is told of every process: pid, name, executable, command line, start, user.
    pub(super) fn link(&self, process: &Process, opened: Moment, cut: Cut) -> Value {
        let mut link = json!({ "pid": process.pid, "name": readable(&process.comm) });
        set(&mut link, "executable", path(process.executable.as_deref(), cut.ancestor_path()));
        if !process.args.is_empty() && cut < Cut::Ancestors {
            set(&mut link, "command_line", Some(json!(shortened(command_line(&process.args), 1_024))));
        }
        set(&mut link, "start", self.started(process, opened).map(|start| json!(start)));
        let user = process.ids.map(|ids| match &process.user {
            Some(name) => json!(name.as_ref()),
            None => json!(ids.real_uid.to_string()),
        });
        set(&mut link, "user", user);
        set(&mut link, "remembered", process.remembered.then_some(json!(true)));
        link
    }

    fn parent(&self, process: &Process, opened: Moment, cut: Cut) -> Value {
        let mut parent = self.link(process, opened, cut);
        if let Some(map) = parent.as_object_mut() {
            map.remove("user");
            map.remove("remembered");
        }
        if cut < Cut::Ancestors {
            let args: Vec<_> = kept_args(&process.args, Cut::Arguments);
            set(&mut parent, "args", Some(texts(&args)));
        }
        parent
    }

    /// The wall clock at a process's start, as of the connection's first sight: a later step does not move it.
    fn started(&self, process: &Process, opened: Moment) -> Option<String> {
        let ticks = u128::from(process.start_ticks) * 1_000_000_000;
        let since_boot = ticks.checked_div(u128::from(self.ticks_per_second))?;
        let since_boot = Duration::from_nanos(u64::try_from(since_boot).ok()?);
        let age = opened.boot.checked_sub(since_boot).unwrap_or_default();
        opened.wall.checked_sub(age).ok().map(|wall| format!("{wall:.2}"))
    }

    /// Pid and start alone collide when a pid is reused at once: the pidfd's inode does not.
    fn entity_id(&self, process: &Process) -> String {
        let boot = self.boot_id.as_deref().unwrap_or("unknown-boot");
        let unique = process.pidfd_inode.map(|inode| format!("-{inode}")).unwrap_or_default();
        format!("{boot}-{}-{}{unique}", process.pid, process.start_ticks)
    }
}

fn put_hash(record: &mut Members, hash: Hash) {
    if let Hash::Sha256 { digest, .. } = hash
        && let Some(process) = record.fields.get_mut("process")
    {
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        set(process, "hash", Some(json!({ "sha256": text })));
    }
    if let Some(reason) = hash.reason() {
        record.own("hash", json!({ "reason": reason }));
    }
}

fn put_user(record: &mut Members, ids: Ids, name: Option<&str>, effective_name: Option<&str>) {
    let mut user = user_fields(ids.real_uid, name);
    if ids.effective_uid != ids.real_uid {
        set(&mut user, "effective", Some(user_fields(ids.effective_uid, effective_name)));
    }
    record.put("user", user);
    record.put("group", json!({ "id": ids.real_gid.to_string() }));
}

fn login_fields(login: &Login) -> Value {
    let mut fields = json!({ "uid": login.uid });
    set(&mut fields, "name", login.user.as_ref().map(|name| json!(name.as_ref())));
    set(&mut fields, "session", login.session.map(|session| json!(session)));
    fields
}

fn terminal(tty: Tty) -> Value {
    json!({ "char_device": { "major": tty.major, "minor": tty.minor }, "name": tty.name() })
}

fn texts(args: &[Vec<u8>]) -> Value {
    json!(args.iter().map(|arg| readable(arg)).collect::<Vec<_>>())
}

/// Unit and container, from the cgroup path.
fn put_place(record: &mut Members, path: &[u8]) {
    if let Some(unit) = cgroup::unit(path) {
        record.put("service", json!({ "name": unit }));
    }
    if let Some(container) = cgroup::container(path) {
        let id = readable(container.id.as_bytes());
        let mut fields = json!({ "id": id });
        set(&mut fields, "name", container.is_named.then(|| json!(id)));
        set(&mut fields, "runtime", container.runtime.map(|runtime| json!(runtime)));
        record.put("container", fields);
    }
}

/// `id` and, where there is one, `name`.
pub(super) fn user_fields(uid: u32, name: Option<&str>) -> Value {
    let mut fields = json!({ "id": uid.to_string() });
    set(&mut fields, "name", name.map(|name| json!(name)));
    fields
}

fn kept_args(args: &[Vec<u8>], cut: Cut) -> Vec<Vec<u8>> {
    let most = match cut {
        Cut::None | Cut::Ancestors => usize::MAX,
        Cut::Arguments => 512,
        Cut::Everything => 0,
    };
    let mut room = most;
    let fits = |arg: &&Vec<u8>| {
        room = room.saturating_sub(arg.len() + 1);
        room > 0
    };
    args.iter().take_while(fits).cloned().collect()
}

fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(most);
        text.push('…');
    }
    text
}

/// A path of at most so many bytes; none of it where none may be told.
fn path(bytes: Option<&[u8]>, most: usize) -> Option<Value> {
    let bytes = bytes.filter(|_| most > 0)?;
    let kept = bytes.get(..most.min(bytes.len())).unwrap_or_default();
    let cut = if kept.len() < bytes.len() { "…" } else { "" };
    Some(json!(format!("{}{cut}", readable(kept))))
}
