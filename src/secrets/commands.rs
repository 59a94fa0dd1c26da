//! Secrets that a command line takes by position: the value of an option, an operand.
//!
//! Reads an argument list word by word and remembers which program's options it is among. What a program takes is
//! in `rules`; this only knows how options are written.

use super::rules::{Program, Value};
use super::shapes::{self, Reading};
use super::{Marks, Masker, quoting};

/// Reads the arguments of one process, in order.
pub(super) struct Reader<'a> {
    masker: &'a Masker,
    place: Place,
}

/// Where in a command the reader stands.
#[derive(Clone, Copy, Default)]
struct Place {
    /// The program whose rules hold.
    program: Option<&'static Program>,
    /// Its sub-command has come, if it wants one.
    begun: bool,
    /// Operands read.
    operands: u8,
    /// What its operands are.
    kind: Option<Value>,
    next: Next,
}

/// What the next word is.
#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Unknown,
    /// The value of an option that takes no secret.
    Plain,
    /// The value of an option of a known program.
    Known(Value),
    /// The value of an option with a secret's name, if the option takes one.
    Guessed,
}

impl<'a> Reader<'a> {
    /// A reader for the process whose first argument is `name`.
    pub(super) fn new(masker: &'a Masker, name: &[u8]) -> Reader<'a> {
        // A login shell calls itself "-bash".
        let program = name.strip_prefix(b"-").and_then(|name| masker.program(name));
        Reader { masker, place: program.map(Place::of).unwrap_or_default() }
    }

    /// Marks the secrets of the next argument.
    pub(super) fn read(&mut self, arg: &[u8], marks: &mut Marks) {
        let spaced = quoting::has_space(arg);
        let script = self.expects_script(arg);
        let reading = if script { Reading::Script } else { Reading::Argument };
        shapes::find(arg, reading, &self.masker.names, marks);
        if script && spaced {
            self.place.next = Next::Unknown;
        } else {
            self.word(arg, marks);
        }
        if spaced {
            self.text(arg, marks);
        }
    }

    fn expects_script(&self, arg: &[u8]) -> bool {
        match self.place.next {
            Next::Known(value) => value == Value::Script,
            Next::Unknown => {
                self.place.kind == Some(Value::Host) && self.place.operands > 0 && !arg.starts_with(b"-")
            }
            Next::Plain | Next::Guessed => false,
        }
    }

    /// Reads the words of shell text, or of what may be such.
    fn text(&mut self, text: &[u8], marks: &mut Marks) {
        let outer = std::mem::take(&mut self.place);
        for word in quoting::words(text) {
            if quoting::is_separation(word) {
                self.place = Place::default();
                continue;
            }
            self.word(quoting::unwrap(word), marks);
            // Each level has quotes of its own, and there are ten kinds of them, so this ends.
            let mut rest = word;
            while let Some((inside, after)) = quoting::next_quoted(rest) {
                if quoting::has_space(inside) {
                    self.text(inside, marks);
                }
                rest = after;
            }
        }
        self.place = outer;
    }

    fn word(&mut self, word: &[u8], marks: &mut Marks) {
        match std::mem::take(&mut self.place.next) {
            Next::Plain => return,
            Next::Known(value) => return mark(value, word, marks),
            Next::Guessed if !looks_like_option(word) => return marks.add(word),
            Next::Guessed | Next::Unknown => {}
        }
        if quoting::is_separation(word) {
            self.place = Place::default();
        } else if word.starts_with(b"-") && !self.place.in_last_operands() {
            self.option(word, marks);
        } else if !self.keyword(word, marks) {
            self.operand(word, marks);
        }
    }

    fn option(&mut self, word: &[u8], marks: &mut Marks) {
        if self.keyword(word, marks) || self.bundle(word, marks) {
            return;
        }
        for option in self.masker.options.iter().map(String::as_bytes) {
            match word.strip_prefix(option) {
                Some([]) => self.place.next = Next::Known(Value::Whole),
                Some(joined) if option.len() == 2 => return marks.add(joined),
                _ => {}
            }
        }
        if shapes::takes_secret(word, &self.masker.names) {
            self.place.next = Next::Guessed;
        }
        // `--rsh=sshpass -p …`
        if word.contains(&b'=')
            && let Some(program) = self.find_program(word, marks)
        {
            self.place = Place::of(program);
        }
    }

    /// Handles a word that stands in the rules as it is: `-pw`, `--user=…`, `/p:…`, `password`.
    fn keyword(&mut self, word: &[u8], marks: &mut Marks) -> bool {
        for (option, value) in self.place.rules() {
            let Some(rest) = word.strip_prefix(option.as_bytes()) else { continue };
            match (rest, value) {
                (_, Value::Rest) => marks.add(rest),
                ([], _) => self.expect(value),
                ([b'=', joined @ ..], _) if option.len() > 2 => mark(value, joined, marks),
                _ => continue,
            }
            return true;
        }
        false
    }

    /// Handles short options as `getopt` bundles them: `-sku user:password`, `-psecret`, `-nb`.
    fn bundle(&mut self, word: &[u8], marks: &mut Marks) -> bool {
        let Some(program) = self.place.active().filter(|program| !program.takes.is_empty()) else {
            return false;
        };
        let mut letters = word.strip_prefix(b"-").unwrap_or_default();
        while let Some((letter, joined)) =
            letters.split_first().filter(|(letter, _)| letter.is_ascii_alphanumeric())
        {
            let mut rules = self.place.rules();
            match rules.find(|(option, _)| option.as_bytes() == [b'-', *letter]) {
                Some((_, flag @ Value::Beyond(_))) => self.expect(flag),
                Some((_, value)) => {
                    if joined.is_empty() {
                        self.expect(value);
                    } else {
                        mark(value, joined, marks);
                    }
                    return true;
                }
                None if program.takes.as_bytes().contains(letter) => {
                    if joined.is_empty() {
                        self.place.next = Next::Plain;
                    }
                    return true;
                }
                None => {}
            }
            letters = joined;
        }
        false
    }

    /// Prepares for what follows an option that has come.
    fn expect(&mut self, value: Value) {
        match (value, self.place.kind) {
            (Value::Joined, _) => {}
            (Value::Beyond(new), Some(Value::Beyond(old))) => {
                self.place.kind = Some(Value::Beyond(new.min(old)))
            }
            (Value::Beyond(_), _) => self.place.kind = Some(value),
            _ => self.place.next = Next::Known(value),
        }
    }

    fn operand(&mut self, word: &[u8], marks: &mut Marks) {
        let before = self.place.operands;
        self.place.operands = before.saturating_add(1);
        match self.place.kind {
            // A host may be called "mysql".
            Some(Value::Host) if before == 0 => return,
            Some(Value::Plain) => return,
            Some(Value::Beyond(few)) if self.place.begun && before >= few => return marks.add(word),
            Some(Value::Beyond(_)) if self.place.begun => return,
            _ => {}
        }
        if let Some(program) = self.find_program(word, marks) {
            self.place = Place::of(program);
        } else if self.place.kind == Some(Value::Command) {
            self.place = Place::default();
        } else if self.place.program.is_some_and(|program| program.after.as_bytes() == word) {
            (self.place.begun, self.place.operands) = (true, 0);
        }
    }

    /// The program that `word` names: `mysql`, `/usr/bin/mysql`, `ProxyCommand=sshpass`, `$(curl`, `plink.exe`.
    fn find_program(&self, word: &[u8], marks: &Marks) -> Option<&'static Program> {
        let mut parts = word.rsplit(|byte| matches!(byte, b'/' | b'=' | b'(' | b'`' | b'"' | b'\'' | b'\\'));
        let name = parts.next()?;
        let program = self.masker.program(name.strip_suffix(b".exe").unwrap_or(name));
        // A password may be called "mysql" too.
        program.filter(|_| !marks.cover(name))
    }
}

