//! Promises of a store of dead letters.

use weir_stores::contract::{DeadLetters, Deadletter, LetterBound, is_last};

use crate::world::World;

pub(crate) fn letter(tenant: &str, log: &str, offset: u64, stage: &str) -> Deadletter {
    Deadletter {
        log: log.into(),
        offset,
        tenant: tenant.into(),
        device: (!offset.is_multiple_of(2)).then(|| "d/1".into()),
        client: "c$".into(),
        topic: "t/ü".into(),
        payload: vec![0, 255, b'$'],
        received: 7,
        stage: stage.into(),
        reason: "no JSON".into(),
        replayed: None,
    }
}

async fn put(store: &impl DeadLetters, letters: Vec<Deadletter>) {
    store.put(letters).await.unwrap();
}

pub(crate) async fn a_letter_that_is_there_already_changes_nothing(mut world: impl World) {
    let store = world.open().await;
    put(store, Vec::new()).await;
    let first = letter("default", "l", 3, "ingest");
    put(store, vec![first.clone()]).await;
    store.mark_replayed("default", "l", 3, "ingest", 99).await.unwrap();
    put(store, vec![Deadletter { reason: "another".into(), ..first.clone() }, letter("default", "l", 4, "ingest")])
        .await;
    let marked = Deadletter { replayed: Some(99), ..first };
    assert_eq!(store.get("default", "l", 3, "ingest").await.unwrap(), Some(marked));
    assert_eq!(DeadLetters::count(store).await.unwrap(), [("default".into(), 2)]);
    let replayed = async |stage: &str| store.count_replayed(stage).await.unwrap().iter().map(|(_, n)| n).sum::<u64>();
    assert_eq!((replayed("ingest").await, replayed("points").await), (1, 0));
}

