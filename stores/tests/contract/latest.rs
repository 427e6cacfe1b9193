//! Promises of a store of latest states.

use model::{DeviceKey, Value};
use weir_stores::contract::{Latest, LatestState, LatestValue, LatestView};

use crate::data::device;
use crate::world::World;

pub(crate) fn value(name: &str, value: Value, time: i64, seq: Option<u64>, received: i64) -> LatestValue {
    LatestValue { name: name.into(), value, time, order: time, seq, received }
}

pub(crate) fn state(id: &str, values: Vec<LatestValue>) -> LatestState {
    LatestState { device: device(id), first_seen: 10, last_seen: 20, readings: 3, clock_skew: -4, values }
}

async fn load(store: &impl Latest) -> Vec<LatestState> {
    let mut states = store.load(None, 100).await.unwrap();
    states.sort_by(|a, b| a.device.cmp(&b.device));
    states
}

pub(crate) async fn states_come_back_as_they_were_stored(mut world: impl World) {
    let store = world.open().await;
    Latest::store(store, Vec::new()).await.unwrap();
    assert_eq!(load(store).await, []);
    let all = vec![
        state(
            "a",
            vec![
                value("f", Value::Float(0.1), i64::MAX - 1, Some(2), -3),
                value("i", Value::Int(i64::MIN), 1, None, 3),
            ],
        ),
        state("zigbee/küche", vec![value("b", Value::Bool(false), 1, Some(0), 3)]),
        LatestState { first_seen: -1, clock_skew: 1 << 50, ..state("without values", Vec::new()) },
    ];
    for _ in 0..2 {
        Latest::store(store, all.clone()).await.unwrap();
    }
    let mut expected = all;
    expected.sort_by(|a, b| a.device.cmp(&b.device));
    assert_eq!(load(store).await, expected);
    assert_eq!(load(world.open_again().await).await, expected);
}

pub(crate) async fn states_are_found_by_device_and_read_in_pages(mut world: impl World) {
    let store = world.open().await;
    let of = |tenant: &str, n: i64| LatestState {
        device: DeviceKey::new(tenant, &format!("d{n}")).unwrap(),
        ..state("x", vec![value("x", Value::Int(n), n, None, n)])
    };
    let north: Vec<_> = (0..5).map(|n| of("north", n)).collect();
    let other = [of("north.2", 1), of("nort", 2)];
    Latest::store(store, north.iter().chain(&other).cloned().collect()).await.unwrap();

    let mut all = Vec::new();
    loop {
        let page = store.load(all.last().map(|state: &LatestState| &state.device), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    all.sort_by(|a, b| a.device.cmp(&b.device));
    let mut expected: Vec<_> = north.iter().chain(&other).cloned().collect();
    expected.sort_by(|a, b| a.device.cmp(&b.device));
    assert_eq!(all, expected, "each once");

    let unknown = DeviceKey::new("north", "d").unwrap();
    let asked = [north[3].device.clone(), unknown, other[0].device.clone(), north[3].device.clone()];
    let found = store.get(&asked).await.unwrap();
    assert_eq!(found, [Some(north[3].clone()), None, Some(other[0].clone()), Some(north[3].clone())]);

    assert_eq!(store.list("north", None, 2).await.unwrap(), north[..2]);
    assert_eq!(store.list("north", Some("d1"), 10).await.unwrap(), north[2..]);
    assert_eq!(store.list("north", Some("d4"), 10).await.unwrap(), []);
    assert_eq!(store.list("north", None, 0).await.unwrap(), []);
    assert_eq!(store.list("south", None, 10).await.unwrap(), []);
}

pub(crate) async fn a_newer_state_takes_the_place_of_an_older_one(mut world: impl World) {
    let store = world.open().await;
    let first = state("a", vec![value("x", Value::Int(1), 100, Some(1), 5), value("y", Value::Int(1), 100, None, 5)]);
    let second = LatestState {
        last_seen: 30,
        readings: 4,
        clock_skew: 9,
        // Another type, an equal time with a later sequence; an unchanged value; a new name.
        values: vec![
            value("x", Value::Str("$on".into()), 100, Some(2), 4),
            value("y", Value::Int(1), 100, None, 5),
            value("z", Value::Float(-0.5), 90, None, 6),
        ],
        ..first.clone()
    };
    Latest::store(store, vec![first.clone()]).await.unwrap();
    Latest::store(store, vec![second.clone()]).await.unwrap();
    assert_eq!(load(store).await, std::slice::from_ref(&second));
    // An earlier time that was ordered by its arrival: the device's clock was set back.
    let back = LatestValue { order: 101, ..value("x", Value::Int(9), 50, Some(3), 101) };
    let third = LatestState { values: vec![back, second.values[1].clone(), second.values[2].clone()], ..second };
    Latest::store(store, vec![third.clone()]).await.unwrap();
    assert_eq!(load(store).await, [third]);
}

pub(crate) async fn texts_and_names_of_all_kinds_survive(mut world: impl World) {
    let store = world.open().await;
    let mut values: Vec<LatestValue> = ["", "$", "$set", "a.b.c", "．＄％", "ü\0", "0", "_id", "t", "v"]
        .into_iter()
        .map(|name| value(name, Value::Str(format!("$$ROOT.{name}").into()), 1, Some(7), 2))
        .collect();
    values.sort_by(|a, b| a.name.cmp(&b.name));
    let states = vec![state("$d.x", values)];
    for _ in 0..2 {
        Latest::store(store, states.clone()).await.unwrap();
    }
    assert_eq!(load(store).await, states);
}
