//! The table of fields as a tree that a record is walked along, and the walk.
//! Knows what may stand where, not what it means. A member is looked for first where the last one leads to: the writer
//! keeps its order, so nearly every key is found by one comparison.

use std::net::IpAddr;
use std::ops::Range;

use super::fields::{ARRAY_OF_OBJECTS, FIELDS, Type};
use super::json::{Cursor, Flaw};
use super::moment;
use super::set::{COUNT, Set};
use super::token::{Token, words_of};

/// What is wrong with a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No field has this name; where the name stands.
    Unknown(Range<usize>),
    /// The value is of another type; where the value stands.
    Type(Range<usize>),
}

/// A process above the owner.
#[derive(Clone, Debug, Default)]
pub struct Ancestor {
    /// Where its pid stands.
    pub pid: Option<Range<usize>>,
    /// Where its start stands.
    pub start: Option<Range<usize>>,
    /// True if it has a name.
    pub is_named: bool,
}

/// What a walk has found; reused from line to line.
#[derive(Debug)]
pub struct Found {
    /// Where the values stand; only of fields that are present.
    spans: Vec<Range<usize>>,
    /// Which fields are present.
    pub present: Set,
    /// The first member that should not be as it is.
    pub fault: Option<Fault>,
    /// Of the owner's ancestors, the parent first.
    pub ancestry: Vec<Ancestor>,
    /// Members of a field that counts things: their names and counts.
    pub counts: Vec<(Range<usize>, Range<usize>)>,
    /// True if `chain` is the last member, `event` the last but one, and `sequence` its last.
    pub is_in_order: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            spans: vec![0..0; COUNT],
            present: Set::default(),
            fault: None,
            ancestry: Vec::new(),
            counts: Vec::new(),
            is_in_order: false,
        }
    }
}

impl Found {
    /// Where a field's value stands, without quotation marks.
    #[inline]
    pub fn span(&self, field: usize) -> Option<Range<usize>> {
        self.spans.get(field).filter(|_| self.present.has(field)).cloned()
    }

    fn clear(&mut self) {
        self.present = Set::default();
        self.fault = None;
        self.ancestry.clear();
        self.counts.clear();
        self.is_in_order = false;
    }
}

#[derive(Debug)]
struct Node {
    name: &'static str,
    /// `"name":`
    token: Token,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A field, by its place in the table.
    Field(usize, Type),
    /// An object of fields.
    Object(Vec<Node>),
    /// An array of such.
    Objects(Vec<Node>),
}

/// The tree.
#[derive(Debug)]
pub struct Schema {
    members: Vec<Node>,
    pid: usize,
    start: usize,
    name: usize,
}

impl Schema {
    /// From the table.
    pub fn new() -> Self {
        let mut members = Vec::new();
        for (index, field) in FIELDS.iter().enumerate() {
            insert(&mut members, "", field.path, Kind::Field(index, field.kind));
        }
        Self {
            members,
            pid: super::fields::index_of("portreeve.ancestry.pid"),
            start: super::fields::index_of("portreeve.ancestry.start"),
            name: super::fields::index_of("portreeve.ancestry.name"),
        }
    }

    /// Walks along one line.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn walk(&self, line: &[u8], found: &mut Found) -> Result<(), Flaw> {
        found.clear();
        let mut walk = Walk { schema: self, cursor: Cursor::new(line), found, last: [""; 2], event_last: "" };
        if walk.cursor.peek() != Some(b'{') {
            return walk.cursor.flaw();
        }
        walk.object(&self.members, 1)?;
        if walk.cursor.peek().is_some() {
            return walk.cursor.flaw();
        }
        let is_in_order = walk.last == ["event", "chain"] && walk.event_last == "sequence";
        walk.found.is_in_order = is_in_order;
        Ok(())
    }
}

fn insert(members: &mut Vec<Node>, above: &str, path: &'static str, kind: Kind) {
    let Some((name, rest)) = path.split_once('.') else {
        members.push(node(path, kind));
        return;
    };
    let whole = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    if !members.iter().any(|node| node.name == name) {
        let inside =
            if whole == ARRAY_OF_OBJECTS { Kind::Objects(Vec::new()) } else { Kind::Object(Vec::new()) };
        members.push(node(name, inside));
    }
    let place = members.iter_mut().find(|node| node.name == name);
    if let Some(Kind::Object(inside) | Kind::Objects(inside)) = place.map(|node| &mut node.kind) {
        insert(inside, &whole, rest, kind);
    }
}

