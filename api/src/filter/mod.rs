//! Filters in the language of AIP-160, the part of it that lists of flat things need.
//!
//! ```text
//! filter      = [expression]
//! expression  = sequence {"AND" sequence}
//! sequence    = factor {factor}                   words side by side: all must hold
//! factor      = term {"OR" term}                  OR binds more strongly than AND
//! term        = ["NOT" | "-"] simple
//! simple      = "(" expression ")" | restriction
//! restriction = word [comparator argument]        a bare word looks into the text of the thing
//! comparator  = "<=" | "<" | ">=" | ">" | "!=" | "=" | ":"
//! argument    = word | string                     string: "…" or '…', with \" \' \\
//! ```
//! Fields and the types of their values are checked when the filter is read, so that a filter that was read cannot fail.

mod lexer;
mod parser;
mod value;

#[cfg(test)]
mod tests;

use crate::errors;

pub(crate) use value::{Actual, Type};
use value::{Comparator, Operand};

/// Longest filter, in bytes.
const MAX_BYTES: usize = 2048;

/// The fields that a filter may name, with their types.
pub(crate) type Fields = &'static [(&'static str, Type)];

/// A filter, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    /// Takes everything: the empty filter.
    Everything,
    /// All of these.
    All(Vec<Filter>),
    /// Any of these.
    Any(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// A field compared with a value.
    Compare(&'static str, Comparator, Operand),
    /// A bare word, to be found in the text of the thing.
    Contains(String),
}

/// Something a filter can be asked about.
pub(crate) trait Subject {
    /// The values of a field: one, or several for a list.
    fn field(&self, name: &'static str) -> Vec<Actual<'_>>;

    /// The text that bare words look into.
    fn text(&self) -> &str;
}

impl Filter {
    /// Reads a filter over `fields` from the request field `field`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT that points at the column.
    pub(crate) fn read(field: &str, text: &str, fields: Fields) -> Result<Self, tonic::Status> {
        if text.len() > MAX_BYTES {
            return Err(errors::invalid_as("FILTER_INVALID", field, format!("is longer than {MAX_BYTES} bytes")));
        }
        parser::parse(text, fields).map_err(|error| {
            errors::invalid_as("FILTER_INVALID", field, format!("column {}: {}", error.column, error.problem))
        })
    }

    /// True when the filter takes `subject`.
    pub(crate) fn takes(&self, subject: &impl Subject) -> bool {
        match self {
            Self::Everything => true,
            Self::All(all) => all.iter().all(|f| f.takes(subject)),
            Self::Any(any) => any.iter().any(|f| f.takes(subject)),
            Self::Not(inner) => !inner.takes(subject),
            Self::Compare(field, comparator, operand) => {
                // As AIP-160 says of lists: true when any element fits. An absent value fits nothing, not even `!=`.
                subject.field(field).iter().any(|actual| value::holds(*comparator, *actual, operand))
            }
            Self::Contains(word) => subject.text().contains(word.as_str()),
        }
    }
}

/// Why a filter cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FilterError {
    /// Character, from 1.
    column: usize,
    problem: String,
}
