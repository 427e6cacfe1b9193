//! The deletion of all that is held of a tenant, in slices, with others beside it.

use model::{TimeRange, Value};
use weir_stores::contract::{DeadLetters, History, Latest, LetterBound, RetainedMessage, TenantCounts, TenantData};
use weir_stores::testing::load_retained;

use crate::data::{START, block};
use crate::history::all;
use crate::latest::{state, value};
use crate::letters::letter;
use crate::world::World;

/// The tenant that is deleted, and others whose names begin with its own or are close to it.
const TENANTS: [&str; 4] = ["north", "nort", "north.2", "northern"];
const DEVICES: [&str; 3] = ["a", "line/1", "z"];
/// Entries of one slice.
const SLICE: usize = 2;

fn device(tenant: &str, id: &str) -> model::DeviceKey {
    model::DeviceKey::new(tenant, id).unwrap()
}

async fn fill(store: &impl weir_stores::contract::Store) {
    for tenant in TENANTS {
        for id in DEVICES {
            let device = device(tenant, id);
            // Two weeks, so that the embedded store has them in two files.
            let week = weir_stores::block::PARTITION / crate::data::SECOND;
            store.write(vec![block(&device, 0, 10), block(&device, week + 5, 10)]).await.unwrap();
            let held = weir_stores::contract::LatestState {
                device,
                ..state(id, vec![value("temperature", Value::Int(1), 5, Some(1), 7)])
            };
            Latest::store(store, vec![held]).await.unwrap();
        }
        store.sync().await.unwrap();
        let letters = (0..5).map(|offset| letter(tenant, "l", offset, "ingest"));
        store.put(letters.collect()).await.unwrap();
        let message = |topic: &str| RetainedMessage {
            tenant: tenant.into(),
            topic: topic.to_owned(),
            qos: 1,
            payload: b"on".to_vec(),
            properties: Vec::new(),
            received: 1,
        };
        store.apply(["a", "b/c", "d"].map(message).to_vec()).await.unwrap();
    }
}

const FULL: TenantCounts = TenantCounts { readings: 60, latest_states: 3, dead_letters: 5, retained_messages: 3 };

async fn counts(store: &impl TenantData) -> [TenantCounts; 4] {
    let mut counts = [TenantCounts::default(); 4];
    for (count, tenant) in counts.iter_mut().zip(TENANTS) {
        *count = store.count_of(tenant).await.unwrap();
    }
    counts
}

pub(crate) async fn a_tenant_is_deleted_in_slices_and_no_other_loses_anything(mut world: impl World) {
    let store = world.open().await;
    fill(store).await;
    assert_eq!(counts(store).await, [FULL; 4]);
    let total = |counts: TenantCounts| counts.named().iter().map(|(_, count)| count).sum::<u64>();
    let (mut slices, mut left) = (0, total(FULL));
    while store.delete_some_of(TENANTS[0], SLICE).await.unwrap() {
        slices += 1;
        let now = total(store.count_of(TENANTS[0]).await.unwrap());
        // Blocks of ten rows and entries of three kinds at most.
        assert!(left - now <= 3 * 10 * SLICE as u64, "a slice is small: {left} to {now}");
        left = now;
    }
    assert!(slices >= 4, "{slices}");
    assert_eq!(counts(store).await, [TenantCounts::default(), FULL, FULL, FULL]);
    for id in DEVICES {
        assert!(all(store, &device(TENANTS[0], id), TimeRange::ALL).await.is_empty());
        assert_eq!(all(store, &device(TENANTS[1], id), TimeRange::ALL).await.len(), 2);
    }
    assert!(store.list(TENANTS[0], None, 9).await.unwrap().is_empty());
    assert!(load_retained(store).await.unwrap().iter().all(|message| *message.tenant != *TENANTS[0]));
    let held = |counts: Vec<(std::sync::Arc<str>, u64)>| counts.iter().any(|(tenant, _)| **tenant == *TENANTS[0]);
    assert!(!held(History::count(store).await.unwrap()) && !held(DeadLetters::count(store).await.unwrap()));
    // A slice more, and after opening again, there is nothing.
    assert!(!store.delete_some_of(TENANTS[0], SLICE).await.unwrap());
    let store = world.open_again().await;
    assert_eq!(counts(store).await, [TenantCounts::default(), FULL, FULL, FULL]);
}

pub(crate) async fn a_deletion_that_was_interrupted_is_continued(mut world: impl World) {
    let store = world.open().await;
    fill(store).await;
    assert!(store.delete_some_of(TENANTS[0], SLICE).await.unwrap());
    let store = world.open_again().await;
    let left = store.count_of(TENANTS[0]).await.unwrap();
    assert!(left != FULL && !left.is_empty(), "a slice is durable: {left:?}");
    while store.delete_some_of(TENANTS[0], SLICE).await.unwrap() {}
    assert!(store.count_of(TENANTS[0]).await.unwrap().is_empty());
}

pub(crate) async fn old_readings_of_one_tenant_are_deleted_and_still_count(mut world: impl World) {
    let store = world.open().await;
    fill(store).await;
    let before = History::count(store).await.unwrap();
    // The second block of each device begins five seconds into the next week.
    let between = START + weir_stores::block::PARTITION + crate::data::SECOND;
    assert_eq!(store.expire_of(TENANTS[0], between).await.unwrap(), 30);
    assert_eq!(store.expire_of(TENANTS[0], between).await.unwrap(), 0);
    let left = TenantCounts { readings: 30, ..FULL };
    assert_eq!(counts(store).await, [left, FULL, FULL, FULL]);
    for id in DEVICES {
        assert_eq!(all(store, &device(TENANTS[0], id), TimeRange::ALL).await.len(), 1);
    }
    let sorted = |mut counts: Vec<(std::sync::Arc<str>, u64)>| {
        counts.sort();
        counts
    };
    assert_eq!(sorted(History::count(store).await.unwrap()), sorted(before.clone()));
    let store = world.open_again().await;
    assert_eq!(sorted(History::count(store).await.unwrap()), sorted(before));
}

pub(crate) async fn counts_of_what_left_before_are_deleted_too(mut world: impl World) {
    let store = world.open().await;
    fill(store).await;
    store.expire(START + weir_stores::block::PARTITION).await.unwrap();
    store.trim(LetterBound { count: 3, bytes: u64::MAX }).await.unwrap();
    while store.delete_some_of(TENANTS[0], SLICE).await.unwrap() {}
    let others = |counts: Vec<(std::sync::Arc<str>, u64)>| counts.iter().all(|(tenant, _)| **tenant != *TENANTS[0]);
    assert!(others(History::count(store).await.unwrap()));
    assert!(others(store.count_trimmed().await.unwrap()));
    assert!(store.count_of(TENANTS[1]).await.unwrap().readings > 0);
}
