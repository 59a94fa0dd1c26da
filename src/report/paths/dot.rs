//! Ways as a graph for Graphviz.
//! Labels are quoted strings: quotes, backslashes and ampersands cannot end or change them.

use std::io::{self, Write};

use super::join::Forest;
use super::{Edge, Look, graph};
use crate::text::Style;

/// # Errors
/// What the output says.
pub(crate) fn begin(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(
        b"digraph portreeve {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n  \
          edge [fontname=\"sans-serif\", fontsize=10];\n",
    )
}

/// # Errors
/// What the output says.
pub(crate) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"}\n")
}

/// Writes one way as a cluster.
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
    writeln!(out, "  subgraph cluster_{number} {{\n    label={};", label(&[graph.title]))?;
    for (place, node) in graph.nodes.iter().enumerate() {
        let look = if node.is_host { "" } else { ", style=dashed" };
        writeln!(out, "    w{number}_{place} [label={}{look}];", label(&node.lines))?;
    }
    for Edge { from, to, lines, look } in &graph.edges {
        let look = match look {
            Look::Unproved => ", style=dotted",
            Look::Failed => ", color=red",
            Look::Plain => "",
        };
        writeln!(out, "    w{number}_{from} -> w{number}_{to} [label={}{look}];", label(lines))?;
    }
    writeln!(out, "  }}")
}

/// Lines as a quoted string. The ampersand would begin an entity.
fn label(lines: &[String]) -> String {
    let lines =
        lines.iter().map(|line| line.replace('&', "&amp;").replace('\\', "\\\\").replace('"', "\\\""));
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}
