//! Rows under named columns, in one of three formats.

use std::io::{IsTerminal, Write};

use super::{Cell, Format, csv_text, json_line};

/// Width to which columns are shrunk at most, to fit the terminal.
const ENOUGH: usize = 24;

/// Rows under named columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Creates a table without rows.
    pub(crate) fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells at its end stay empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// True when there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints the table on standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        let stdout = std::io::stdout();
        let width = if stdout.is_terminal() { terminal_width() } else { None };
        let mut out = std::io::BufWriter::new(stdout.lock());
        match format {
            Format::Table => self.write_table(&mut out, width)?,
            Format::Csv => self.write_csv(&mut out)?,
            Format::Json => self.write_json(&mut out)?,
        }
        out.flush()?;
        Ok(())
    }

    fn write_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        for row in &self.rows {
            let fields = self.columns.iter().zip(row).filter_map(|(name, cell)| Some((name.clone(), cell.json()?)));
            json_line(out, &serde_json::Value::Object(fields.collect()))?;
        }
        Ok(())
    }

    fn write_csv(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(self.columns.iter().cloned().map(csv_text))?;
        for row in &self.rows {
            let empty = std::iter::repeat(Cell::None);
            let fields = row.iter().cloned().chain(empty).take(self.columns.len());
            writer.write_record(fields.map(|cell| csv_text(cell.text())))?;
        }
        writer.flush()?;
        Ok(())
    }

    fn write_table(&self, out: &mut impl Write, terminal: Option<usize>) -> anyhow::Result<()> {
        let texts: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|c| clean(&c.text())).collect()).collect();
        let mut widths: Vec<usize> = self.columns.iter().map(|name| width(name)).collect();
        for row in &texts {
            for (column, text) in row.iter().enumerate() {
                widths[column] = widths[column].max(width(text));
            }
        }
        if let Some(terminal) = terminal {
            fit(&mut widths, terminal);
        }
        // A column of numbers is aligned to the right, together with its name.
        let numeric: Vec<bool> = (0..self.columns.len())
            .map(|column| {
                let mut cells =
                    self.rows.iter().filter_map(|row| row.get(column)).filter(|c| **c != Cell::None).peekable();
                cells.peek().is_some() && cells.all(Cell::is_number)
            })
            .collect();
        let names = self.columns.clone();
        for row in std::iter::once(&names).chain(&texts) {
            let mut line = String::new();
            for (column, text) in row.iter().enumerate() {
                let shown = cut(text, widths[column]);
                let blanks = " ".repeat(widths[column] - width(&shown));
                if column > 0 {
                    line.push_str("  ");
                }
                if numeric[column] {
                    line.push_str(&blanks);
                    line.push_str(&shown);
                } else {
                    line.push_str(&shown);
                    line.push_str(&blanks);
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Shrinks the widest columns until the line fits, none below [`ENOUGH`].
fn fit(widths: &mut [usize], terminal: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > terminal {
        match widths.iter_mut().max() {
            Some(widest) if *widest > ENOUGH => *widest -= 1,
            _ => return,
        }
    }
}

/// Approximate width on the screen: one column for each character.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Replaces control characters, which would break the lines or the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["device", "count", "note"]);
        table.row(["d1".into(), 5_u64.into(), "a, \"b\"".into()]);
        table.row(["d2\u{1b}[0m".into(), 1234_u64.into(), Cell::None]);
        table
    }

    fn written(write: impl Fn(&Table, &mut Vec<u8>) -> anyhow::Result<()>) -> String {
        let mut out = Vec::new();
        write(&table(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_stand_to_the_right_and_control_characters_do_not_reach_the_terminal() {
        let text = written(|t, out| t.write_table(out, None));
        assert_eq!(text, "device  count  note\nd1          5  a, \"b\"\nd2\u{fffd}[0m   1234\n");
    }

    #[test]
    fn csv_quotes_and_json_leaves_out_what_is_not_there() {
        assert_eq!(written(|t, out| t.write_csv(out)), "device,count,note\nd1,5,\"a, \"\"b\"\"\"\nd2\u{1b}[0m,1234,\n");
        let json = written(|t, out| t.write_json(out));
        assert_eq!(
            json,
            "{\"count\":5,\"device\":\"d1\",\"note\":\"a, \\\"b\\\"\"}\n{\"count\":1234,\"device\":\"d2\\u001b[0m\"}\n"
        );
    }

    #[test]
    fn a_table_is_cut_to_the_terminal() {
        let mut table = Table::new(["a", "b"]);
        table.row(["x".repeat(60).into(), "y".repeat(10).into()]);
        let mut out = Vec::new();
        table.write_table(&mut out, Some(50)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| width(line) <= 50), "{text}");
        assert!(text.contains('…') && text.contains(&"y".repeat(10)));
    }
}