fn node(name: &'static str, kind: Kind) -> Node {
    Node { name, token: Token::new(name), kind }
}

struct Walk<'a, 'b> {
    schema: &'b Schema,
    cursor: Cursor<'a>,
    found: &'b mut Found,
    /// The last two members of the record.
    last: [&'static str; 2],
    /// The last member of `event`.
    event_last: &'static str,
}

impl Walk<'_, '_> {
    fn object(&mut self, members: &[Node], depth: usize) -> Result<(), Flaw> {
        self.cursor.open(depth)?;
        let (mut seen, mut strange, mut next) = (0_u64, Vec::new(), 0);
        let mut more = !self.cursor.closes(b'}');
        while more {
            let start = self.cursor.at;
            match self.member(members, next, &mut strange)? {
                Some(index) => {
                    if seen >> index & 1 == 1 {
                        return Err(Flaw::Twice(start));
                    }
                    seen |= 1 << index;
                    next = index + 1;
                    if let Some(node) = members.get(index) {
                        self.value(node, depth)?;
                        self.note_order(node, depth);
                    }
                }
                None => {
                    self.cursor.skip(depth)?;
                    if depth == 1 {
                        self.last = [""; 2];
                    } else {
                        self.event_last = "";
                    }
                }
            }
            more = self.cursor.goes_on(b'}')?;
        }
        self.twice(strange)
    }

    fn note_order(&mut self, node: &Node, depth: usize) {
        match depth {
            1 => self.last = [self.last[1], node.name],
            // `event` is the last object of this depth.
            2 => self.event_last = node.name,
            _ => {}
        }
    }

    /// Takes a key; answers which member it names, if any.
    #[inline]
    fn member(
        &mut self,
        members: &[Node],
        next: usize,
        strange: &mut Vec<Range<usize>>,
    ) -> Result<Option<usize>, Flaw> {
        self.cursor.peek();
        let words = words_of(self.cursor.rest());
        let (before, from) = members.split_at_checked(next).unwrap_or((members, &[]));
        for (index, node) in (next..).zip(from).chain((0..).zip(before)) {
            if node.token.begins(&words) {
                self.cursor.at += node.token.length;
                return Ok(Some(index));
            }
        }
        let key = self.cursor.key()?;
        let name = self.cursor.line.get(key.clone()).unwrap_or_default();
        // With a blank before its colon it is none of the tokens above.
        let index = members.iter().position(|node| node.name.as_bytes() == name);
        if index.is_none() {
            self.found.fault.get_or_insert(Fault::Unknown(key.clone()));
            strange.push(key);
        }
        Ok(index)
    }

    /// That no strange name stands twice in one object.
    fn twice(&self, mut strange: Vec<Range<usize>>) -> Result<(), Flaw> {
        let text = |key: &Range<usize>| self.cursor.line.get(key.clone());
        strange.sort_unstable_by_key(text);
        let twice = strange.windows(2).find(|pair| pair.first().map(text) == pair.last().map(text));
        match twice.and_then(<[_]>::last) {
            Some(key) => Err(Flaw::Twice(key.start)),
            None => Ok(()),
        }
    }

    #[inline]
    fn value(&mut self, node: &Node, depth: usize) -> Result<(), Flaw> {
        let first = self.cursor.peek();
        match &node.kind {
            Kind::Field(field, kind) => self.field(*field, *kind, first, depth),
            Kind::Object(members) if first == Some(b'{') => self.object(members, depth + 1),
            Kind::Objects(members) if first == Some(b'[') => self.objects(members, depth),
            _ => self.wrong(depth),
        }
    }

    /// A value of another type than is meant here.
    #[cold]
    fn wrong(&mut self, depth: usize) -> Result<(), Flaw> {
        let value = self.cursor.skip(depth)?;
        self.found.fault.get_or_insert(Fault::Type(value));
        Ok(())
    }

