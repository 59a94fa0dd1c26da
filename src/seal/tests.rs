use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const CHAIN: &str = "aa11bb22cc33dd44ee55ff6600778899aa11bb22cc33dd44ee55ff6600778899";

fn place(sequence: u64) -> Place<'static> {
    Place { stream: "0197-stream", sequence, chain: CHAIN, time: "2026-11-20T13:42:50.123456Z".to_owned() }
}

/// A folder with a key file, and the secret.
fn key_file() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    let secret = init(&path).unwrap();
    (dir, path, secret.to_string())
}

/// RFC 2104 by the letter, over nothing but SHA-256.
fn raw_hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = key.to_vec();
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([&pad(0x36), text].concat());
    Sha256::digest([&pad(0x5c), &inner[..]].concat()).to_vec()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The keys of the first epochs.
fn keys(secret: &str, count: usize) -> Vec<Vec<u8>> {
    let next = |key: &Vec<u8>| Some(raw_hmac(key, b"portreeve seal next"));
    std::iter::successors(Some(bytes_of(secret)), next).take(count).collect()
}

fn mac(seal: &Seal, key: &[u8]) -> String {
    let Seal { epoch, key: _, stream, sequence, chain, time, mac: _ } = seal;
    let text = format!("portreeve seal 1\n{stream}\n{epoch}\n{sequence}\n{chain}\n{time}\n");
    hex(&raw_hmac(key, text.as_bytes()))
}

/// Any eight bytes of a key are enough to know that it is there.
fn holds(file: &[u8], key: &[u8]) -> bool {
    key.windows(8).any(|part| file.windows(8).any(|there| there == part))
}

#[test]
fn the_formulas_are_those_of_the_manual() {
    assert_eq!(
        hex(&raw_hmac(b"Jefe", b"what do ya want for nothing?")),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "RFC 4231, case 2: the judge is right"
    );
    let (_dir, path, secret) = key_file();
    assert_eq!((secret.len(), secret.to_lowercase()), (64, secret.clone()));
    let mut sealer = Sealer::open(&path).unwrap();
    assert_eq!(sealer.pending(), None);
    for (epoch, key) in keys(&secret, 5).iter().enumerate() {
        let seal = sealer.seal(&place(epoch as u64 * 10)).unwrap();
        assert_eq!((seal.epoch, seal.sequence), (epoch as u64, epoch as u64 * 10));
        assert_eq!(seal.key, hex(&raw_hmac(&bytes_of(&secret), b"portreeve seal key id"))[..8]);
        assert_eq!(seal.mac, mac(&seal, key));
        assert_eq!(sealer.pending(), Some(&seal));
    }
}

#[test]
fn known_keys_make_known_seals() {
    // By Python's hmac, from the key of 32 bytes 00, 01, …, 1f.
    let first = Key(Zeroizing::new(std::array::from_fn(|at| u8::try_from(at).unwrap())));
    assert_eq!(name(&first), "0ba1a4c5");
    let second = Key(hmac(&first, b"portreeve seal next"));
    assert_eq!(hex(&*second.0), "937ae431a28fa7747133b1ba134b35f88879d6ad12be85de4e61b07268f132ef");
    assert_eq!(
        seal(1, &second, "0ba1a4c5", &place(17)).unwrap().mac,
        "1653e5ef1dc149a88004ae05720cec837ae3d5363569c64e5b563b0ef248896a"
    );
}

#[test]
fn epochs_go_on_over_restarts_and_used_keys_are_nowhere() {
    let (_dir, path, secret) = key_file();
    let keys = keys(&secret, 8);
    let mut last = None;
    for (epoch, used) in keys.iter().enumerate().take(7) {
        assert!(holds(&fs::read(&path).unwrap(), used), "the key of this epoch is there: the search works");
        let mut sealer = Sealer::open(&path).unwrap();
        assert_eq!(sealer.pending(), last.as_ref());
        let seal = sealer.seal(&place(1)).unwrap();
        assert_eq!(seal.epoch, epoch as u64);
        last = Some(seal);
        let file = fs::read(&path).unwrap();
        for (of, key) in keys.iter().enumerate() {
            assert_eq!(holds(&file, key), of == epoch + 1, "the key of epoch {of} after the seal of {epoch}");
        }
        assert_eq!(file.len(), 2 * SLOT, "overwritten in place");
    }
}

