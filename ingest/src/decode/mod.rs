//! A payload as flat rows of named values.
//!
//! [`flat`] streams a document once into memory that is reused; [`tree`] is for routes with paths.

pub(crate) mod flat;
mod lexer;
pub(crate) mod plain;
mod scratch;
pub(crate) mod time;
pub(crate) mod tree;

pub(crate) use scratch::{Scratch, ScratchRow, Slot, Span, long_name};

/// The class of fault of a refused message; a bounded metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not JSON.
    Json,
    /// Not text.
    Text,
    /// Over a limit on depth, readings, values or lengths.
    Limit,
    /// A time that cannot be parsed or used.
    Time,
    /// A device id that is missing or invalid.
    Device,
    /// A presence message that is neither online nor offline.
    Presence,
    /// The tenant has reached its limit of devices.
    Admission,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Json, Self::Text, Self::Limit, Self::Time, Self::Device, Self::Presence, Self::Admission];

    /// Returns the metric label.
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

/// The reason why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) class: Class,
    /// The fault and its position, for an operator.
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

/// True for `NaN`, `inf` and `infinity`, with or without a sign, in any case.
pub(crate) fn is_not_finite(word: &str) -> bool {
    let word = word.strip_prefix(['-', '+']).unwrap_or(word);
    ["nan", "inf", "infinity"].iter().any(|w| word.eq_ignore_ascii_case(w))
}
