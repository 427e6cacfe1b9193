//! Properties that hold for any payload.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use model::{Reading, Value};
use proptest::prelude::*;
use serde_json::{Map, Number, Value as Json};
use weir_ingest::routes::OneOrMany;
use weir_ingest::{Limits, MapOutcome, Route, Routes, Rules, StoredMessage, map};

fn outcome(rules: &Rules, topic: &str, payload: &[u8]) -> MapOutcome {
    map(
        rules,
        &StoredMessage {
            tenant: "default",
            client: "c",
            topic,
            payload,
            received: 1_760_000_000_000_000_000,
            retain: false,
            device: None,
        },
    )
}

fn default_rules() -> Rules {
    Rules::new(Routes::new(&[]).unwrap(), Limits::default(), Arc::default())
}

/// The default routes, read with a tree: `value` finds the document, so names and values are the
/// same.
fn tree_rules() -> Rules {
    let route = Route { topic: "devices/{device}/telemetry".into(), root: "$".into(), ..Route::default() };
    Rules::new(Routes::new(&[route]).unwrap(), Limits::default(), Arc::default())
}

/// Routes that read RFC 8259 only, streaming or with a tree.
fn strict(root: &str) -> Rules {
    let root = if root.is_empty() { OneOrMany::default() } else { root.into() };
    let route = Route { topic: "devices/{device}/telemetry".into(), lenient: false, root, ..Route::default() };
    Rules::new(Routes::new(&[route]).unwrap(), Limits::default(), Arc::default())
}

fn json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        any::<f64>().prop_filter_map("finite", Number::from_f64),
        (-1_000_000_i64..1_000_000, 0..6).prop_filter_map("finite", |(n, places)| {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            Number::from_f64(n as f64 / 10_f64.powi(places))
        }),
    ];
    let scalar = prop_oneof![
        number.prop_map(Json::Number),
        any::<bool>().prop_map(Json::Bool),
        any::<String>().prop_map(Json::String),
        Just(Json::Null),
    ];
    scalar.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::Array),
            prop::collection::vec(("[a-z\\\\\"é\u{1f600}]{1,6}", inner), 0..6)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

fn document() -> impl Strategy<Value = Map<String, Json>> {
    // No name that has a meaning of its own.
    prop::collection::vec(("[A-Z]{1,5}[0-9]", json()), 1..8).prop_map(|members| members.into_iter().collect())
}

/// The values of a document, by a reader that shares no code with the product.
fn flatten(name: &str, json: &Json, out: &mut Vec<(String, Value)>) {
    match json {
        Json::Null => {}
        Json::Bool(v) => out.push((name.into(), Value::Bool(*v))),
        Json::String(v) => out.push((name.into(), Value::Str(v.as_str().into()))),
        Json::Number(n) => out.push((
            name.into(),
            match (n.as_i64(), n.is_u64()) {
                (Some(v), _) => Value::Int(v),
                (None, true) => Value::Str(n.to_string().into()),
                (None, false) => Value::Float(n.as_f64().unwrap()),
            },
        )),
        Json::Array(elements) => {
            elements.iter().enumerate().for_each(|(i, element)| flatten(&format!("{name}.{i}"), element, out));
        }
        Json::Object(members) => {
            members.iter().for_each(|(key, member)| flatten(&format!("{name}.{key}"), member, out));
        }
    }
}

fn same(reading: &Reading, wanted: &[(String, Value)]) -> bool {
    reading.values.len() == wanted.len()
        && reading.values.iter().zip(wanted).all(|((a, x), (b, y))| **a == **b && x.as_ref().same(y.as_ref()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_document_reads_back_value_by_value(document in document(), pretty in any::<bool>()) {
        let json = Json::Object(document);
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let mut wanted = Vec::new();
        for (key, member) in json.as_object().unwrap() {
            flatten(key, member, &mut wanted);
        }
        prop_assume!(wanted.iter().all(|(name, _)| name.len() <= 128));
        // A nested name may be the same as a plain one with a dot or with digits; then the last
        // counts.
        let mut names: Vec<&String> = wanted.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        prop_assume!(names.len() == wanted.len());
        for rules in [default_rules(), tree_rules()] {
            match outcome(&rules, "devices/d/telemetry", text.as_bytes()) {
                MapOutcome::Readings(readings) if wanted.is_empty() => prop_assert!(readings.is_empty()),
                MapOutcome::Readings(readings) => {
                    prop_assert_eq!(readings.len(), 1);
                    prop_assert!(same(&readings[0], &wanted), "{}: {:?}, wanted {:?}", text, readings[0].values, wanted);
                }
                other => prop_assert!(false, "{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        for topic in ["devices/d/telemetry", "devices/d/telemetry/x"] {
            outcome(&default_rules(), topic, &payload);
        }
        outcome(&tree_rules(), "devices/d/telemetry", &payload);
    }

    /// JSON-like text, often broken: the streaming reader, the tree reader and serde agree on what
    /// is JSON. A lenient reading takes all that a strict one takes, with the same values.
    #[test]
    fn all_readers_agree_on_what_is_json(text in r#"\{"a":[-+0-9.eE\[\]{}",:tfnul\\ ]{0,12}\}"#) {
        let streamed = outcome(&strict(""), "devices/d/telemetry", text.as_bytes());
        let tree = outcome(&strict("$"), "devices/d/telemetry", text.as_bytes());
        let refused = |outcome: &MapOutcome| matches!(outcome, MapOutcome::Refused(_));
        if let MapOutcome::Readings(readings) = &streamed {
            let lenient = outcome(&default_rules(), "devices/d/telemetry", text.as_bytes());
            prop_assert_eq!(&MapOutcome::Readings(readings.clone()), &lenient, "{}", text);
        }
        prop_assert_eq!(refused(&streamed), refused(&tree), "{}: {:?} {:?}", text, streamed, tree);
        let serde = serde_json::from_str::<Json>(&text);
        // Beyond JSON there are numbers out of the range of a float, and an empty name is refused.
        let beyond = matches!(&serde, Err(error) if error.to_string().contains("out of range"));
        let empty = matches!(&streamed, MapOutcome::Refused(reason) if reason.contains("empty name") || reason.starts_with("two values"));
        if !beyond && !empty {
            prop_assert_eq!(refused(&streamed), serde.is_err(), "{}: {:?} {:?}", text, streamed, serde);
        }
    }

    #[test]
    fn numbers_are_the_nearest_float(text in "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}([eE][-+]?[0-9]{1,2})?") {
        let wanted: f64 = text.parse().unwrap();
        let payload = format!(r#"{{"v":{text}}}"#);
        match outcome(&default_rules(), "devices/d/telemetry", payload.as_bytes()) {
            MapOutcome::Readings(readings) => {
                prop_assert!(readings[0].values[0].1.as_ref().same(Value::Float(wanted).as_ref()), "{}", text);
            }
            other => prop_assert!(false, "{text}: {other:?}"),
        }
    }
}
