//! Measured values.

use std::fmt;

/// A measured value, with the type that the device sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Floating point; finite.
    Float(f64),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Text. Integers outside of `i64` are text too, so that no digit is lost.
    Str(Box<str>),
}

/// A borrowed [`Value`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// Floating point.
    Float(f64),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Text.
    Str(&'a str),
}

/// The type of a [`Value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Floating point.
    Float = 1,
    /// Integer.
    Int = 2,
    /// Boolean.
    Bool = 3,
    /// Text.
    Str = 4,
}

impl Value {
    /// Borrows the value.
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Float(v) => ValueRef::Float(*v),
            Self::Int(v) => ValueRef::Int(*v),
            Self::Bool(v) => ValueRef::Bool(*v),
            Self::Str(v) => ValueRef::Str(v),
        }
    }

    /// Type of the value.
    pub fn kind(&self) -> Kind {
        self.as_ref().kind()
    }
}

impl ValueRef<'_> {
    /// Converts to an owned value.
    pub fn to_owned(self) -> Value {
        match self {
            Self::Float(v) => Value::Float(v),
            Self::Int(v) => Value::Int(v),
            Self::Bool(v) => Value::Bool(v),
            Self::Str(v) => Value::Str(v.into()),
        }
    }

    /// Type of the value.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float(_) => Kind::Float,
            Self::Int(_) => Kind::Int,
            Self::Bool(_) => Kind::Bool,
            Self::Str(_) => Kind::Str,
        }
    }

    /// Converts integers, floats and booleans (0, 1) to a number; None for text.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::Float(v) => Some(v),
            #[expect(clippy::cast_precision_loss, reason = "aggregates are floating point")]
            Self::Int(v) => Some(v as f64),
            Self::Bool(v) => Some(f64::from(u8::from(v))),
            Self::Str(_) => None,
        }
    }

    /// True when both have the same type and the same bits.
    pub fn same(self, other: ValueRef<'_>) -> bool {
        match (self, other) {
            (Self::Float(a), ValueRef::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Int(a), ValueRef::Int(b)) => a == b,
            (Self::Bool(a), ValueRef::Bool(b)) => a == b,
            (Self::Str(a), ValueRef::Str(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(v) => write!(f, "{v}"),
            Self::Int(v) => write!(f, "{v}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::Str(v) => f.write_str(v),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_ref(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_compares_type_and_bits() {
        assert!(!ValueRef::Float(1.0).same(ValueRef::Int(1)));
        assert!(!ValueRef::Float(0.0).same(ValueRef::Float(-0.0)));
        assert!(ValueRef::Str("a").same(ValueRef::Str("a")));
    }
}
