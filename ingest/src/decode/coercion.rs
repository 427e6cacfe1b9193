//! Numbers in texts that only a route can know to be numbers.

use super::plain::{self, Parsed};

/// A route's treatment of texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coercion {
    /// A number may be followed by its unit.
    pub(crate) unit_suffix: bool,
    /// The decimal separator is a comma.
    pub(crate) decimal_comma: bool,
    /// Texts that mean null.
    pub(crate) null_values: Vec<String>,
}

/// The result for a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Coerced {
    /// It stays as it is.
    Same,
    /// It means null.
    Absent,
    Int(i64),
    Float(f64),
}

impl Coercion {
    pub(crate) fn is_empty(&self) -> bool {
        !self.unit_suffix && !self.decimal_comma && self.null_values.is_empty()
    }

    pub(crate) fn apply(&self, text: &str) -> Coerced {
        let text = text.trim();
        if self.null_values.iter().any(|word| word == text) {
            return Coerced::Absent;
        }
        if !self.unit_suffix && !self.decimal_comma {
            return Coerced::Same;
        }
        let number = if self.unit_suffix { without_unit(text) } else { text };
        let parsed = match number.split_once(',') {
            Some((whole, fraction)) if self.decimal_comma => {
                plain::plain_number(&format!("{whole}.{fraction}")).filter(|_| !whole.contains('.'))
            }
            _ => plain::plain_number(number),
        };
        match parsed {
            Some(Parsed::Int(v)) => Coerced::Int(v),
            Some(Parsed::Float(v)) => Coerced::Float(v),
            _ => Coerced::Same,
        }
    }
}

/// Returns a number without the unit that follows it; other text as it is.
fn without_unit(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',' | '-')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let symbol = |c: char| c.is_alphabetic() || "%°‰µμΩ℃℉/²³·^'\"".contains(c);
    // A digit is part of a unit only as a power: `m3`, `W/m2`.
    let inner = unit.strip_suffix(['2', '3']).unwrap_or(unit);
    let is_unit = !inner.is_empty() && inner.chars().all(symbol) && unit.chars().count() <= 8;
    if number.ends_with(|c: char| c.is_ascii_digit()) && is_unit { number } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_decimal_commas_are_read_where_a_route_asks() {
        let coercion = Coercion { unit_suffix: true, decimal_comma: true, null_values: vec!["--".into()] };
        for (text, wanted) in [
            ("19.5°C", Coerced::Float(19.5)),
            ("-4 %", Coerced::Int(-4)),
            ("1013,25 hPa", Coerced::Float(1013.25)),
            ("3,5", Coerced::Float(3.5)),
            ("7 m3", Coerced::Int(7)),
            ("12 W/m2", Coerced::Int(12)),
            ("--", Coerced::Absent),
            ("0012 V", Coerced::Same),
            ("1.234,5", Coerced::Same),
            ("12:30", Coerced::Same),
            ("0x1F", Coerced::Same),
            ("5 apples and pears", Coerced::Same),
            ("V", Coerced::Same),
        ] {
            assert_eq!(coercion.apply(text), wanted, "{text}");
        }
        assert_eq!(Coercion::default().apply("5 V"), Coerced::Same);
        assert!(Coercion::default().is_empty());
    }
}