    fn objects(&mut self, members: &[Node], depth: usize) -> Result<(), Flaw> {
        self.cursor.open(depth + 1)?;
        let mut more = !self.cursor.closes(b']');
        while more {
            if self.cursor.peek() == Some(b'{') {
                let others = self.found.present;
                let Schema { pid, start, name, .. } = *self.schema;
                for field in [pid, start, name] {
                    self.found.forget(field);
                }
                self.object(members, depth + 2)?;
                let found = &mut *self.found;
                let (pid, start) = (found.span(pid), found.span(start));
                let is_named = found.present.has(name);
                found.ancestry.push(Ancestor { pid, start, is_named });
                found.present.join(&others);
            } else {
                self.wrong(depth + 1)?;
            }
            more = self.cursor.goes_on(b']')?;
        }
        Ok(())
    }

    #[inline]
    fn field(&mut self, field: usize, kind: Type, first: Option<u8>, depth: usize) -> Result<(), Flaw> {
        let span = match (kind, first) {
            (Type::Text, Some(b'"')) => self.cursor.string()?,
            (Type::Time, Some(b'"')) => return self.checked(field, moment::is_time),
            (Type::Ip, Some(b'"')) => return self.checked(field, |text| address(text).is_some()),
            (Type::Integer | Type::Signed, Some(b'-' | b'0'..=b'9')) => {
                let span = self.cursor.number()?;
                let text = self.cursor.line.get(span.clone()).unwrap_or_default();
                let is_good = match kind {
                    Type::Signed => signed(text).is_some(),
                    _ => whole(text).is_some(),
                };
                if !is_good {
                    self.found.fault.get_or_insert(Fault::Type(span));
                    return Ok(());
                }
                span
            }
            (Type::Boolean, Some(b't' | b'f')) => self.cursor.skip(depth)?,
            (Type::Texts, Some(b'[')) => return self.items(field, b'"', depth),
            (Type::Integers, Some(b'[')) => return self.items(field, b'0', depth),
            (Type::Counts, Some(b'{')) => return self.counts(field, depth),
            _ => return self.wrong(depth),
        };
        self.found.put(field, span);
        Ok(())
    }

    /// A string that must be more than that.
    #[inline]
    fn checked(&mut self, field: usize, is_good: impl Fn(&[u8]) -> bool) -> Result<(), Flaw> {
        let span = self.cursor.string()?;
        if is_good(self.cursor.line.get(span.clone()).unwrap_or_default()) {
            self.found.put(field, span);
        } else {
            self.found.fault.get_or_insert(Fault::Type(span));
        }
        Ok(())
    }

    /// An array of strings or of whole numbers.
    fn items(&mut self, field: usize, of: u8, depth: usize) -> Result<(), Flaw> {
        let start = self.cursor.at;
        self.cursor.open(depth + 1)?;
        let mut more = !self.cursor.closes(b']');
        while more {
            match (of, self.cursor.peek()) {
                (b'"', Some(b'"')) => {
                    self.cursor.string()?;
                }
                (b'0', Some(b'0'..=b'9')) => {
                    let span = self.cursor.number()?;
                    if whole(self.cursor.line.get(span.clone()).unwrap_or_default()).is_none() {
                        self.found.fault.get_or_insert(Fault::Type(span));
                    }
                }
                _ => self.wrong(depth + 1)?,
            }
            more = self.cursor.goes_on(b']')?;
        }
        self.found.put(field, start..self.cursor.at);
        Ok(())
    }

    /// An object of counts.
    fn counts(&mut self, field: usize, depth: usize) -> Result<(), Flaw> {
        let start = self.cursor.at;
        self.cursor.open(depth + 1)?;
        let mut more = !self.cursor.closes(b'}');
        while more {
            let key = self.cursor.key()?;
            match self.cursor.peek() {
                Some(b'0'..=b'9') => {
                    let count = self.cursor.number()?;
                    self.found.counts.push((key, count));
                }
                _ => self.wrong(depth + 1)?,
            }
            more = self.cursor.goes_on(b'}')?;
        }
        self.found.put(field, start..self.cursor.at);
        self.twice(self.found.counts.iter().map(|(key, _)| key.clone()).collect())
    }
}

impl Found {
    #[inline]
    fn put(&mut self, field: usize, span: Range<usize>) {
        if let Some(place) = self.spans.get_mut(field) {
            *place = span;
            self.present.insert(field);
        }
    }

    fn forget(&mut self, field: usize) {
        self.present.remove(field);
    }
}

/// A whole number of at most 64 bits.
#[inline]
pub fn whole(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The same, or below 0.
pub fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(whole(digits)?),
        None => i64::try_from(whole(text)?).ok(),
    }
}

/// An address.
#[inline]
pub fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