/// The file before a seal, with the next slot written, and at the end.
fn steps(path: &Path) -> ([Vec<u8>; 3], Seal) {
    let before = fs::read(path).unwrap();
    let mut sealer = Sealer::open(path).unwrap();
    let (to, from) = (1 - sealer.keys.slot, sealer.keys.slot);
    let seal = sealer.seal(&place(7)).unwrap();
    let after = fs::read(path).unwrap();
    let mut between = after.clone();
    between[from * SLOT..][..SLOT].copy_from_slice(&before[from * SLOT..][..SLOT]);
    assert_eq!(before[to * SLOT..][..SLOT], EMPTY);
    ([before, between, after], seal)
}

/// Every file that a cut of the power can leave between two: any of the sectors of `old` may be those of `new`.
fn torn(old: &[u8], new: &[u8]) -> Vec<Vec<u8>> {
    let changed: Vec<usize> =
        (0..2 * SLOT).step_by(512).filter(|at| old[*at..at + 512] != new[*at..at + 512]).collect();
    assert!((1..=8).contains(&changed.len()), "one slot is written at a time");
    let mix = |which: u32| {
        let mut file = old.to_vec();
        for (_, at) in changed.iter().enumerate().filter(|(bit, _)| which & 1 << bit != 0) {
            file[*at..at + 512].copy_from_slice(&new[*at..at + 512]);
        }
        file
    };
    (0..1 << changed.len()).map(mix).collect()
}

#[test]
fn a_crash_anywhere_leaves_the_seal_unmade_or_to_be_told_again() {
    let (dir, path, secret) = key_file();
    let keys = keys(&secret, 6);
    let mut before = None;
    // From the first slot to the second, and back; with sectors that were never written, too.
    for epoch in 0..3_u64 {
        let ([old, between, new], sealed) = steps(&path);
        let crashes = [torn(&old, &between), torn(&between, &new)];
        for (step, file) in
            crashes.iter().enumerate().flat_map(|(step, all)| all.iter().map(move |f| (step, f)))
        {
            let copy = dir.path().join("copy");
            fs::write(&copy, file).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
            let mut sealer = Sealer::open(&copy).unwrap();
            let made = sealer.pending() == Some(&sealed);
            assert!(made || sealer.pending() == before.as_ref(), "neither the old nor the new");
            assert!(made || step == 0, "once the used key is touched, the seal is on disk");
            let current = usize::try_from(epoch).unwrap() + usize::from(made);
            let file = fs::read(&copy).unwrap();
            for (of, key) in keys.iter().enumerate() {
                assert_eq!(holds(&file, key), of == current, "used or torn keys are gone once it is open");
            }
            let next = sealer.seal(&place(99)).unwrap();
            assert_eq!(next.epoch, epoch + u64::from(made));
            assert_eq!(next.mac, mac(&next, &keys[current]));
        }
        before = Some(sealed);
    }
}