impl Place {
    /// Just behind a program's name.
    fn of(program: &'static Program) -> Place {
        let begun = program.after.is_empty();
        Place { program: Some(program), begun, kind: program.operands(), ..Place::default() }
    }

    /// The program whose options the next words may be.
    fn active(&self) -> Option<&'static Program> {
        // Behind `ssh host command`, options are the command's.
        let over = self.kind == Some(Value::Host) && self.operands > 1;
        self.program.filter(|_| self.begun && !over)
    }

    /// Whether even a word that begins with a dash is an operand: `htpasswd -b file alice -pw-`.
    fn in_last_operands(&self) -> bool {
        matches!(self.kind, Some(Value::Beyond(_))) && self.begun && self.operands > 0
    }

    /// The options to look for here and what follows them.
    fn rules(&self) -> impl Iterator<Item = (&'static str, Value)> + use<> {
        let rules = self.active().map_or(&[][..], |program| program.rules);
        let rules =
            rules.iter().flat_map(|(options, value)| options.split(' ').map(|option| (option, *value)));
        rules.filter(|(option, _)| !option.is_empty())
    }
}

/// Marks the secret part of a value.
fn mark(value: Value, text: &[u8], marks: &mut Marks) {
    match value {
        Value::Whole | Value::Joined | Value::Rest => marks.add(text),
        Value::After(start) => {
            let at = text.windows(start.len()).position(|part| part == start.as_bytes());
            marks.add(at.and_then(|at| text.get(at + start.len()..)).unwrap_or_default());
        }
        Value::Login => marks.add(shapes::split_password(text).map_or(&[], |(password, _)| password)),
        Value::Script | Value::Command | Value::Host | Value::Plain | Value::Beyond(_) => {}
    }
}

/// Whether `word` is written like an option. A password that begins with a dash seldom is, and what takes no value
/// must not eat `-v` or `--verbose`.
fn looks_like_option(word: &[u8]) -> bool {
    match word {
        [b'-'] | [b'-', _] => true,
        [b'-', b'-', first, ..] => {
            let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
            first.is_ascii_lowercase() && name.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'-')
        }
        _ => false,
    }
}
