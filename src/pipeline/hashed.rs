//! Hashes of executables that came later than what they belong to was told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::connection::Moment;
use crate::event::{Event, What};
use crate::proc::Proc;
use crate::process::{FileId, Hash, Lineage};

impl Pipeline {
    /// Owners' executables are hashed from now on. Of a file that is new its hash is waited for so long; then it is told when
    /// it comes.
    pub fn hash(&mut self, wait: Duration) {
        self.attributor.hash(wait);
    }

    /// One look at a channel while something is being hashed, else nothing.
    pub(super) fn tell_hashed(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let came = self.attributor.hashed(proc, at.boot);
        if came.is_empty() {
            return;
        }
        let came: HashMap<FileId, Hash> = came.into_iter().collect();
        // What connections share stays shared.
        let mut renewed: HashMap<*const Lineage, Arc<Lineage>> = HashMap::new();
        let keys: Vec<_> = self.table.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(entry) = self.table.get_mut(&key) else { continue };
            let Some(lineage) = entry.connection.attribution.lineage() else { continue };
            let Some(Hash::Pending(id)) = lineage.hash else { continue };
            let Some(hash) = came.get(&id) else { continue };
            let new = renewed
                .entry(Arc::as_ptr(lineage))
                .or_insert_with(|| Arc::new(Lineage { hash: Some(*hash), ..Lineage::clone(lineage) }));
            let new = Arc::clone(new);
            Arc::make_mut(&mut entry.connection).attribution.renew(new);
            if entry.told {
                let changed = match hash {
                    Hash::Sha256 { .. } => "process.hash.sha256",
                    Hash::Pending(_) | Hash::Unknown(_) => "portreeve.hash.reason",
                };
                let connection = Arc::clone(&entry.connection);
                told.push(Event { at, what: What::Changed { connection, changed: vec![changed] } });
            }
        }
    }
}
