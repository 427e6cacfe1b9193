use proptest::prelude::*;

use super::*;

struct Thing;

impl Subject for Thing {
    fn field(&self, name: &'static str) -> Vec<Actual<'_>> {
        match name {
            "device_id" => vec![Actual::Text("hall/door-3")],
            "reading_count" => vec![Actual::Number(42.0)],
            "create_time" => vec![Actual::Nanos(1_767_225_600_000_000_000)],
            "clock_skew" => vec![Actual::Nanos(-2_500_000_000)],
            "metrics" => vec![Actual::Text("temperature"), Actual::Text("battery")],
            "replayed" => vec![Actual::Boolean(true)],
            "labels" => vec![Actual::Text("site.name")],
            _ => vec![],
        }
    }

    fn value(&self, field: &'static str, key: &str) -> Option<&str> {
        (field == "labels" && key == "site.name").then_some("b1")
    }

    fn contains(&self, word: &str) -> bool {
        "hall/door-3".contains(word)
    }
}

const FIELDS: Fields = &[
    ("device_id", Type::Text),
    ("reading_count", Type::Number),
    ("create_time", Type::Time),
    ("clock_skew", Type::Length),
    ("metrics", Type::Texts),
    ("replayed", Type::Boolean),
    ("absent", Type::Text),
    ("labels", Type::Map),
];

fn matches(filter: &str) -> bool {
    Filter::read("filter", filter, FIELDS).unwrap_or_else(|e| panic!("{filter}: {e}")).matches(&Thing)
}

#[test]
fn conditions_hold_as_they_read() {
    for (filter, yes) in [
        ("", true),
        ("  ", true),
        ("hall", true),
        ("cellar", false),
        ("hall door", true),
        ("hall cellar", false),
        ("\"door-3\"", true),
        ("device_id = \"hall/*\"", true),
        ("device_id=hall/door-3", true),
        ("device_id != \"hall/*\"", false),
        ("device_id:door", true),
        ("device_id = door", false),
        ("device_id > \"hall\"", true),
        ("reading_count >= 42", true),
        ("reading_count > 42", false),
        ("reading_count < -1", false),
        ("create_time = 2026-01-01T00:00:00Z", true),
        ("create_time < '2026-01-01T01:00:00+01:00'", false),
        ("clock_skew < -2s", true),
        ("clock_skew = -2.5s", true),
        ("metrics:temp*", true),
        ("metrics:temp", false),
        ("metrics:*", true),
        ("metrics:humidity", false),
        ("replayed = true", true),
        ("replayed:false", false),
        ("labels.site.name = b1", true),
        ("labels.site.name = \"b*\"", true),
        ("labels.site.name != b2", true),
        ("labels.site = b1", false),
        ("labels.site != b1", false),
        ("labels.site.name:b", true),
        ("labels:site.name", true),
        ("labels:site", false),
        ("absent = x", false),
        ("absent != x", false),
        ("NOT absent:*", true),
        ("-cellar", true),
        ("NOT (hall AND cellar)", true),
        ("cellar OR hall AND door", true),
        // OR binds more strongly: (hall OR cellar) AND cellar.
        ("hall OR cellar AND cellar", false),
        ("hall OR (cellar AND cellar)", true),
        ("device_id = \"a\\\"b\"", false),
    ] {
        assert_eq!(matches(filter), yes, "{filter}");
    }
}

#[test]
fn an_error_points_at_its_column() {
    for (filter, column, problem) in [
        ("color = red", 1, "no field `color`"),
        ("device_id.x = red", 1, "no field `device_id.x`"),
        ("labels < a", 10, "has no order"),
        ("hall AND", 9, "ends where a condition"),
        ("hall AND AND", 10, "condition is expected"),
        ("(hall", 1, "never closed"),
        ("hall)", 5, "nothing opens"),
        ("device_id = \"x", 13, "never closed"),
        ("reading_count > many", 17, "not a number"),
        ("create_time < yesterday", 15, "not a time"),
        ("clock_skew > 3", 14, "not a duration"),
        ("metrics > a", 11, "no order"),
        ("replayed > true", 12, "no order"),
        ("replayed = maybe", 12, "neither true nor false"),
        ("device_id =", 12, "a value to compare"),
        ("hall ! x", 6, "alone has no meaning"),
        ("device_id = 'a\\n'", 15, "must be followed by"),
        ("\"device_id\" = x", 13, "cannot be compared"),
    ] {
        let status = Filter::read("filter", filter, FIELDS).expect_err(filter);
        let message = status.message();
        assert!(message.contains(&format!("column {column}:")) && message.contains(problem), "{filter}: {message}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = "(".repeat(1000);
    assert!(Filter::read("filter", &deep, FIELDS).is_err());
    let nots = "NOT ".repeat(400) + "a";
    assert!(Filter::read("filter", &nots, FIELDS).is_err());
    assert!(Filter::read("filter", &"a".repeat(3000), FIELDS).is_err());
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-z()<>=!:\"'\\\\* \\-ANDORT_é]{0,60}") {
        if let Ok(filter) = Filter::read("filter", &text, FIELDS) {
            filter.matches(&Thing);
        }
    }
}
