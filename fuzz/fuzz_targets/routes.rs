//! Topics and payloads through routes of all kinds: none makes the reader panic, and each gives the
//! same readings twice. Input: the number of the route, the topic up to the end of the line, the
//! payload.

#![no_main]

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use ingest::{Limits, MapOutcome, Route, Routes, Rules, StoredMessage, map};
use libfuzzer_sys::fuzz_target;

/// Routes, one after the other in the order of their numbers.
const ROUTES: &str = include_str!("../routes.json");

static RULES: LazyLock<Vec<Rules>> = LazyLock::new(|| {
    let routes: Vec<Route> = serde_json::from_str(ROUTES).expect("routes");
    let rules = |route| Rules::new(Routes::new(&[route]).expect("a good route"), Limits::default(), Arc::default());
    routes.into_iter().map(rules).collect()
});

fuzz_target!(|input: &[u8]| {
    let Some((number, rest)) = input.split_first() else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let Ok(topic) = std::str::from_utf8(&rest[..end]) else { return };
    if model::topic::check_name(topic).is_err() {
        return;
    }
    let payload = rest.get(end + 1..).unwrap_or_default();
    let rules = &RULES[usize::from(*number) % RULES.len()];
    for retain in [false, true] {
        let message = StoredMessage {
            tenant: "t",
            client: "c",
            topic,
            payload,
            received: 1_760_000_000_000_000_000,
            retain,
            device: None,
        };
        let outcome = map(rules, &message);
        // Not a number is not equal to itself: compared as text.
        assert_eq!(format!("{outcome:?}"), format!("{:?}", map(rules, &message)));
        if let MapOutcome::Readings(readings) = outcome {
            for reading in readings {
                let names: HashSet<_> = reading.values.iter().map(|(name, _)| name).collect();
                assert_eq!(names.len(), reading.values.len(), "a name stands twice: {reading:?}");
            }
        }
    }
});
