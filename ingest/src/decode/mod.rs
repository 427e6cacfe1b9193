//! A payload as flat rows of named values.
//!
//! [`flat`] streams a document once into memory that is reused; [`tree`] is for routes with paths.

pub(crate) mod coercion;
pub(crate) mod flat;
mod foreign;
mod lexer;
pub(crate) mod plain;
mod scratch;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod tree;

pub(crate) use scratch::{Scratch, ScratchRow, Slot, long_name};
pub(crate) use text::JsonText;

/// The class of fault of a refused message; a bounded metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Not JSON.
    Json,
    /// Not text.
    Text,
    /// Over a limit on depth, readings, values or lengths.
    Limit,
    /// A value that cannot be stored: the paths of the route find none, two have one name, or there
    /// is no number.
    Values,
    /// A device id that is missing or invalid.
    Device,
    /// A presence message that is neither online nor offline.
    Presence,
    /// The tenant has reached its limit of devices.
    Admission,
    /// The device is in quarantine: it is not registered, and its tenant asks for that.
    Quarantine,
    /// A device other than the authenticated sender. Such a message becomes no dead letter.
    Foreign,
}

impl Class {
    /// Every class of a message that becomes a dead letter.
    pub const ALL: [Self; 8] = [
        Self::Json,
        Self::Text,
        Self::Limit,
        Self::Values,
        Self::Device,
        Self::Presence,
        Self::Admission,
        Self::Quarantine,
    ];

    /// Returns the metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Limit => "limit",
            Self::Values => "values",
            Self::Device => "device",
            Self::Presence => "presence",
            Self::Admission => "admission",
            Self::Quarantine => "quarantine",
            Self::Foreign => "foreign",
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
