//! Texts cut to a length in JSON: the last resort of a record that would be too long.
//!
//! Knows no field: whatever a record comes to hold, its texts are bounded here.

use serde_json::{Map, Value};

/// Bytes of JSON that a text may take ...
const TEXT: usize = 512;
/// ... and one in a list, of which there may be many.
const IN_LIST: usize = 64;

/// Cuts every text of more bytes; one that was cut ends in `…`. True if there was one.
pub(super) fn shorten(fields: &mut Map<String, Value>) -> bool {
    fields.values_mut().fold(false, |cut, value| shorten_value(value, TEXT) | cut)
}

fn shorten_value(value: &mut Value, most: usize) -> bool {
    match value {
        Value::String(text) => shorten_text(text, most),
        Value::Array(items) => items.iter_mut().fold(false, |cut, item| shorten_value(item, IN_LIST) | cut),
        Value::Object(members) => {
            members.values_mut().fold(false, |cut, member| shorten_value(member, most) | cut)
        }
        _ => false,
    }
}

fn shorten_text(text: &mut String, most: usize) -> bool {
    let mut length = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        length += cost(c);
        (length > most).then_some(at)
    });
    if let Some(end) = end {
        text.truncate(end);
        text.push('…');
    }
    end.is_some()
}

/// Bytes of a character in our JSON.
fn cost(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        _ => 6 * c.len_utf16(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_texts_are_cut_by_what_they_take_as_json_and_short_ones_stay() {
        let whole = json!({ "a": "x".repeat(512), "b": ["y".repeat(64), 7, { "c": "" }] });
        let mut fields = whole.as_object().unwrap().clone();
        assert!(!shorten(&mut fields));
        assert_eq!(Value::from(fields), whole);
        let long = json!({ "a": "\u{1}".repeat(512), "b": [{ "c": "😀".repeat(64) }], "d": { "e": "\\".repeat(257) } });
        let mut fields = long.as_object().unwrap().clone();
        assert!(shorten(&mut fields));
        let cut = json!({
            "a": "\u{1}".repeat(85) + "…",
            "b": [{ "c": "😀".repeat(5) + "…" }],
            "d": { "e": "\\".repeat(256) + "…" },
        });
        assert_eq!(Value::from(fields), cut);
    }
}
