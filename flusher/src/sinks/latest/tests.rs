use buffer::frame::Record;
use model::{Value, ValueRef};
use proptest::prelude::*;

use stores::contract::LatestValue;

use super::{Bounds, LatestMap};
use crate::testing::{device, frame, plain, stage};

const NAMES: Bounds = Bounds { names: 1_000, device_bytes: u64::MAX, bytes: u64::MAX };

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
            // The same value again may have been received earlier.
            let place = |v: &LatestValue| (v.order, v.time, v.seq);
            let same = place(now) == place(held) && now.value == held.value;
            assert!(same || now.age() >= held.age(), "never backwards");
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

/// Values of `a` after each event, with their times in seconds.
fn shown(events: &[Event]) -> Vec<(Value, i64)> {
    let mut map = LatestMap::default();
    let shown = |event: &Event, map: &mut LatestMap| {
        apply(map, std::slice::from_ref(event));
        let held = &map.get(&device(0, 1)).unwrap().values[0];
        (held.value.clone(), held.time / model::time::SECOND)
    };
    events.iter().map(|event| shown(event, &mut map)).collect()
}

/// Value `a`, measured and received at these seconds.
fn at(time: i64, received: i64, value: i64) -> Event {
    (time * model::time::SECOND, None, received * model::time::SECOND, Some(value), None)
}

#[test]
fn a_clock_that_was_set_back_does_not_hide_what_the_device_sends_now() {
    // An hour ahead, then right.
    let events = [at(4_600, 1_000, 1), at(4_610, 1_010, 2), at(1_020, 1_020, 3), at(1_030, 1_030, 4)];
    let values: Vec<_> = shown(&events).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [1, 2, 3, 4].map(Value::Int));
    // An hour ahead, then an hour behind, then right.
    let events = [at(4_600, 1_000, 1), at(-2_590, 1_010, 2), at(-2_580, 1_020, 3), at(1_030, 1_030, 4)];
    let values: Vec<_> = shown(&events).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [1, 2, 3, 4].map(Value::Int));
}

#[test]
fn a_right_clock_that_is_set_ahead_does_not_hide_it_either() {
    let events = [at(1_000, 1_000, 1), at(4_610, 1_010, 2), at(1_009, 1_010, 3), at(4_630, 1_030, 4)];
    let values: Vec<_> = shown(&events).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [1, 2, 3, 4].map(Value::Int));
}

#[test]
fn late_readings_of_a_right_clock_change_no_newer_value() {
    let events = [at(1_000, 1_000, 1), at(400, 1_010, 2), at(1_021, 1_020, 3), at(500, 1_030, 4), at(1_040, 1_040, 5)];
    let values: Vec<_> = shown(&events).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [1, 1, 3, 3, 5].map(Value::Int));
}

#[test]
fn rows_of_one_message_keep_the_order_of_their_times_though_the_clock_is_ahead() {
    let row = |time: i64, place: i64| {
        Event::from((time * model::time::SECOND, None, 1_000 * model::time::SECOND + place, Some(time), None))
    };
    let newest_first = [row(4_600, 0), row(4_500, 1), row(900, 2)];
    assert_eq!(shown(&newest_first).last(), Some(&(Value::Int(4_600), 4_600)));
    let newest_last = [row(900, 0), row(4_500, 1), row(4_600, 2)];
    assert_eq!(shown(&newest_last).last(), Some(&(Value::Int(4_600), 4_600)));
}

#[test]
fn taking_a_log_with_a_wrong_clock_again_ends_in_the_same_state() {
    let events = [at(10, 10, 1), at(4_600, 1_000, 2), at(1_010, 1_010, 3), at(700, 1_020, 4), at(1_030, 1_030, 5)];
    let mut map = LatestMap::default();
    for count in 1..=events.len() {
        apply(&mut map, &events[..count]);
        let once = map.get(&device(0, 1)).unwrap().values;
        let mut again = LatestMap::default();
        apply(&mut again, &events[..count]);
        assert_eq!(again.get(&device(0, 1)).unwrap().values, once);
    }
}

