//! The tree of subscriptions against the rules for one filter. Input: lines; `+` subscribes, `-`
//! unsubscribes, others are topics.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use weir_broker::fuzzing::subscribe::Options;
use weir_broker::fuzzing::{Entry, MAX_LEVELS, Trie};
use weir_model::topic::{check_filter, check_name, matches};

fuzz_target!(|text: &str| {
    let trie = Trie::default();
    let mut held: BTreeSet<&str> = BTreeSet::new();
    for line in text.lines() {
        match line.split_at_checked(1) {
            Some(("+", filter)) => {
                if check_filter(filter).is_err()
                    || filter.split('/').count() > MAX_LEVELS
                    || filter.starts_with("$share/")
                {
                    continue;
                }
                let entry = Entry { client: filter.into(), subscriber: (), options: Options::default(), id: None };
                assert_eq!(trie.insert(filter, entry), Ok(held.insert(filter)));
            }
            Some(("-", filter)) => assert_eq!(trie.remove(filter, filter), held.remove(filter)),
            _ if check_name(line).is_ok() => {
                let mut found = BTreeSet::new();
                trie.matches(line, |e, _| assert!(found.insert(e.client.to_string())));
                let wanted: BTreeSet<String> =
                    held.iter().filter(|f| matches(f, line)).map(|f| (*f).to_owned()).collect();
                assert_eq!(found, wanted);
            }
            _ => {}
        }
        assert_eq!(trie.len(), held.len());
    }
});
