//! Two tenants with the same device id, topic, client id and value names: nothing of one is ever
//! seen by the other.

use std::sync::Arc;

use model::{DeviceKey, TimeRange, Value};
use weir_stores::Block;
use weir_stores::contract::{DeadLetters, Deadletter, History, Latest, LatestState, Retained, RetainedMessage};
use weir_stores::testing::load_retained;

use crate::data::{block, integers};
use crate::history::all;
use crate::latest::{state, value};
use crate::letters::letter;
use crate::world::World;

const TENANTS: [&str; 2] = ["north", "north.2"];

fn device_of(tenant: &str) -> DeviceKey {
    DeviceKey::new(tenant, "line/1").unwrap()
}

fn number(tenant: &str) -> i64 {
    if tenant == TENANTS[0] { 1 } else { 2 }
}

pub(crate) async fn equal_readings_of_two_tenants_stay_apart(mut world: impl World) {
    let store = world.open().await;
    let blocks = TENANTS.map(|tenant| block(&device_of(tenant), 0, 10 * number(tenant)));
    store.write(blocks.to_vec()).await.unwrap();
    store.write(blocks.to_vec()).await.unwrap();
    store.sync().await.unwrap();
    for (tenant, block) in TENANTS.iter().zip(&blocks) {
        let found: Vec<Block> = all(store, &device_of(tenant), TimeRange::ALL).await;
        assert_eq!(found, std::slice::from_ref(block));
        assert_eq!(integers(&found[0]).len() as i64, 10 * number(tenant));
    }
    let mut counts = History::count(store).await.unwrap();
    counts.sort();
    assert_eq!(counts, [(TENANTS[0].into(), 10), (TENANTS[1].into(), 20)]);
}

pub(crate) async fn equal_devices_of_two_tenants_have_their_own_latest_state(mut world: impl World) {
    let store = world.open().await;
    let states = TENANTS.map(|tenant| {
        let values = vec![value("temperature", Value::Int(number(tenant)), 5, Some(1), 7)];
        LatestState { device: device_of(tenant), ..state("line/1", values) }
    });
    Latest::store(store, states.to_vec()).await.unwrap();
    let later = LatestState { last_seen: 90, ..states[1].clone() };
    Latest::store(store, vec![later.clone()]).await.unwrap();
    let mut held = Latest::load(store, None, 10).await.unwrap();
    held.sort_by(|a, b| a.device.cmp(&b.device));
    assert_eq!(held, [states[0].clone(), later]);
}

pub(crate) async fn equal_letters_of_two_tenants_stay_apart(mut world: impl World) {
    let store = world.open().await;
    let letters = TENANTS.map(|tenant| letter(tenant, "l", 3, "ingest"));
    store.put(letters.to_vec()).await.unwrap();
    store.mark_replayed(TENANTS[1], "l", 3, "ingest", 9).await.unwrap();
    let marked = Deadletter { replayed: Some(9), ..letters[1].clone() };
    for (tenant, letter) in TENANTS.iter().zip([letters[0].clone(), marked]) {
        assert_eq!(store.get(tenant, "l", 3, "ingest").await.unwrap(), Some(letter.clone()));
        assert_eq!(store.list(tenant, None, 9).await.unwrap(), [letter]);
    }
    let mut counts = DeadLetters::count(store).await.unwrap();
    counts.sort();
    assert_eq!(counts, TENANTS.map(|tenant| (Arc::from(tenant), 1)));
}

pub(crate) async fn equal_topics_of_two_tenants_retain_their_own_message(mut world: impl World) {
    let store = world.open().await;
    let message = |tenant: &str, received, payload: &str| RetainedMessage {
        tenant: tenant.into(),
        topic: "line/1/state".into(),
        qos: 1,
        payload: payload.into(),
        properties: Vec::new(),
        received,
    };
    let held = async |store: &_| {
        let mut all = load_retained(store).await.unwrap();
        all.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        all
    };
    let both = TENANTS.map(|tenant| message(tenant, 1, tenant));
    store.apply(both.to_vec()).await.unwrap();
    assert_eq!(held(store).await, both);
    store.apply(vec![message(TENANTS[0], 2, ""), message(TENANTS[1], 2, "on")]).await.unwrap();
    assert_eq!(held(store).await, [message(TENANTS[1], 2, "on")]);
    assert_eq!(held(world.open_again().await).await, [message(TENANTS[1], 2, "on")]);
}
