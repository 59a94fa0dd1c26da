//! What is found: told at once, or held back until it is known whether a gap excuses it.
//! Knows no rule; counts each. At most a hundred of one rule are told, all are counted.

use super::rules::RULES;

/// As many of one rule are told.
const MOST_TOLD: u64 = 100;
/// As many are held back; what comes beyond is told.
const MOST_HELD: usize = 4_096;

/// A violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// 1 for V1.
    pub rule: u8,
    /// Which file, in the order of reading.
    pub file: usize,
    /// Which line, from 1; 0: no line.
    pub line: u64,
    /// `event.sequence`, where the line has one.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub text: String,
}

/// A line.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    file: usize,
    line: u64,
    sequence: Option<u64>,
}

/// What may excuse a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// Records were lost.
    Loss,
    /// Records were lost, or nothing was seen.
    Blind,
    /// The run was cut off while it wrote.
    Crash,
}

#[derive(Debug)]
struct Held {
    finding: Finding,
    excuse: Excuse,
    from: i64,
    to: i64,
}

/// All of them.
pub struct Findings<'a> {
    tell: &'a mut dyn FnMut(&Finding),
    counts: [u64; RULES.len()],
    held: Vec<Held>,
    /// The line that is looked at.
    pub file: usize,
    /// Its number.
    pub line: u64,
    /// Its sequence.
    pub sequence: Option<u64>,
}

impl<'a> Findings<'a> {
    /// `tell` is given each as it is found.
    pub fn new(tell: &'a mut dyn FnMut(&Finding)) -> Self {
        Self { tell, counts: [0; RULES.len()], held: Vec::new(), file: 0, line: 0, sequence: None }
    }

    fn here(&self, rule: u8, text: String) -> Finding {
        Finding { rule, file: self.file, line: self.line, sequence: self.sequence, text }
    }

    /// The line that is looked at breaks a rule.
    #[cold]
    pub fn add(&mut self, rule: u8, text: String) {
        let finding = self.here(rule, text);
        self.emit(&finding);
    }

    /// The line that is looked at.
    pub fn place(&self) -> Place {
        Place { file: self.file, line: self.line, sequence: self.sequence }
    }

    /// A line that was looked at before breaks a rule.
    #[cold]
    pub fn add_at(&mut self, place: Place, rule: u8, text: String) {
        let Place { file, line, sequence } = place;
        self.emit(&Finding { rule, file, line, sequence, text });
    }

    /// The line that is looked at breaks a rule, unless a gap that is still to come covers part of this time.
    #[cold]
    pub fn hold(&mut self, rule: u8, text: String, excuse: Excuse, from: i64, to: i64) {
        let finding = self.here(rule, text);
        if self.held.len() < MOST_HELD {
            self.held.push(Held { finding, excuse, from, to });
        } else {
            self.emit(&finding);
        }
    }

    /// A gap tells what was held back for it.
    pub fn excuse(&mut self, excuse: Excuse, from: i64, to: i64) {
        let is_covered = |held: &Held| {
            let may = match held.excuse {
                Excuse::Loss => excuse == Excuse::Loss,
                Excuse::Blind => excuse != Excuse::Crash,
                Excuse::Crash => excuse == Excuse::Crash,
            };
            may && held.from <= to && from <= held.to
        };
        self.held.retain(|held| !is_covered(held));
    }

    /// No gap will come for what is held back.
    pub fn settle(&mut self) {
        for held in std::mem::take(&mut self.held) {
            self.emit(&held.finding);
        }
    }

    fn emit(&mut self, finding: &Finding) {
        let Some(count) = self.counts.get_mut(usize::from(finding.rule).saturating_sub(1)) else { return };
        *count += 1;
        if *count <= MOST_TOLD {
            (self.tell)(finding);
        }
    }

    /// How often each rule was broken.
    pub fn counts(&self) -> [u64; RULES.len()] {
        self.counts
    }
}
