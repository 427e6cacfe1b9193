//! Packets that could harm other clients: each is refused or harmless.

use std::sync::Arc;

use crate::codec::subscribe::Options;
use crate::codec::{Version, subscribe};
use crate::trie::{Entry, Trie};

fn entry(client: &str) -> Entry<()> {
    Entry { client: client.into(), subscriber: (), options: Options::default(), id: None }
}

/// A SUBSCRIBE body for one filter.
fn subscribe_body(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend_from_slice(&u16::try_from(filter.len()).expect("a filter of at most 64 KiB").to_be_bytes());
    body.extend_from_slice(filter.as_bytes());
    body.push(1);
    body
}

#[test]
fn a_filter_of_tens_of_thousands_of_levels_does_not_end_the_process() {
    let filter = "/".repeat(65_000);
    // On a stack as small as that of a worker thread: a filter that is not refused is held,
    // matched, removed and dropped.
    let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let body = subscribe_body(&filter);
        let Ok(packet) = subscribe::decode(&body, Version::V4) else { return };
        let trie = Trie::default();
        for (filter, _) in packet.filters.iter().filter(|(filter, _)| subscribe::fits(filter)) {
            trie.insert(filter, entry("a")).unwrap();
        }
        trie.matches(&filter, |_, _| {});
        for (filter, _) in &packet.filters {
            trie.remove(filter, "a");
        }
    });
    assert!(worker.unwrap().join().is_ok());
}

#[test]
fn two_groups_on_one_filter_each_take_turns() {
    let trie = Trie::default();
    for group in ["g", "h"] {
        for member in ["1", "2"] {
            trie.insert(&format!("$share/{group}/x"), entry(&format!("{group}{member}"))).unwrap();
        }
    }
    let mut seen: Vec<Arc<str>> = Vec::new();
    for _ in 0..2 {
        trie.matches("x", |e, _| seen.push(Arc::clone(&e.client)));
    }
    seen.sort();
    assert_eq!(seen.iter().map(|c| &**c).collect::<Vec<_>>(), ["g1", "g2", "h1", "h2"]);
}
