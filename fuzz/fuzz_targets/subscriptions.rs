//! The tree of subscriptions against the rules for one filter. Input: lines; the first byte is what
//! a client does (`+` subscribes, `-` unsubscribes, `<` leaves, `>` comes), the second one is the
//! client, the rest is the filter. Other lines are topics.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use libfuzzer_sys::fuzz_target;
use model::topic::{check_filter, check_name, matches};
use weir_broker::fuzzing::subscribe::Options;
use weir_broker::fuzzing::{Entry, MAX_LEVELS, Trie};

/// The filter inside a shared subscription.
fn inner(filter: &str) -> Option<&str> {
    filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map(|(_, inner)| inner)
}

/// Subscriptions by filter and client; true when the client is connected as a member.
type Held<'a> = BTreeMap<(&'a str, &'a str), bool>;

fn check(trie: &Trie<()>, held: &Held<'_>, topic: &str) {
    let (mut plain, mut shared) = (BTreeSet::new(), BTreeMap::new());
    trie.matches(topic, |entry, chosen| match chosen {
        // The subscription id stands for the filter.
        None => assert!(plain.insert((entry.client.to_string(), entry.id))),
        Some(chosen) => {
            let found = (entry.client.to_string(), chosen.is_connected);
            assert!(shared.insert(chosen.filter.to_string(), found).is_none(), "a group has two members for a message");
        }
    });
    let wanted: BTreeSet<_> = held
        .keys()
        .enumerate()
        .filter(|(_, (filter, _))| inner(filter).is_none() && matches(filter, topic))
        .map(|(_, (filter, client))| ((*client).to_owned(), Some(number(filter))))
        .collect();
    assert_eq!(plain, wanted, "{topic}");
    let groups: BTreeSet<_> = held
        .keys()
        .map(|(filter, _)| *filter)
        .filter(|filter| inner(filter).is_some_and(|f| matches(f, topic)))
        .collect();
    assert_eq!(shared.keys().map(String::as_str).collect::<BTreeSet<_>>(), groups, "{topic}");
    for (filter, (client, is_connected)) in shared {
        assert_eq!(held.get(&(&*filter, &*client)), Some(&is_connected), "{client} of {filter}");
        let has_connected = held.iter().any(|((of, _), connected)| *of == filter && *connected);
        assert_eq!(is_connected, has_connected, "a member of {filter} that is away, beside one that is not");
    }
}

/// A number of a filter: the same one for the same filter.
fn number(filter: &str) -> u32 {
    filter.bytes().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

fuzz_target!(|text: &str| {
    let trie = Trie::default();
    let mut held = Held::new();
    for line in text.lines() {
        let (Some((action, rest)), true) = (line.split_at_checked(1), line.is_ascii()) else { continue };
        let Some((client, filter)) = rest.split_at_checked(1) else { continue };
        let levels = inner(filter).unwrap_or(filter).split('/').count();
        let is_fit = check_filter(filter).is_ok() && levels <= MAX_LEVELS;
        match action {
            "+" if is_fit => {
                let entry = Entry {
                    client: client.into(),
                    subscriber: (),
                    options: Options::default(),
                    id: Some(number(filter)),
                };
                assert_eq!(trie.insert(filter, entry), Ok(held.insert((filter, client), true).is_none()));
            }
            "-" if is_fit => {
                assert_eq!(trie.remove(filter, client), held.remove(&(filter, client)).is_some());
            }
            "<" | ">" if is_fit => {
                trie.set_connected(filter, client, action == ">");
                if inner(filter).is_some()
                    && let Some(connected) = held.get_mut(&(filter, client))
                {
                    *connected = action == ">";
                }
            }
            _ if check_name(line).is_ok() => check(&trie, &held, line),
            _ => {}
        }
        assert_eq!(trie.len(), held.len());
    }
    for (filter, client) in held.into_keys() {
        assert!(trie.remove(filter, client));
    }
    assert!(trie.is_empty());
});
