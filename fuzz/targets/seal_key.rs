//! The key file of seals: bytes that are none are refused, and a key that is read makes a seal and is then gone.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use portreeve::seal::{Place, Sealer};
use sha2::{Digest as _, Sha256};

use super::folder::Folder;

const SLOT: usize = 4_096;

pub fn run(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.0.join("key");
    let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
    drop(options.open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (first, second) = data.split_at(data.len() / 2);
    for bytes in [data.to_vec(), slot(data).to_vec(), [slot(first), slot(second)].concat()] {
        fs::write(&path, bytes).unwrap();
        let Ok(mut sealer) = Sealer::open(&path) else { continue };
        let before = sealer.pending().cloned();
        let place = Place { stream: "s", sequence: 7, chain: "c", time: "t".to_owned() };
        let Ok(seal) = sealer.seal(&place) else { continue };
        assert_eq!((seal.sequence, seal.mac.len()), (7, 64));
        assert!(before.is_none_or(|before| before.epoch.checked_add(1) == Some(seal.epoch)));
        drop(sealer);
        let again = Sealer::open(&path).expect("a file that a seal was just made with");
        assert_eq!(again.pending(), Some(&seal), "a crash after the seal tells it again");
    }
}

/// What a slot holds behind its first word, with the right sum.
fn slot(content: &[u8]) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let (body, sum) = slot.split_last_chunk_mut::<32>().unwrap();
    let content = b"portreeve seal 1".iter().chain(content);
    body.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
    *sum = Sha256::digest(&*body).into();
    slot
}