pub(crate) async fn letters_are_listed_in_order_and_in_pages(mut world: impl World) {
    let store = world.open().await;
    let mut all = Vec::new();
    for log in ["a", "b"] {
        // Offsets whose texts do not sort as their numbers do.
        for offset in [2, 10, 255, 256, 1 << 40] {
            all.extend(["history", "ingest"].map(|stage| letter("default", log, offset, stage)));
        }
    }
    put(store, all.iter().rev().cloned().collect()).await;
    put(store, vec![letter("defaul", "a", 1, "ingest"), letter("default2", "a", 1, "ingest")]).await;
    let mut listed: Vec<Deadletter> = Vec::new();
    loop {
        let after = listed.last().map(|l| (&*l.log, l.offset, &*l.stage));
        let page = store.list("default", after, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        let page = page.clone();
        listed.extend(page);
    }
    assert_eq!(listed, all);
    assert_eq!(store.list("default", None, 0).await.unwrap(), []);
    assert_eq!(store.list("unknown", None, 10).await.unwrap(), []);
}

pub(crate) async fn a_list_ends_when_it_is_long_and_the_newest_are_found_without_it(mut world: impl World) {
    let store = world.open().await;
    let large = |offset| Deadletter { payload: vec![7; 1 << 20], ..letter("default", "l", offset, "ingest") };
    put(store, (1..=12).map(large).collect()).await;
    put(store, vec![letter("default", "l2", 1, "ingest"), letter("other", "l", 99, "ingest")]).await;
    let page = store.list("default", None, 1_000).await.unwrap();
    assert!((4..=5).contains(&page.len()) && !is_last(&page, 1_000), "{} MiB", page.len());
    let (mut offsets, mut after) = (Vec::new(), (String::new(), 0, String::new()));
    loop {
        let page = store.list("default", Some((&after.0, after.1, &after.2)), 1_000).await.unwrap();
        offsets.extend(page.iter().map(|letter| (letter.log.to_string(), letter.offset)));
        if is_last(&page, 1_000) {
            break;
        }
        let last = page.last().expect("not the last page");
        after = (last.log.to_string(), last.offset, last.stage.clone());
    }
    let mut wanted: Vec<_> = (1..=12).map(|offset| ("l".to_owned(), offset)).collect();
    wanted.push(("l2".to_owned(), 1));
    assert_eq!(offsets, wanted);
    let newest = store.newest("default", "l", 2).await.unwrap();
    assert_eq!(newest.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [12, 11]);
    assert_eq!(store.newest("default", "l", 100).await.unwrap().len(), 12);
    assert_eq!(store.newest("default", "none", 2).await.unwrap(), []);
}

pub(crate) async fn a_replayed_letter_is_marked(mut world: impl World) {
    let store = world.open().await;
    put(store, vec![letter("default", "l", 1, "ingest"), letter("default", "l", 1, "history")]).await;
    store.mark_replayed("default", "l", 1, "history", 5).await.unwrap();
    store.mark_replayed("default", "l", 8, "history", 5).await.unwrap();
    let replayed: Vec<_> = store.list("default", None, 9).await.unwrap().into_iter().map(|l| l.replayed).collect();
    assert_eq!(replayed, [Some(5), None]);
    assert_eq!(store.get("default", "l", 8, "history").await.unwrap(), None);
    assert_eq!(store.get("other", "l", 1, "history").await.unwrap(), None);
}

pub(crate) async fn beyond_a_bound_the_oldest_letters_of_the_largest_tenant_leave_and_are_counted(
    mut world: impl World,
) {
    let store = world.open().await;
    let at = |tenant: &str, log: &str, offset: u64, received| Deadletter {
        received,
        payload: vec![7; 1_000],
        ..letter(tenant, log, offset, "ingest")
    };
    // Two logs whose letters alternate in age, an export's letter that was replayed, another
    // tenant.
    put(store, (0..30).map(|n| at("many", if n % 2 == 0 { "a" } else { "b" }, n as u64, n)).collect()).await;
    let replayed = Deadletter { received: -5, ..letter("many", "a", 0, "influxdb") };
    put(store, vec![replayed.clone()]).await;
    store.mark_replayed("many", "a", 0, "influxdb", 9).await.unwrap();
    put(store, (0..5).map(|n| at("few", "a", n, -100)).collect()).await;
    let bound = LetterBound { count: 36, bytes: 1 << 30 };
    assert_eq!(store.trim(bound).await.unwrap(), 0, "as many as may be");
    assert_eq!(store.count_trimmed().await.unwrap(), []);
    let bound = LetterBound { count: 20, ..bound };
    let deleted = store.trim(bound).await.unwrap();
    assert_eq!(deleted, 17, "to a twentieth below the bound");
    let listed = store.list("many", None, 100).await.unwrap();
    assert!(listed.contains(&Deadletter { replayed: Some(9), ..replayed }), "the books count it");
    let mut ages: Vec<i64> = listed.iter().filter(|l| l.stage == "ingest").map(|l| l.received).collect();
    ages.sort_unstable();
    assert_eq!(ages, (17..30).collect::<Vec<i64>>(), "the oldest of both logs are gone");
    let mut counts = DeadLetters::count(store).await.unwrap();
    counts.sort();
    assert_eq!(counts, [("few".into(), 5), ("many".into(), 14)]);
    assert_eq!(store.count_trimmed().await.unwrap(), [("many".into(), 17)]);
    // The same bytes.
    assert_eq!(store.trim(bound).await.unwrap(), 0);
    let deleted = store.trim(LetterBound { bytes: 9_000, ..bound }).await.unwrap();
    assert!(deleted > 5, "{deleted}");
    let held: u64 = DeadLetters::count(store).await.unwrap().iter().map(|(_, count)| count).sum();
    assert_eq!(held, 19 - deleted);
    let again = world.open_again().await;
    assert_eq!(again.count_trimmed().await.unwrap().iter().map(|(_, count)| count).sum::<u64>(), 17 + deleted);
    // No more may leave: it ends.
    again.trim(LetterBound { count: 0, bytes: 0 }).await.unwrap();
    assert_eq!(again.list("many", None, 100).await.unwrap().len(), 1);
}

pub(crate) async fn letters_are_counted_by_tenant(mut world: impl World) {
    let store = world.open().await;
    assert_eq!(DeadLetters::count(store).await.unwrap(), []);
    put(store, (0..7).map(|i| letter("one", "l", i, "ingest")).collect()).await;
    put(store, (0..3).map(|i| letter("$two.x", "l", i, "ingest")).collect()).await;
    let mut counts = DeadLetters::count(store).await.unwrap();
    counts.sort();
    assert_eq!(counts, [("$two.x".into(), 3), ("one".into(), 7)]);
    assert_eq!(DeadLetters::count(world.open_again().await).await.unwrap().len(), 2);
}
