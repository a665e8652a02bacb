//! Tables for people.

use std::fmt::Write as _;

/// Rows below a header, each column as wide as its widest cell.
pub(super) struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [&'static str; N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Clients choose some of the texts: what could drive a terminal is shown as an escape.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut widths = self.header.map(|title| title.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let header = self.header.map(str::to_owned);
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                write!(line, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A text without control characters; nothing at all is a dash.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// A number that is not always known.
pub(super) fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

pub(super) fn yes_or_no(is: bool) -> String {
    if is { "yes".to_owned() } else { "no".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(["NAME", "N"]);
        table.row(["größe-of-it".to_owned(), "1".to_owned()]);
        table.row([String::new(), or_dash(None)]);
        assert_eq!(table.to_string(), "NAME         N\ngröße-of-it  1\n-            -\n");
    }

    #[test]
    fn a_client_cannot_drive_the_terminal() {
        let mut table = Table::new(["ID"]);
        table.row(["a\x1b[2Jb\n".to_owned()]);
        assert_eq!(table.to_string(), "ID\na\\u{1b}[2Jb\\n\n");
    }
}
