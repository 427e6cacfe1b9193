//! Latest states of several writers, and their readers.

use model::{DeviceKey, Value};
use proptest::prelude::*;
use weir_stores::contract::{Latest, LatestState, LatestValue, LatestView};

use super::shared_world;
use crate::data::{device, some};
use crate::latest::{state, value};
use crate::world::World;

fn any_state(id: usize) -> impl Strategy<Value = LatestState> {
    let entry = (0_i64..5, proptest::option::of(0_u64..3), 0_i64..4);
    let values = prop::collection::btree_map("[abc.$]", entry, 0..4);
    (0_i64..100, 0_i64..100, 1_u64..50, -50_i64..50, values).prop_map(
        move |(first_seen, last_seen, readings, clock_skew, values)| {
            // Time, sequence and receive time determine the value.
            let values = values.into_iter().map(|(name, (time, seq, received))| {
                let number = time * 100 + seq.map_or(0, |s| s as i64 * 10 + 10) + received;
                LatestValue { order: time - time % 2, ..value(&name, Value::Int(number), time, seq, received) }
            });
            LatestState {
                device: device(&format!("d{id}")),
                first_seen,
                last_seen,
                readings,
                clock_skew,
                values: values.collect(),
            }
        },
    )
}

/// Returns the expected state after all of these, in any order.
fn merged(states: &[LatestState]) -> LatestState {
    let mut all: Vec<LatestValue> = states.iter().flat_map(|s| s.values.clone()).collect();
    all.sort_by_key(|v| (v.name.to_string(), v.age()));
    let mut values: Vec<LatestValue> = Vec::new();
    for value in all {
        values.retain(|held| held.name != value.name);
        values.push(value);
    }
    LatestState {
        device: states[0].device.clone(),
        first_seen: states.iter().map(|s| s.first_seen).min().unwrap(),
        last_seen: states.iter().map(|s| s.last_seen).max().unwrap(),
        readings: states.iter().map(|s| s.readings).max().unwrap(),
        clock_skew: states.iter().map(|s| s.clock_skew).max_by_key(|skew| (skew.abs(), *skew)).unwrap(),
        values,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_of_several_writers_merge_in_any_order_to_the_same() {
    let mut world = shared_world!();
    let store = world.open().await;
    let mut expected = Vec::new();
    let mut rounds = vec![Vec::new(); 5];
    for id in 0..60 {
        let states = some(any_state(id), 4);
        expected.push(merged(&states));
        states.iter().enumerate().for_each(|(i, state)| rounds[(i + id) % 4].push(state.clone()));
        // One of them is written again, last.
        rounds[4].push(states[id % 4].clone());
    }
    for round in rounds {
        Latest::store(store, round).await.unwrap();
    }
    let mut held = store.load(None, 1_000).await.unwrap();
    held.sort_by(|a, b| a.device.cmp(&b.device));
    expected.sort_by(|a, b| a.device.cmp(&b.device));
    assert_eq!(held, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_one_time_lose_nothing() {
    let mut world = shared_world!();
    let store = world.open().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        writers.spawn(async move {
            for time in 0..10 {
                let values = |_| vec![value(&format!("v{writer}"), Value::Int(time), time, None, time)];
                let states = (0..20).map(|d| state(&format!("d{d}"), values(d))).collect::<Vec<_>>();
                loop {
                    match Latest::store(&store, states.clone()).await {
                        Ok(()) => break,
                        Err(weir_stores::StoreError::Busy { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        });
    }
    tokio::time::timeout(std::time::Duration::from_secs(60), writers.join_all()).await.unwrap();
    for state in store.load(None, 1_000).await.unwrap() {
        let values: Vec<_> = state.values.iter().map(|v| (v.name.to_string(), v.value.clone())).collect();
        assert_eq!(values, (0..4).map(|w| (format!("v{w}"), Value::Int(9))).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_asked_for_and_listed_by_device() {
    let mut world = shared_world!();
    let store = world.open().await;
    let of =
        |tenant: &str, id: &str| LatestState { device: DeviceKey::new(tenant, id).unwrap(), ..state("x", Vec::new()) };
    let mut states: Vec<LatestState> = (0..25).map(|d| of("default", &format!("d{d:02}"))).collect();
    states.push(of("defaul", "d05"));
    states.push(of("default.2", "d05"));
    states.push(of("default", "d/$"));
    Latest::store(store, states.clone()).await.unwrap();
    let asked = [states[3].device.clone(), device("unknown"), states[25].device.clone(), states[3].device.clone()];
    let expected = [Some(states[3].clone()), None, Some(states[25].clone()), Some(states[3].clone())];
    assert_eq!(store.get(&asked).await.unwrap(), expected);
    assert_eq!(store.get(&[]).await.unwrap(), []);
    let mut listed: Vec<LatestState> = Vec::new();
    loop {
        let after = listed.last().map(|s| s.device.id.to_string());
        let page = store.list("default", after.as_deref(), 10).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    let mut expected: Vec<LatestState> = states.into_iter().filter(|s| &*s.device.tenant == "default").collect();
    expected.sort_by(|a, b| a.device.id.cmp(&b.device.id));
    assert_eq!(listed, expected);
}
