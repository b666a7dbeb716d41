//! A small table printer: columns as wide as their widest cell, numbers to the right.

/// A table that grows row by row.
#[derive(Debug)]
pub struct Table {
    columns: usize,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; a heading that begins with `>` has its column aligned right.
    pub fn new(headings: &[&str]) -> Table {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        let headings = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        let mut table = Table { columns: 0, right, rows: vec![headings] };
        table.columns = table.right.len();
        table
    }

    /// Adds a row. Empty cells are shown as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns, "a row has as many cells as there are headings");
        let shown = cells.into_iter().map(|c| if c.is_empty() { "-".to_owned() } else { c });
        self.rows.push(shown.collect());
    }

    /// The table as text, one line a row, without trailing spaces.
    pub fn print(&self) -> String {
        let width = |c: usize| self.rows.iter().map(|r| chars(&r[c])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[at] - chars(cell));
                let gap = if at > 0 { "  " } else { "" };
                line += gap;
                line += &if self.right[at] { pad + cell } else { format!("{cell}{pad}") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        table.row(["é".into(), "5".into(), String::new()]);
        table.row(["longer".into(), "1000".into(), "last".into()]);
        assert_eq!(table.print(), "NAME    COUNT  NOTE\né           5  -\nlonger   1000  last\n");
    }
}
