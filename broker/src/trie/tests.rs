use super::*;
use proptest::prelude::*;

fn entry(client: &str) -> Entry<()> {
    Entry { client: client.into(), subscriber: (), options: Options::default(), id: None }
}

fn found(trie: &Trie<()>, topic: &str) -> Vec<String> {
    let mut all = Vec::new();
    trie.matches(topic, |e, _| all.push(e.client.to_string()));
    all.sort();
    all
}

#[test]
fn a_shared_group_gets_a_message_once_and_in_turn() {
    let trie = Trie::default();
    for client in ["a", "b"] {
        assert!(trie.insert("$share/g/x/+", entry(client)).unwrap());
    }
    trie.insert("x/1", entry("c")).unwrap();
    let mut seen: Vec<_> = (0..4).flat_map(|_| found(&trie, "x/1")).collect();
    seen.sort();
    assert_eq!(seen, ["a", "a", "b", "b", "c", "c", "c", "c"]);
    assert!(trie.remove("$share/g/x/+", "a") && trie.remove("$share/g/x/+", "b") && trie.remove("x/1", "c"));
    assert!(trie.is_empty() && trie.root.read().node.children.is_empty());
}

#[test]
fn the_deepest_filter_that_is_accepted_fits_a_small_stack() {
    let filter = vec!["+"; MAX_LEVELS].join("/");
    let topic = vec!["x"; 30_000].join("/");
    let worker = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
        let trie = Trie::default();
        trie.insert(&filter, entry("a")).unwrap();
        trie.matches(&topic, |_, _| panic!("longer than the filter"));
        assert!(trie.remove(&filter, "a"));
        trie.insert(&filter, entry("a")).unwrap();
    });
    worker.unwrap().join().unwrap();
}

#[test]
fn a_filter_that_finds_no_memory_leaves_nothing_behind() {
    let budget = Budget::new("subscriptions", 64 << 10);
    let trie = Trie::new(&budget);
    let deep = |i: usize| format!("{i}/{}", ["x"; 100].join("/"));
    assert!(trie.insert(&deep(0), entry("a")).unwrap());
    let held = budget.held();
    assert!((100 * NODE_BYTES..64 << 10).contains(&held), "{held}");
    assert!(trie.insert(&deep(1), entry("a")).is_err());
    assert!(!trie.insert(&deep(0), entry("a")).unwrap(), "one that is held can be replaced");
    assert_eq!((budget.held(), trie.len(), found(&trie, &deep(1)).len()), (held, 1, 0));
    assert!(trie.insert("$share/g/x", entry("a")).unwrap() && trie.remove("$share/g/x", "a"));
    assert!(trie.remove(&deep(0), "a"));
    assert_eq!(budget.held(), 0);
}

#[test]
fn a_hundred_thousand_of_the_deepest_filters_cost_what_their_levels_do() {
    const MANY: usize = 100_000;
    let budget = Budget::new("subscriptions", 64 << 20);
    let trie = Trie::new(&budget);
    let shared = "x/".repeat(MAX_LEVELS - 1);
    let begun = std::time::Instant::now();
    for i in 0..MANY / 2 {
        trie.insert(&format!("{shared}{i}"), entry("a")).unwrap();
    }
    // With no level in common, a filter takes 100 KiB and memory ends.
    let apart: Vec<_> = (0..MANY / 2).map(|i| format!("{i}/{}", vec!["+"; MAX_LEVELS - 1].join("/"))).collect();
    let added = apart.iter().filter(|filter| trie.insert(filter, entry("a")).is_ok()).count();
    assert!((1..1000).contains(&added), "{added}");
    for i in 0..1000 {
        assert_eq!(found(&trie, &format!("{shared}{i}")), ["a"]);
    }
    for i in 0..MANY / 2 {
        assert!(trie.remove(&format!("{shared}{i}"), "a"));
    }
    assert!(apart[..added].iter().all(|filter| trie.remove(filter, "a")));
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((trie.len(), budget.held()), (0, 0));
}

#[test]
fn a_group_of_100_000_members_and_100_000_groups_cost_what_as_many_subscriptions_do() {
    const MANY: usize = 100_000;
    let trie = Trie::default();
    let begun = std::time::Instant::now();
    for i in 0..MANY {
        trie.insert("$share/g/x", entry(&i.to_string())).unwrap();
        trie.insert(&format!("$share/{i}/y"), entry("a")).unwrap();
    }
    for i in 0..MANY {
        assert!(trie.remove("$share/g/x", &i.to_string()) && trie.remove(&format!("$share/{i}/y"), "a"));
    }
    // Minutes when each is looked for among all others.
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(trie.is_empty());
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", Just(String::new()), Just("$s".to_owned())]
}

proptest! {
    #[test]
    fn the_trie_agrees_with_the_rules_of_a_single_filter(
        filters in prop::collection::vec(prop::collection::vec(prop_oneof![level(), Just("+".to_owned())], 1..4), 1..8),
        ends in prop::collection::vec(any::<bool>(), 8),
        topic in prop::collection::vec(level(), 1..4),
    ) {
        let topic = topic.join("/");
        prop_assume!(!topic.is_empty());
        let trie = Trie::default();
        let filters: Vec<String> = filters
            .iter()
            .zip(ends)
            .map(|(f, all)| if all { format!("{}/#", f.join("/")) } else { f.join("/") })
            .filter(|f| !f.is_empty())
            .collect();
        for (i, filter) in filters.iter().enumerate() {
            trie.insert(filter, entry(&i.to_string())).unwrap();
        }
        let mut wanted: Vec<String> = filters
            .iter()
            .enumerate()
            .filter(|(_, f)| model::topic::matches(f, &topic))
            .map(|(i, _)| i.to_string())
            .collect();
        wanted.sort();
        prop_assert_eq!(found(&trie, &topic), wanted);
        for (i, filter) in filters.iter().enumerate() {
            prop_assert!(trie.remove(filter, &i.to_string()));
        }
        prop_assert!(trie.is_empty() && trie.root.read().node.is_empty());
        prop_assert_eq!(trie.root.read().memory.bytes(), 0);
    }
}
