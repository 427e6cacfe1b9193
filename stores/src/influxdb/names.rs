//! Names that mean something to InfluxDB, and the fields of values with such names.
//!
//! A field with the key of a tag makes InfluxQL read a condition on the tag as one on the field,
//! for every device; InfluxDB drops a field named `time`; Flux has columns of its own. Such a name
//! gets an underscore at its end, and so does one that is followed by underscores already: no two
//! names share a field.

use std::sync::Arc;

use super::config::Tags;

/// Columns of Flux.
const COLUMNS: [&str; 6] = ["_time", "_measurement", "_field", "_value", "_start", "_stop"];

/// Returns the key of the field for a value name.
pub(super) fn field_of(name: &str, tags: &Tags) -> Arc<str> {
    let rest_of = |reserved: &str| name.strip_prefix(reserved).is_some_and(is_end);
    // InfluxQL reads `Time` as the time too.
    let is_time = name.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case("time") && is_end(&name[4..]));
    match is_time || rest_of(&tags.device) || rest_of(&tags.tenant) || COLUMNS.iter().any(|name| rest_of(name)) {
        true => format!("{name}_").into(),
        false => name.into(),
    }
}

fn is_end(rest: &str) -> bool {
    rest.bytes().all(|b| b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_meaning_get_an_underscore_and_no_two_share_a_field() {
        let tags = Tags { tenant: "org".into(), device: "sensor_".into() };
        for (name, field) in [
            ("time", "time_"),
            ("Time", "Time_"),
            ("time_", "time__"),
            ("timer", "timer"),
            ("tim", "tim"),
            ("org", "org_"),
            ("org__", "org___"),
            ("sensor_", "sensor__"),
            ("sensor", "sensor"),
            ("device", "device"),
            ("_value", "_value_"),
            ("value", "value"),
            ("_x", "_x"),
            ("tïme", "tïme"),
            ("", ""),
        ] {
            assert_eq!(&*field_of(name, &tags), field, "{name}");
        }
    }
}
