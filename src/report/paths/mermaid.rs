//! Ways as a flowchart for Mermaid.
//! In a label only letters, digits and a few marks stand for themselves; all else is its number.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::join::Forest;
use super::{Edge, Look, graph};
use crate::text::Style;

/// # Errors
/// What the output says.
pub(crate) fn begin(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"flowchart LR\n")
}

/// Writes one way as a subgraph.
///
/// # Errors
/// What the output says.
pub(crate) fn write(
    forest: &Forest<'_>,
    root: usize,
    number: u64,
    style: &Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    let graph = graph(forest, root, style);
    writeln!(out, "  subgraph w{number}[{}]", label(&[graph.title]))?;
    for (place, node) in graph.nodes.iter().enumerate() {
        let (open, close) = if node.is_host { ('[', ']') } else { ('(', ')') };
        writeln!(out, "    w{number}n{place}{open}{}{close}", label(&node.lines))?;
    }
    for Edge { from, to, lines, look } in &graph.edges {
        let arrow = match look {
            Look::Unproved => "-.->",
            Look::Failed => "--x",
            Look::Plain => "-->",
        };
        writeln!(out, "    w{number}n{from} {arrow}|{}| w{number}n{to}", label(lines))?;
    }
    writeln!(out, "  end")
}

/// Lines as a quoted label.
fn label(lines: &[String]) -> String {
    let mut text = String::from("\"");
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            text.push_str("<br/>");
        }
        for c in line.chars() {
            match c {
                ' ' | ',' | '.' | ':' | '/' | '@' | '-' | '_' => text.push(c),
                c if c.is_ascii_alphanumeric() => text.push(c),
                c => {
                    let _ = write!(text, "#{};", u32::from(c));
                }
            }
        }
    }
    text.push('"');
    text
}
