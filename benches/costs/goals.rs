//! What was to be reached, and what was: the last table of a run.

use crate::tables::Table;
use crate::watch::Who;

/// One line of it.
pub struct Goal {
    what: String,
    at_most: String,
    reached: bool,
    /// Figures of portreeve, the bare system calls and the peers, in the order of `COLUMNS`.
    cells: [String; COLUMNS.len()],
}

const COLUMNS: [(Who, &str); 7] = [
    (Who::Portreeve, "portreeve"),
    (Who::Floor, "bare calls"),
    (Who::SsP, "ss -p loop"),
    (Who::Tcpspy, "tcpspy"),
    (Who::Lsof, "lsof loop"),
    (Who::Tracer, "bpftrace"),
    (Who::Conntrack, "conntrack"),
];

impl Goal {
    pub fn new(what: impl Into<String>, at_most: &str, measured: String, reached: bool) -> Self {
        let goal = Self {
            what: what.into(),
            at_most: at_most.to_owned(),
            reached,
            cells: [const { String::new() }; COLUMNS.len()],
        };
        goal.beside(Who::Portreeve, measured)
    }

    /// What another got in the same place; the last one said counts.
    pub fn beside(mut self, who: Who, measured: String) -> Self {
        if let Some(column) = COLUMNS.iter().position(|(known, _)| *known == who) {
            self.cells[column] = measured;
        }
        self
    }
}

pub fn print(goals: Vec<Goal>, markdown: bool) {
    if goals.is_empty() {
        return;
    }
    let columns = COLUMNS.iter().map(|(_, name)| *name);
    let head = ["", "at most"].into_iter().chain(columns).chain(["reached"]).map(str::to_owned);
    let mut table = Table::new("What was to be reached", head);
    for Goal { what, at_most, reached, cells } in goals {
        let cells = cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell });
        let verdict = if reached { "yes" } else { "no" }.to_owned();
        table.row(&what, std::iter::once(at_most).chain(cells).chain([verdict]));
    }
    table.print(markdown);
}
