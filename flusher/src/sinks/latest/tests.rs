use buffer::frame::Record;
use model::{Value, ValueRef};
use proptest::prelude::*;

use super::LatestMap;
use crate::testing::{device, frame, plain};

type Event = (i64, Option<u64>, i64, Option<i64>, Option<i64>);

fn apply(map: &mut LatestMap, events: &[Event]) {
    let owner = std::sync::Arc::new(device(0, 1));
    let schema = std::sync::Arc::new(model::Schema::new(["a", "b"]));
    let frame = frame(0, |staged| {
        for (time, seq, received, a, b) in events {
            let header = buffer::frame::ReadingHeader { time: *time, seq: *seq, received: *received, ..plain() };
            staged.reading(&owner, &schema, &header, [a.map(ValueRef::Int), b.map(ValueRef::Int)]);
        }
    });
    for (_, record) in frame.records() {
        let Record::Reading(reading) = record else { panic!("a reading") };
        let place = map.place(reading.device);
        let before = map.get(reading.device);
        map.apply(place, &reading);
        let after = map.get(reading.device).unwrap();
        for held in before.iter().flat_map(|state| &state.values) {
            let now = after.values.iter().find(|v| v.name == held.name).unwrap();
            assert!((now.time, now.seq, now.received) >= (held.time, held.seq, held.received), "never backwards");
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let value = || proptest::option::of(0_i64..1_000);
    (0_i64..20, proptest::option::of(0_u64..4), 0_i64..1_000_000, value(), value())
}

proptest! {
    #[test]
    fn readings_in_any_order_and_taken_twice_end_in_the_same_state(
        events in proptest::collection::vec(event(), 1..40),
        order in any::<u64>(),
    ) {
        let mut events = events;
        // One message, one receive time.
        events.sort_by_key(|e| (e.0, e.1, e.2));
        events.dedup_by_key(|e| (e.0, e.1, e.2));
        let mut shuffled = events.clone();
        shuffled.sort_by_key(|e| (e.2.cast_unsigned() ^ order).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        shuffled.extend_from_slice(&events[..events.len() / 2]);
        let (mut straight, mut other) = (LatestMap::default(), LatestMap::default());
        apply(&mut straight, &events);
        apply(&mut other, &shuffled);
        let (a, b) = (straight.get(&device(0, 1)).unwrap(), other.get(&device(0, 1)).unwrap());
        prop_assert_eq!(a.values, b.values);
        prop_assert_eq!((a.first_seen, a.last_seen, a.clock_skew), (b.first_seen, b.last_seen, b.clock_skew));
    }
}

#[test]
fn old_readings_fill_names_that_are_missing_and_change_no_newer_value() {
    let mut map = LatestMap::default();
    apply(&mut map, &[(100, None, 1, Some(1), None), (50, None, 2, Some(2), Some(3))]);
    let state = map.get(&device(0, 1)).unwrap();
    let values: Vec<_> = state.values.iter().map(|v| (&*v.name, v.value.clone(), v.time)).collect();
    assert_eq!(values, [("a", Value::Int(1), 100), ("b", Value::Int(3), 50)]);
    assert_eq!((state.readings, state.first_seen, state.last_seen), (2, 1, 2));
}

/// Readings of one device with 200 names each, no name twice.
fn new_names(count: usize) -> buffer::frame::Frame {
    let owner = std::sync::Arc::new(device(0, 1));
    frame(0, |staged| {
        for message in 0..count / 200 {
            let schema = std::sync::Arc::new(model::Schema::new((0..200).map(|n| format!("name-{message}-{n}"))));
            let header = buffer::frame::ReadingHeader { time: message as i64, received: message as i64, ..plain() };
            staged.reading(&owner, &schema, &header, (0..200).map(|n| Some(ValueRef::Int(n))));
        }
    })
}

fn apply_all(map: &mut LatestMap, frame: &buffer::frame::Frame) -> u64 {
    let mut left_out = 0;
    for (_, record) in frame.records() {
        let Record::Reading(reading) = record else { panic!("a reading") };
        let place = map.place(reading.device);
        left_out += map.apply(place, &reading);
    }
    left_out
}

#[test]
fn names_are_taken_and_merged_in_linear_time() {
    stores::testing::assert_linear(new_names, |frame| {
        let (mut map, mut bounded) = (LatestMap::default(), LatestMap::with_max_names(1_000));
        assert_eq!(apply_all(&mut map, frame), 0);
        assert!(apply_all(&mut bounded, frame) > 0);
        let state = map.get(&device(0, 1)).unwrap();
        map.merge(state);
    });
}

#[test]
fn of_too_many_names_those_with_the_newest_values_are_kept_and_none_goes_backwards() {
    let mut map = LatestMap::with_max_names(1_000);
    let left_out = apply_all(&mut map, &new_names(100_000));
    let state = map.get(&device(0, 1)).unwrap();
    assert!((875..=1_000).contains(&state.values.len()), "{}", state.values.len());
    assert_eq!(left_out + state.values.len() as u64, 100_000);
    assert!(state.values.iter().all(|value| value.time >= 494), "the newest five messages");
    // The same messages again: what was left out does not come back.
    assert_eq!(apply_all(&mut map, &new_names(90_000)), 0);
    assert_eq!(map.get(&device(0, 1)).unwrap().values, state.values);
}
