//! Tables on standard output: aligned text, or Markdown.

pub struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: &str, head: impl IntoIterator<Item = String>) -> Self {
        Self { title: title.to_owned(), head: head.into_iter().collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }

    pub fn print(&self, markdown: bool) {
        println!("\n{}{}", if markdown { "### " } else { "" }, self.title);
        if markdown {
            println!();
        }
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width =
            |column: usize| lines().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        for (index, row) in lines().enumerate() {
            println!("{}", line(row, &widths, markdown));
            if markdown && index == 0 {
                let rules =
                    widths.iter().enumerate().map(|(column, _)| if column == 0 { "---" } else { "---:" });
                println!("| {} |", rules.collect::<Vec<_>>().join(" | "));
            }
        }
    }
}

/// The first column to the left, figures to the right.
fn line(row: &[String], widths: &[usize], markdown: bool) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    let cells: Vec<String> = cells.collect();
    if markdown { format!("| {} |", cells.join(" | ")) } else { format!("  {}", cells.join("   ")) }
}

/// `first`, then one heading for each number: `N = 1,000`.
pub fn head(first: &str, letter: &str, numbers: &[usize]) -> Vec<String> {
    let headings = numbers.iter().map(|n| format!("{letter} = {}", crate::figures::thousands(*n as u64)));
    std::iter::once(first.to_owned()).chain(headings).collect()
}