#[test]
fn a_value_that_is_sent_again_was_received_when_it_came_first() {
    let mut map = LatestMap::default();
    apply(&mut map, &[(100, Some(1), 200, Some(1), None), (100, Some(1), 900, Some(1), None)]);
    assert_eq!(map.get(&device(0, 1)).unwrap().values[0].received, 200);
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
        let (mut map, mut bounded) = (LatestMap::default(), LatestMap::new(NAMES));
        assert_eq!(apply_all(&mut map, frame), 0);
        assert!(apply_all(&mut bounded, frame) > 0);
        let state = map.get(&device(0, 1)).unwrap();
        map.merge(state);
    });
}

#[test]
fn of_too_many_names_those_with_the_newest_values_are_kept_and_none_goes_backwards() {
    let mut map = LatestMap::new(NAMES);
    let left_out = apply_all(&mut map, &new_names(100_000));
    let state = map.get(&device(0, 1)).unwrap();
    assert!((875..=1_000).contains(&state.values.len()), "{}", state.values.len());
    assert_eq!(left_out + state.values.len() as u64, 100_000);
    assert!(state.values.iter().all(|value| value.time >= 494), "the newest five messages");
    // The same messages again: what was left out does not come back.
    assert_eq!(apply_all(&mut map, &new_names(90_000)), 0);
    assert_eq!(map.get(&device(0, 1)).unwrap().values, state.values);
}

/// Takes reading `n`, of device `n` modulo `devices`.
fn take(map: &mut LatestMap, n: u64, devices: u64) -> u32 {
    let frame = frame(n, |staged| stage(staged, "default", n, devices));
    let Some((_, Record::Reading(reading))) = frame.records().next() else { panic!("a reading") };
    let place = map.place(reading.device);
    map.apply(place, &reading);
    place
}

/// A bound in which this many states of [`stage`] fit.
fn room_for(states: u64) -> Bounds {
    let mut map = LatestMap::default();
    for n in 0..8 {
        take(&mut map, n, 8);
    }
    Bounds { names: 100, device_bytes: u64::MAX, bytes: map.bytes() / 8 * states + 1 }
}

#[test]
fn stored_states_leave_a_full_memory_in_the_order_in_which_they_were_stored() {
    let mut map = LatestMap::new(room_for(10));
    map.set_whole();
    let places: Vec<u32> = (0..20).map(|n| take(&mut map, n, 1_000)).collect();
    places.iter().for_each(|place| map.pin(*place));
    map.shrink();
    assert_eq!(map.list("default", None, 100).len(), 20, "none is stored");
    assert_eq!((map.pinned_bytes(), map.is_whole()), (map.bytes(), true));

    // Device 3 was stored last, device 4 has changes of two batches.
    map.pin(places[4]);
    map.unpin(&places[10..20]);
    map.unpin(&[&places[..3], &places[4..10], &places[3..4]].concat());
    let left: Vec<u64> = (0..20).filter(|n| map.get(&device(*n, 1_000)).is_some()).collect();
    assert_eq!(left.len(), 10);
    assert!(left.contains(&3) && left.contains(&4) && !left.iter().any(|n| *n > 9), "{left:?}");
    assert!(!map.is_whole());
    (100..109).for_each(|n| {
        let place = take(&mut map, n, 1_000);
        map.pin(place);
        map.shrink();
    });
    let left: Vec<u64> = (0..20).filter(|n| map.get(&device(*n, 1_000)).is_some()).collect();
    assert_eq!(left, [4], "device 3 was the last of the others");
    map.unpin(&[places[4]]);
    map.shrink();
    assert!((9..=10).contains(&map.list("default", None, 100).len()));

    // Places are used again, and the order does not keep what is over.
    for n in 0..100_000 {
        let place = take(&mut map, n, 5_000);
        map.pin(place);
        map.unpin(&[place]);
    }
    assert!(map.bytes() <= room_for(10).bytes);
}

