//! Output of answers: an aligned table, CSV, or one JSON object per line.

mod table;

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use proto::v1::Value;
use proto::v1::value::Kind;

pub(crate) use table::Table;

/// Output format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One object per line
    Json,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Cell {
    /// No value: an empty field, absent in JSON.
    #[default]
    None,
    /// Text.
    Text(String),
    /// A measured value or a number: aligned to the right.
    Value(serde_json::Value),
}

impl Cell {
    /// Returns the text of a table or CSV field.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) => text.clone(),
            Self::Value(serde_json::Value::String(text)) => text.clone(),
            Self::Value(value) => value.to_string(),
        }
    }

    /// Returns the value in JSON; `None` when there is none.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        match self {
            Self::None => None,
            Self::Text(text) => Some(text.clone().into()),
            Self::Value(value) => Some(value.clone()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Value(serde_json::Value::Number(_)))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        if text.is_empty() { Self::None } else { Self::Text(text.to_owned()) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        if text.is_empty() { Self::None } else { Self::Text(text) }
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Value(number.into())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Value(number.into())
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Value(value.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Self::None, Into::into)
    }
}

impl From<&Value> for Cell {
    fn from(value: &Value) -> Self {
        value_json(value).map_or(Self::None, Self::Value)
    }
}

/// Converts a measured value into JSON: an integer has no decimal point, a floating point number
/// always has one.
pub(crate) fn value_json(value: &Value) -> Option<serde_json::Value> {
    Some(match value.kind.as_ref()? {
        Kind::DoubleValue(v) => (*v).into(),
        Kind::IntValue(v) => (*v).into(),
        Kind::BoolValue(v) => (*v).into(),
        Kind::StringValue(v) => v.clone().into(),
    })
}

/// A text for a field of CSV. A spreadsheet runs a text that begins like a formula, and a device
/// chooses its texts: such a text gets an apostrophe, which spreadsheets read as the mark of text.
pub(crate) fn csv_text(text: String) -> String {
    let formula =
        text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    // A number is no formula, also when its device sends it as text.
    if formula && text.parse::<f64>().is_err() { format!("'{text}") } else { text }
}

/// Prints one JSON object on a line.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn json_line(out: &mut impl Write, object: &serde_json::Value) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, object).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// True when the reader of the output has closed it, as `| head` does.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let csv = cause.downcast_ref::<csv::Error>().and_then(|e| match e.kind() {
            csv::ErrorKind::Io(e) => Some(e.kind()),
            _ => None,
        });
        io.or(csv) == Some(ErrorKind::BrokenPipe)
    })
}

/// Prints an error as one line on standard error.
///
/// # Errors
/// When standard error is closed.
pub(crate) fn complain(error: &anyhow::Error) -> io::Result<()> {
    let text = format!("{error:#}").replace('\n', " ");
    writeln!(io::stderr(), "weir: {text}")
}

/// Prints a remark on standard error, so that it does not mix with the answer.
pub(crate) fn remark(text: &str) {
    // A remark that cannot be printed is not a failure.
    drop(writeln!(io::stderr(), "{text}"));
}
