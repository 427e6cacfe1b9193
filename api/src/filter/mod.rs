//! Filters in the part of the AIP-160 language that flat resources need.
//!
//! ```text
//! filter      = [expression]
//! expression  = sequence {"AND" sequence}
//! sequence    = factor {factor}                   adjacent factors: all must hold
//! factor      = term {"OR" term}                  OR binds more strongly than AND
//! term        = ["NOT" | "-"] simple
//! simple      = "(" expression ")" | restriction
//! restriction = field [comparator argument]       a bare word searches the subject
//! field       = word ["." key]                    a key only for fields that have some
//! comparator  = "<=" | "<" | ">=" | ">" | "!=" | "=" | ":"
//! argument    = word | string                     string: "…" or '…', with \" \' \\
//! ```
//! Fields and types are checked when a filter is parsed, so that evaluating it cannot fail.

mod lexer;
mod parser;
mod value;

#[cfg(test)]
mod tests;

use crate::errors;

pub(crate) use value::{Actual, Comparator, Operand, Type};

/// Maximum length of a filter, in bytes.
const MAX_BYTES: usize = 2048;

/// The fields that a filter may name, with their types.
pub(crate) type Fields = &'static [(&'static str, Type)];

/// A parsed and checked filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    /// Matches everything: the empty filter.
    Everything,
    /// Matches when all of these do.
    All(Vec<Filter>),
    /// Matches when any of these does.
    Any(Vec<Filter>),
    Not(Box<Filter>),
    /// A field compared with a value.
    Compare(&'static str, Comparator, Operand),
    /// The text of a key of a field compared with a value.
    CompareKey(&'static str, String, Comparator, Operand),
    /// A bare word that the subject must contain.
    Contains(String),
}

/// A resource that a filter can be applied to.
pub(crate) trait Subject {
    /// The values of a field: one, several for a list, none when it is absent.
    fn field(&self, name: &'static str) -> Vec<Actual<'_>>;

    /// The text of a key of a field; none when it is absent.
    fn value(&self, _field: &'static str, _key: &str) -> Option<&str> {
        None
    }

    /// True when it contains a bare word.
    fn contains(&self, word: &str) -> bool;
}

impl Filter {
    /// Reads a filter over `fields` from the request field `field`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the column.
    pub(crate) fn read(field: &str, text: &str, fields: Fields) -> Result<Self, tonic::Status> {
        if text.len() > MAX_BYTES {
            return Err(errors::invalid_as("FILTER_INVALID", field, format!("is longer than {MAX_BYTES} bytes")));
        }
        parser::parse(text, fields).map_err(|error| {
            errors::invalid_as("FILTER_INVALID", field, format!("column {}: {}", error.column, error.problem))
        })
    }

    /// Returns the conditions all of which hold for what matches.
    pub(crate) fn conditions(&self) -> &[Filter] {
        match self {
            Self::Everything => &[],
            Self::All(all) => all,
            other => std::slice::from_ref(other),
        }
    }

    /// True when `subject` matches.
    pub(crate) fn matches(&self, subject: &impl Subject) -> bool {
        match self {
            Self::Everything => true,
            Self::All(all) => all.iter().all(|f| f.matches(subject)),
            Self::Any(any) => any.iter().any(|f| f.matches(subject)),
            Self::Not(inner) => !inner.matches(subject),
            Self::Compare(field, comparator, operand) => {
                // AIP-160: a list matches when any element does. An absent value matches nothing,
                // not even `!=`.
                subject.field(field).iter().any(|actual| value::holds(*comparator, *actual, operand))
            }
            Self::CompareKey(field, key, comparator, operand) => {
                let actual = subject.value(field, key).map(Actual::Text);
                actual.is_some_and(|actual| value::holds(*comparator, actual, operand))
            }
            Self::Contains(word) => subject.contains(word),
        }
    }
}

/// A syntax or type error in a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FilterError {
    /// Character, from 1.
    column: usize,
    problem: String,
}
