//! Any payload is read or refused, by the streaming reader and by the one that builds a tree, and
//! of what `serde_json` calls an object both make the same.

#![no_main]

use std::sync::{Arc, LazyLock};

use ingest::{Limits, MapOutcome, Route, Routes, Rules, StoredMessage, map};
use libfuzzer_sys::fuzz_target;

static STREAMED: LazyLock<Rules> = LazyLock::new(|| rules(Route::default()));
static TREE: LazyLock<Rules> = LazyLock::new(|| rules(Route { root: "$".into(), ..Route::default() }));

fn rules(route: Route) -> Rules {
    let route = Route { topic: "{device}".into(), ..route };
    Rules::new(Routes::new(&[route]).expect("a good route"), Limits::default(), Arc::default())
}

fuzz_target!(|payload: &[u8]| {
    let read = |rules: &Rules, payload: &[u8]| {
        map(
            rules,
            &StoredMessage {
                tenant: "t",
                client: "c",
                topic: "d",
                payload,
                received: 1_760_000_000_000_000_000,
                retain: false,
                device: None,
            },
        )
    };
    read(&STREAMED, payload);
    read(&TREE, payload);
    if let Ok(document @ serde_json::Value::Object(_)) = serde_json::from_slice(payload) {
        // Written anew, without names that stand twice and numbers beyond `serde_json`.
        let text = document.to_string();
        let (streamed, tree) = (read(&STREAMED, text.as_bytes()), read(&TREE, text.as_bytes()));
        match (&streamed, &tree) {
            (MapOutcome::Refused(reason), MapOutcome::Refused(_)) => {
                assert!(!reason.starts_with("not JSON"), "{reason}")
            }
            _ => assert_eq!(streamed, tree),
        }
    }
});