#[test]
fn a_disk_that_fails_at_any_write_delays_the_seal_and_makes_no_second() {
    // Refused, torn in the middle, and written though the disk said no.
    for (fails_at, reach) in (0..2).flat_map(|at| [0, 1_000, SLOT].map(|reach| (at, reach))) {
        let (_dir, path, secret) = key_file();
        let mut sealer = Sealer::open(&path).unwrap();
        let write_to = |sealer: &mut Sealer, sequence, failing: Option<usize>| {
            let Sealer { file, keys } = sealer;
            let mut call = 0;
            keys.seal(&place(sequence), &mut |slot, bytes| {
                call += 1;
                if failing == Some(call - 1) {
                    file.write_all_at(&bytes[..reach], (slot * SLOT) as u64)?;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                write(file, slot, bytes)
            })
        };
        assert!(write_to(&mut sealer, 5, Some(fails_at)).is_err());
        let on_disk = fs::read(&path).unwrap();
        assert!(write_to(&mut sealer, 6, Some(fails_at)).is_err());
        let seal = write_to(&mut sealer, 7, None).unwrap();
        assert_eq!((seal.epoch, seal.sequence), (0, 5), "the one that was begun");
        assert_eq!(write_to(&mut sealer, 8, None).unwrap().epoch, 1);
        assert!(!holds(&fs::read(&path).unwrap(), &bytes_of(&secret)));

        // Killed after the error instead.
        drop(sealer);
        fs::write(&path, on_disk).unwrap();
        let mut sealer = Sealer::open(&path).unwrap();
        let told = sealer.pending().cloned();
        assert!(told.is_none() || told == Some(seal), "the seal of an epoch is the same, whoever tells it");
        assert_eq!(sealer.seal(&place(9)).unwrap().epoch, u64::from(told.is_some()));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_costs_no_epoch() {
    let (_dir, path, _) = key_file();
    let mut sealer = Sealer::open(&path).unwrap();
    let long = "x".repeat(SLOT);
    for stream in ["two\nlines", long.as_str()] {
        let error = sealer.seal(&Place { stream, ..place(1) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let seal = sealer.seal(&place(2)).unwrap();
    assert_eq!((seal.epoch, seal.sequence), (0, 2));
}

#[test]
fn only_a_key_file_of_ones_own_is_used_and_the_error_says_what_helps() {
    let (dir, path, _) = key_file();
    let at = |name: &str| dir.path().join(name);
    let copy = |name: &str, mode| {
        fs::copy(&path, at(name)).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    symlink(&path, at("link")).unwrap();
    copy("group", 0o640);
    copy("others", 0o604);
    copy("two", 0o600);
    fs::hard_link(at("two"), at("names")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .unwrap();
    copy("zeros", 0o600);
    fs::write(at("zeros"), EMPTY).unwrap();
    copy("empty", 0o600);
    fs::write(at("empty"), "").unwrap();
    for (name, why, mend) in [
        ("missing", "there is none", "portreeve seal init"),
        ("link", "symbolic link", "name the file itself"),
        ("group", "mode 0640", "chmod 600"),
        ("others", "mode 0604", "chmod 600"),
        ("names", "hard link", "-inum"),
        ("fifo", "no ordinary file", "seal init"),
        ("zeros", "no key can be read", "seal init"),
        ("empty", "no key can be read", "seal init"),
    ] {
        let error = Sealer::open(&at(name)).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(mend), "{name}: {error}");
        assert!(error.contains(at(name).to_str().unwrap()), "{error}");
    }
    if rustix::process::geteuid().is_root() {
        copy("other", 0o600);
        std::os::unix::fs::chown(at("other"), Some(65_534), None).unwrap();
        let error = Sealer::open(&at("other")).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 65534") && error.contains("chown 0"), "{error}");
    }
    let first = Sealer::open(&path).unwrap();
    let error = Sealer::open(&path).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    // As a process has it that another thread is about to start.
    let _copy = first.file.try_clone().unwrap();
    drop(first);
    Sealer::open(&path).unwrap();
}

#[test]
fn a_new_key_file_is_for_its_owner_alone_and_overwrites_nothing() {
    let (dir, path, secret) = key_file();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let before = fs::read(&path).unwrap();
    let error = init(&path).unwrap_err().to_string();
    assert!(error.contains("no key is overwritten"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    symlink("nowhere", dir.path().join("link")).unwrap();
    assert!(init(&dir.path().join("link")).is_err());
    assert!(!dir.path().join("nowhere").exists());
    assert!(init(&dir.path().join("no/folder")).is_err());
    assert_ne!(*init(&dir.path().join("second")).unwrap(), secret);
    let sealer = Sealer::open(&path).unwrap();
    assert!(
        !format!("{sealer:?}").contains(&format!("{:?}", &bytes_of(&secret)[..4])),
        "keys are not printed"
    );
}
