//! A payload as flat rows of named values.
//!
//! [`flat`] streams a document once into memory that is used again; [`tree`] is for routes that look around in it.

pub(crate) mod flat;
mod lexer;
pub(crate) mod plain;
mod scratch;
pub(crate) mod time;
pub(crate) mod tree;

pub(crate) use scratch::{Row, Scratch, Slot, Span, long_name};

/// What kind of fault a refused message has; the bounded label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not JSON.
    Json,
    /// Not text.
    Text,
    /// Over a limit on depth, readings, values or lengths.
    Limit,
    /// A time that cannot be read or used.
    Time,
    /// A device id that is missing or not one.
    Device,
    /// A presence message that says neither.
    Presence,
    /// The tenant has as many devices as it may have.
    Admission,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Json, Self::Text, Self::Limit, Self::Time, Self::Device, Self::Presence, Self::Admission];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Limit => "limit",
            Self::Time => "time",
            Self::Device => "device",
            Self::Presence => "presence",
            Self::Admission => "admission",
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What kind of fault.
    pub(crate) class: Class,
    /// What is wrong and where, for a person.
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(class: Class, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }

    pub(crate) fn limit(reason: impl Into<String>) -> Self {
        Self::new(Class::Limit, reason)
    }
}

/// The words for a number that is none.
pub(crate) fn is_no_number(word: &str) -> bool {
    let word = word.strip_prefix(['-', '+']).unwrap_or(word);
    ["nan", "inf", "infinity"].iter().any(|w| word.eq_ignore_ascii_case(w))
}
