use model::{Nanos, ValueRef};
use proptest::prelude::*;

use super::answer::conflicting_field;
use super::line::{field_name, field_value, point_time, tag_value};
use super::types::{FieldType, FieldValue, coerce, fit};

const MILLI: Nanos = 1_000_000;

fn written(value: &FieldValue<'_>) -> String {
    let mut out = String::new();
    field_value(&mut out, value).unwrap();
    out
}

#[test]
fn the_time_of_a_point_is_its_millisecond_and_its_sequence() {
    let t = 1_750_000_000_123 * MILLI;
    assert_eq!(point_time(t, None), t);
    assert_eq!(point_time(t + 456_789, None), t + 456_789);
    assert_eq!(point_time(t + 456_789, Some(0)), t);
    assert_eq!(point_time(t, Some(7)), t + 7);
    assert_eq!(point_time(t, Some(3_000_007)), t + 7);
    assert_eq!(point_time(t, Some(u64::MAX)), t + 551_615);
    assert_eq!(point_time(-1, Some(5)), -MILLI + 5);
    assert_eq!(point_time(Nanos::MAX, Some(999_999)) / MILLI, Nanos::MAX / MILLI);
}

#[test]
fn a_number_fits_another_type_only_when_no_digit_is_lost() {
    let int = |v| fit(ValueRef::Int(v), FieldType::Float, false);
    assert_eq!(int(1 << 53), Some(FieldValue::Float(9_007_199_254_740_992.0)));
    assert_eq!(int((1 << 53) + 1), None);
    assert_eq!(int(i64::MAX), None);
    assert_eq!(int(i64::MIN), Some(FieldValue::Float(-9_223_372_036_854_775_808.0)));
    let float = |v| fit(ValueRef::Float(v), FieldType::Integer, false);
    assert_eq!(float(-9_223_372_036_854_775_808.0), Some(FieldValue::Integer(i64::MIN)));
    assert_eq!(float(9_223_372_036_854_775_808.0), None);
    assert_eq!(float(0.5), None);
    assert_eq!(float(f64::NAN), None);
    assert_eq!(fit(ValueRef::Int(-1), FieldType::Unsigned, false), None);
    assert_eq!(fit(ValueRef::Int(1), FieldType::Boolean, true), None);
    assert_eq!(fit(ValueRef::Int(1), FieldType::String, false), None);
    assert_eq!(fit(ValueRef::Int(1), FieldType::String, true), Some(FieldValue::String("1".into())));
}

#[test]
fn a_value_without_a_meaning_in_a_type_is_not_coerced_to_it() {
    assert_eq!(coerce(ValueRef::Str("far"), FieldType::Float), None);
    assert_eq!(coerce(ValueRef::Str("NaN"), FieldType::Float), None);
    assert_eq!(
        coerce(ValueRef::Str("9007199254740993"), FieldType::Integer),
        Some(FieldValue::Integer(9_007_199_254_740_993))
    );
    assert_eq!(coerce(ValueRef::Float(-1.0), FieldType::Unsigned), None);
    assert_eq!(coerce(ValueRef::Str("true"), FieldType::Boolean), Some(FieldValue::Boolean(true)));
    assert_eq!(coerce(ValueRef::Bool(true), FieldType::Float), Some(FieldValue::Float(1.0)));
}

#[test]
fn a_number_that_is_none_is_refused() {
    for v in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(field_value(&mut String::new(), &FieldValue::Float(v)).is_err());
    }
}

#[test]
fn the_field_of_a_conflict_is_read_from_the_servers_words() {
    let words = "failure writing points to database: partial write: field type conflict: input field \"a, b\" on measurement \
                 \"telemetry\" is type string, already exists as type float dropped=1";
    assert_eq!(conflicting_field(words), Some(("a, b".to_owned(), FieldType::Float)));
    assert_eq!(conflicting_field("partial write: dropped=1"), None);
}

proptest! {
    #[test]
    fn floats_are_written_so_that_they_are_read_back(bits: u64) {
        let v = f64::from_bits(bits);
        prop_assume!(v.is_finite());
        let text = written(&FieldValue::Float(v));
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), v.to_bits());
        prop_assert!(text.len() < 30, "{}", text);
    }

    #[test]
    fn texts_end_where_they_end(text in ".*") {
        let out = written(&FieldValue::String((&*text).into()));
        let inner = out.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        let mut back = String::new();
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            prop_assert!(c != '"', "a quote that is not escaped");
            back.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        prop_assert_eq!(back, text);
    }

    #[test]
    fn names_are_refused_or_have_no_bare_separator(name in "[a ,=\"\\\\\n#é]{0,8}") {
        for write in [field_name, tag_value] {
            let mut out = String::new();
            if write(&mut out, &name).is_ok() {
                let mut last = ' ';
                for c in out.chars() {
                    prop_assert!(!matches!(c, ',' | '=' | ' ') || last == '\\', "{}", out);
                    last = c;
                }
                prop_assert!(last != '\\' && !out.contains('\n') && !out.is_empty());
            }
        }
    }
}
