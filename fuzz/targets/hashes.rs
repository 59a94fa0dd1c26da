//! A list of hashes: no panic, a list that is taken can be written as sha256sum writes it and says the same, and a fault
//! names a line that is there, in words that no terminal obeys.

use portreeve::hash::parse_list;

use super::is_harmless;

pub fn run(data: &[u8]) {
    match parse_list(data) {
        Ok(list) => {
            let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let written: String =
                list.iter().map(|digest| format!("{}  /usr/bin/ssh\n", hex(digest))).collect();
            assert!(list.len() <= data.len() / 64);
            assert_eq!(parse_list(written.as_bytes()), Ok(list));
        }
        Err((line, word)) => {
            let text = data.split(|byte| *byte == b'\n').nth(line - 1).expect("a line that is there");
            assert!(!text.trim_ascii().is_empty() && is_harmless(&word), "{word:?}");
        }
    }
}
