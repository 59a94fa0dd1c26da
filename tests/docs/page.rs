//! Manual pages as the tests read them: mdoc(7) with its escapes undone.

use std::collections::BTreeMap;

/// A page's source, readable.
pub struct Page {
    pub text: String,
}

/// A file of the project.
pub fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Page {
    pub fn open(name: &str) -> Self {
        let mut text = read(&format!("docs/man/{name}"));
        for (escape, meaning) in
            [("\\-", "-"), ("\\&", ""), ("\\(dq", "\""), ("\\(aq", "'"), ("\\(ha", "^"), ("\\e", "\\")]
        {
            text = text.replace(escape, meaning);
        }
        Self { text }
    }

    /// A section or subsection, to the next of its kind.
    pub fn part(&self, name: &str) -> &str {
        let (level, start) = ["\n.Sh ", "\n.Ss "]
            .into_iter()
            .find_map(|level| self.text.find(&format!("{level}{name}\n")).map(|at| (level, at)))
            .unwrap_or_else(|| panic!("no section {name}"));
        let body = &self.text[start + 1..];
        let ends = [body.find("\n.Sh "), body.find("\n.Ss ").filter(|_| level == "\n.Ss ")];
        &body[..ends.into_iter().flatten().min().unwrap_or(body.len())]
    }

    /// What `.It MACRO NAME Pq TYPE` lists, with the type.
    pub fn items(&self, mac: &str) -> BTreeMap<String, String> {
        items_of(&self.text, mac)
    }

    /// What is said of one field, lists within included.
    pub fn item(&self, field: &str) -> &str {
        let head = format!("\n.It Va {field} ");
        let start = self.text.find(&head).unwrap_or_else(|| panic!("no item {field}")) + head.len();
        let body = &self.text[start..];
        &body[..body.find("\n.It Va ").unwrap_or(body.len())]
    }

    /// All words that a macro marks.
    pub fn words(&self, mac: &str) -> Vec<String> {
        words_of(&self.text, mac)
    }
}

pub fn items_of(text: &str, mac: &str) -> BTreeMap<String, String> {
    let head = format!(".It {mac} ");
    let items = text.lines().filter_map(|line| line.strip_prefix(head.as_str()));
    let parted = items.map(|item| item.split_once(" Pq ").unwrap_or((item, "")));
    parted.map(|(names, kind)| (names.replace(" , ", ", "), kind.to_owned())).collect()
}

pub fn words_of(text: &str, mac: &str) -> Vec<String> {
    let macros = ["Va", "Li", "Pq", "No", "Ns", "Ar", "It", "Fl", "Cm", "Pa", "Ev", "Ta"];
    let mut words = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('.')) {
        let mut current = "";
        for word in line.split(' ') {
            if macros.contains(&word) {
                current = word;
            } else if current == mac && word.len() > 1 {
                words.push(word.to_owned());
            }
        }
    }
    words
}
