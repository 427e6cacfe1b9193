//! Numbers of readings, compared and added without the loss of a digit.

use std::cmp::Ordering;

use model::{Value, ValueRef};

/// First float beyond the integers: 2^63.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// A number as the device sent it. Booleans and text are not numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Integer.
    Int(i64),
    /// Floating point.
    Float(f64),
}

impl Number {
    /// Returns the number of a value; `None` for booleans and text.
    pub fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Int(v) => Some(Self::Int(v)),
            ValueRef::Float(v) => Some(Self::Float(v)),
            ValueRef::Bool(_) | ValueRef::Str(_) => None,
        }
    }

    /// The nearest float.
    pub fn float(self) -> f64 {
        match self {
            Self::Int(v) => v as f64,
            Self::Float(v) => v,
        }
    }

    /// The number as a value, with its type.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Int(v) => Value::Int(v),
            Self::Float(v) => Value::Float(v),
        }
    }

    /// The number as a float, or as an integer when no float is equal to it.
    pub(super) fn as_float(self) -> Value {
        match self {
            Self::Int(v) => integer(v.into()),
            Self::Float(v) => Value::Float(v),
        }
    }

    /// The distance from `other` to this number; that of two integers is rounded once.
    pub fn minus(self, other: Self) -> f64 {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => (i128::from(a) - i128::from(b)) as f64,
            (a, b) => a.float() - b.float(),
        }
    }

    /// Compares exactly, also an integer with a float.
    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Int(a), Self::Float(b)) => int_with_float(a, b),
            (Self::Float(a), Self::Int(b)) => int_with_float(b, a).reverse(),
        }
    }
}

fn int_with_float(int: i64, float: f64) -> Ordering {
    if float >= BEYOND {
        return Ordering::Less;
    }
    if float < -BEYOND {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    int.cmp(&(whole as i64)).then(whole.total_cmp(&float))
}

/// A whole number as a float, or as an integer when no float is equal to it; as text beyond the
/// integers, as readings have it.
pub(super) fn integer(number: i128) -> Value {
    let float = number as f64;
    match i64::try_from(number) {
        _ if float as i128 == number => Value::Float(float),
        Ok(number) => Value::Int(number),
        Err(_) => Value::Str(number.to_string().into()),
    }
}

/// A sum of integers as an integer, or as text beyond the integers.
pub(super) fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::Str(number.to_string().into()), Value::Int)
}

/// A sum of floats whose rounding errors are added up beside it (Neumaier, Zeitschrift für
/// Angewandte Mathematik und Mechanik 54 (1974) 39).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    pub(super) fn add(&mut self, number: f64) {
        let sum = self.sum + number;
        let lost = if self.sum.abs() >= number.abs() { (self.sum - sum) + number } else { (number - sum) + self.sum };
        // Beyond the largest float there is nothing to correct.
        if lost.is_finite() {
            self.lost += lost;
        }
        self.sum = sum;
    }

    pub(super) fn value(self) -> f64 {
        self.sum + self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_exactly() {
        const BIG: i64 = (1 << 53) + 1;
        let (int, float) = (Number::Int, Number::Float);
        for (a, b, expected) in [
            (int(BIG), float(9_007_199_254_740_992.0), Ordering::Greater),
            (int(1), float(1.0), Ordering::Equal),
            (int(1), float(1.5), Ordering::Less),
            (int(-1), float(-1.5), Ordering::Greater),
            (int(i64::MAX), float(BEYOND), Ordering::Less),
            (int(i64::MIN), float(-BEYOND), Ordering::Equal),
            (int(i64::MIN), float(-1e300), Ordering::Greater),
        ] {
            assert_eq!((a.compare(b), b.compare(a)), (expected, expected.reverse()), "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_whole_number_is_a_float_only_while_it_keeps_its_digits() {
        assert_eq!(integer(1 << 53), Value::Float(9_007_199_254_740_992.0));
        assert_eq!(integer((1 << 53) + 1), Value::Int((1 << 53) + 1));
        assert_eq!(integer(i128::from(i64::MAX) + 2), Value::Str("9223372036854775809".into()));
        assert_eq!(whole(3), Value::Int(3));
        assert_eq!(whole(-(1 << 64)), Value::Str("-18446744073709551616".into()));
    }

    #[test]
    fn a_sum_keeps_what_each_step_rounds_away() {
        let mut sum = Sum::default();
        [1e16, 1.0, 1.0, -1e16].into_iter().for_each(|v| sum.add(v));
        assert_eq!(sum.value(), 2.0);
    }
}