#[test]
fn a_device_that_left_and_comes_back_goes_on_where_it_was_once_its_stored_state_is_filled_in() {
    let (mut map, mut whole) = (LatestMap::new(room_for(3)), LatestMap::default());
    let mut stored = std::collections::HashMap::new();
    for n in 0..200_u64 {
        // Some devices come back often, some late.
        let n = n * n % 57;
        take(&mut whole, n, 10);
        let place = take(&mut map, n, 10);
        map.pin(place);
        let partial = map.partial([&device(n, 10)]);
        assert_eq!(partial.is_empty(), map.has_all_of(&device(n, 10)));
        partial.iter().for_each(|partial| map.fill(partial, stored.get(&device(n, 10)).cloned()));
        // A second answer of the store changes nothing.
        partial.iter().for_each(|partial| map.fill(partial, stored.get(&device(n, 10)).cloned()));
        let state = map.get(&device(n, 10)).unwrap();
        assert_eq!(Some(&state), whole.get(&device(n, 10)).as_ref());
        stored.insert(device(n, 10), state);
        map.unpin(&[place]);
    }
    assert_eq!(stored.len(), 10);
}

#[test]
fn an_answer_for_a_state_that_has_left_meanwhile_is_not_taken() {
    let mut map = LatestMap::new(room_for(1));
    let stored = {
        let mut before = LatestMap::default();
        take(&mut before, 0, 100);
        before.get(&device(0, 100)).unwrap()
    };
    let place = take(&mut map, 100, 100);
    let [partial] = &map.partial([&device(0, 100)])[..] else { panic!("a partial state") };
    let partial = partial.clone();
    map.fill(&partial, Some(stored.clone()));
    map.pin(place);
    map.unpin(&[place]);
    take(&mut map, 1, 100);
    map.shrink();
    assert_eq!(map.get(&device(0, 100)), None, "it has left");
    take(&mut map, 200, 100);
    map.fill(&partial, Some(stored));
    assert_eq!(map.get(&device(0, 100)).unwrap().readings, 1, "the store has more by now");
    assert!(!map.has_all_of(&device(0, 100)));
}

#[test]
fn one_device_has_a_bound_in_bytes_too() {
    let mut map = LatestMap::new(Bounds { names: usize::MAX, device_bytes: 20_000, bytes: u64::MAX });
    let left_out = apply_all(&mut map, &new_names(2_000));
    let state = map.get(&device(0, 1)).unwrap();
    assert_eq!(left_out + state.values.len() as u64, 2_000);
    assert!((50..200).contains(&state.values.len()), "{}", state.values.len());
    assert!(map.bytes() < 40_000, "{}", map.bytes());
}

#[test]
fn a_tenant_that_is_forgotten_has_no_states_and_those_that_are_written_stay_as_places_only() {
    let mut map = LatestMap::new(NAMES);
    map.set_whole();
    let other = model::DeviceKey::new("other", "d0").unwrap();
    let owners = [device(0, 2), device(1, 2), other];
    let schema = std::sync::Arc::new(model::Schema::new(["a"]));
    let frame = frame(0, |staged| {
        for owner in &owners {
            staged.reading(&std::sync::Arc::new(owner.clone()), &schema, &plain(), [Some(ValueRef::Int(1))]);
        }
    });
    let take = |map: &mut LatestMap| {
        let mut places = Vec::new();
        for (_, record) in frame.records() {
            let Record::Reading(reading) = record else { panic!("a reading") };
            places.push(map.place(reading.device));
            map.apply(*places.last().unwrap(), &reading);
        }
        places
    };
    let places = take(&mut map);
    map.pin(places[0]);
    map.unpin(&[]);
    map.forget(&owners[0].tenant);
    map.forget("none");
    assert!(map.is_whole());
    assert_eq!((map.get(&owners[0]), map.get(&owners[1])), (None, None));
    assert!(map.list(&owners[0].tenant, None, 9).is_empty());
    assert!(map.get(&owners[2]).is_some());
    assert_eq!(map.at(places[0]).readings, 0);
    // The place is still counted once.
    map.unpin(&places[..1]);
    assert_eq!(map.pinned_bytes(), 0);
    map.forget(&owners[0].tenant);
    map.forget(&owners[2].tenant);
    assert_eq!(map.bytes(), 0);
    take(&mut map);
    assert_eq!(map.get(&owners[0]).unwrap().readings, 1, "it begins again");
}
