//! Followed owners, held: one look at one descriptor tells whether a connection stands, without any table.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::connection::{Inode, Key};
use crate::proc::{Held, Proc, Sight};
use crate::process::Holder;

/// As many owners are held at most; a descriptor is spent on each. Those beyond are opened anew for a look.
pub const MOST_HELD: usize = 1_000;

/// Who holds which connection's socket.
#[derive(Debug)]
pub struct Holds {
    most: usize,
    by_key: HashMap<Key, Hold>,
    held: HashMap<u32, Weak<Held>>,
}

#[derive(Debug)]
struct Hold {
    holders: Arc<[Holder]>,
    owner: Option<Rc<Held>>,
    /// True if the owner let go and nobody else was found: not to be asked at each reading.
    orphaned: bool,
}

impl Holds {
    /// Holds at most so many owners.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, by_key: HashMap::new(), held: HashMap::new() }
    }

    /// Remembers who holds a connection's socket, the owner first.
    pub fn add(&mut self, proc: &Proc, key: Key, holders: Arc<[Holder]>, owner: Rc<Held>) {
        if self.held.len() >= self.most {
            self.held.retain(|_, held| held.strong_count() > 0);
        }
        // Connections of one process share its folder, as long as it answers: a pid is not two processes at once.
        let known = self.held.get(&owner.pid).and_then(Weak::upgrade);
        let owner = match known.filter(|known| proc.parent_of(known).is_ok()) {
            Some(known) => Some(known),
            None if self.held.len() < self.most => {
                self.held.insert(owner.pid, Rc::downgrade(&owner));
                Some(owner)
            }
            None => None,
        };
        self.by_key.insert(key, Hold { holders, owner, orphaned: false });
    }

    /// The owner has left and no other was found.
    pub fn orphan(&mut self, key: &Key) {
        if let Some(hold) = self.by_key.get_mut(key) {
            hold.orphaned = true;
        }
    }

    /// Forgets a connection.
    pub fn remove(&mut self, key: &Key) {
        self.by_key.remove(key);
    }

    /// How many connections have a known holder.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// True if none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Connections that have a known holder.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_key.keys()
    }

    /// At most `most` of them, others each time: `turn` counts the calls.
    pub fn some(&self, most: usize, turn: u64) -> impl Iterator<Item = Key> {
        let rounds = self.by_key.len().div_ceil(most.max(1)).max(1);
        let skip = usize::try_from(turn).unwrap_or(0) % rounds * most;
        self.by_key.keys().skip(skip).take(most).copied()
    }

    /// Looks whether a known holder holds the socket still: 4 µs each. `Denied` if none is known or may be read.
    #[must_use]
    pub fn look(&self, proc: &Proc, key: &Key) -> Sight {
        let Some(hold) = self.by_key.get(key) else { return Sight::Denied };
        let mut all = Sight::Gone;
        for (place, holder) in hold.holders.iter().enumerate() {
            let owner = hold.owner.as_deref().filter(|_| place == 0);
            match look(proc, owner, *holder, key.inode) {
                Sight::Stands => return Sight::Stands,
                Sight::Denied => all = Sight::Denied,
                Sight::Gone => {}
            }
        }
        all
    }

    /// True if the owner, the first of the holders, holds the socket no more.
    #[must_use]
    pub fn owner_left(&self, proc: &Proc, key: &Key) -> bool {
        self.by_key.get(key).is_some_and(|hold| {
            hold.holders
                .first()
                .is_some_and(|h| look(proc, hold.owner.as_deref(), *h, key.inode) == Sight::Gone)
        })
    }
}

fn look(proc: &Proc, held: Option<&Held>, holder: Holder, inode: Inode) -> Sight {
    match held {
        Some(held) => proc.look(held, holder, inode),
        // By number: should another process bear it by now, its descriptor is no such socket.
        None => proc.hold(holder.pid).map_or(Sight::Gone, |held| proc.look(&held, holder, inode)),
    }
}
