//! getopt(3) as OpenSSH brings it along: it stops at the first argument that is no option.
//!
//! Knows letters and values, not what they mean. Source: openbsd-compat/getopt_long.c.

/// Reads options from the front of a list of arguments.
pub(super) struct Getopt<'a> {
    args: &'a [Vec<u8>],
    /// Letters that take a value.
    valued: &'static [u8],
    /// Arguments that were read whole.
    at: usize,
    /// Letters of the argument at `at` that are to come.
    letters: &'a [u8],
}

/// An option: its letter, and its value if it takes one.
pub(super) type Flag<'a> = (u8, Option<&'a [u8]>);

impl<'a> Getopt<'a> {
    /// `args` begins behind the program's name, `valued` lists the letters that take a value.
    pub(super) fn new(args: &'a [Vec<u8>], valued: &'static [u8]) -> Self {
        Self { args, valued, at: 0, letters: &[] }
    }

    /// What is left when the options have ended, and whether `--` ended them. As ssh.c asks it, an option's value of that
    /// form does so too.
    pub(super) fn rest(&self) -> (&'a [Vec<u8>], bool) {
        let last = self.at.checked_sub(1).and_then(|at| self.args.get(at));
        (self.args.get(self.at..).unwrap_or_default(), last.is_some_and(|arg| arg == b"--"))
    }

    /// The value of an option whose letter was just read. `None`: it is missing.
    fn value(&mut self) -> Option<&'a [u8]> {
        let joined = std::mem::take(&mut self.letters);
        self.at += 1;
        if !joined.is_empty() {
            return Some(joined);
        }
        let value = self.args.get(self.at)?;
        self.at += 1;
        Some(value)
    }
}

impl<'a> Iterator for Getopt<'a> {
    type Item = Flag<'a>;

    fn next(&mut self) -> Option<Flag<'a>> {
        if self.letters.is_empty() {
            match self.args.get(self.at)?.as_slice() {
                b"--" => {
                    self.at += 1;
                    return None;
                }
                [b'-', letters @ ..] if !letters.is_empty() => self.letters = letters,
                _ => return None,
            }
        }
        let (letter, others) = self.letters.split_first()?;
        self.letters = others;
        if self.valued.contains(letter) {
            return self.value().map(|value| (*letter, Some(value)));
        }
        if others.is_empty() {
            self.at += 1;
        }
        Some((*letter, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Vec<(char, String)>, String, bool) {
        let args: Vec<_> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let mut options = Getopt::new(&args, b"lpL");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let flags =
            options.by_ref().map(|(letter, value)| (char::from(letter), text(value.unwrap_or_default())));
        let flags = flags.collect();
        let (rest, ended) = options.rest();
        (flags, text(&rest.join(&b' ')), ended)
    }

    #[test]
    fn letters_stand_together_and_a_value_is_the_rest_or_the_next_argument() {
        let flag = |letter, value: &str| (letter, value.to_owned());
        let all =
            vec![flag('N', ""), flag('f', ""), flag('L', "8080:x:80"), flag('l', "-x"), flag('p', "22")];
        assert_eq!(read("-NfL8080:x:80 -l -x -p22 host -v"), (all, "host -v".into(), false));
        assert_eq!(read("-v -- -v"), (vec![flag('v', "")], "-v".into(), true));
        assert_eq!(read("- -v"), (vec![], "- -v".into(), false));
        assert_eq!(read("-l -- host"), (vec![flag('l', "--")], "host".into(), true));
        assert_eq!(read("-vp"), (vec![flag('v', "")], String::new(), false));
    }
}
