//! A payload as flat rows of named values, in one pass and into memory that is used again.

mod json;
mod plain;
pub(crate) mod time;

use std::ops::Range;

use model::ValueRef;

use crate::limits::Limits;

pub(crate) use json::json;
pub(crate) use plain::plain;

/// Why a message cannot be read, for a person.
pub type Refusal = String;

/// Where a decoded message is put; kept for the next one.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Names and texts, end to end.
    text: String,
    fields: Vec<Field>,
    /// Fields of each row.
    rows: Vec<Range<usize>>,
    /// Name of the value that is being read.
    path: String,
}

#[derive(Debug, Clone)]
struct Field {
    name: Range<usize>,
    value: Slot,
}

/// A value; text lies in the scratch.
#[derive(Debug, Clone)]
enum Slot {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(Range<usize>),
}

impl Scratch {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
        self.rows.clear();
        self.path.clear();
    }

    /// The rows of the message.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|range| Row { scratch: self, fields: &self.fields[range.clone()] })
    }

    fn begin_row(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.rows.len() == limits.max_readings {
            return Err(format!("more than {} readings in one message", limits.max_readings));
        }
        self.rows.push(self.fields.len()..self.fields.len());
        Ok(())
    }

    /// Adds a value under the present path to the present row.
    fn add(&mut self, value: ValueRef<'_>, limits: &Limits) -> Result<(), Refusal> {
        if self.path.len() > limits.max_name_bytes {
            return Err(format!("name {:.40}… is longer than {} bytes", self.path, limits.max_name_bytes));
        }
        let name = self.text.len()..self.text.len() + self.path.len();
        self.text.push_str(&self.path);
        let value = match value {
            ValueRef::Float(v) => Slot::Float(v),
            ValueRef::Int(v) => Slot::Int(v),
            ValueRef::Bool(v) => Slot::Bool(v),
            ValueRef::Str(v) => {
                if v.len() > limits.max_string_bytes {
                    return Err(format!("text of {} is longer than {} bytes", self.path, limits.max_string_bytes));
                }
                let at = self.text.len();
                self.text.push_str(v);
                Slot::Text(at..self.text.len())
            }
        };
        self.fields.push(Field { name, value });
        let row = self.rows.last_mut().expect("a row was begun");
        row.end = self.fields.len();
        if row.len() > limits.max_values {
            return Err(format!("more than {} values in one reading", limits.max_values));
        }
        Ok(())
    }
}

/// One row: names and values, as sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    scratch: &'a Scratch,
    fields: &'a [Field],
}

impl<'a> Row<'a> {
    pub(crate) fn fields(self) -> impl DoubleEndedIterator<Item = (&'a str, ValueRef<'a>)> + Clone {
        let text = &self.scratch.text;
        self.fields.iter().map(move |field| {
            let value = match &field.value {
                Slot::Float(v) => ValueRef::Float(*v),
                Slot::Int(v) => ValueRef::Int(*v),
                Slot::Bool(v) => ValueRef::Bool(*v),
                Slot::Text(range) => ValueRef::Str(&text[range.clone()]),
            };
            (&text[field.name.clone()], value)
        })
    }

    /// The last value of a name.
    pub(crate) fn get(self, name: &str) -> Option<ValueRef<'a>> {
        self.fields().rev().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}
