use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Moment {
    Moment::after(Duration::from_millis(3_600_000 + millis))
}

fn limits(pairs: &[(&str, u64)]) -> Limits {
    let mut limits = Limits::default();
    pairs.iter().for_each(|(name, limit)| limits.set(name, NonZeroU64::new(*limit)).unwrap());
    limits
}

fn wait(device: &DeviceMeter, bytes: usize, now: Moment) -> Duration {
    device.reserve(bytes, now).map_or(Duration::ZERO, |wait| now.until(wait.until))
}

fn limited(tenant: &TenantMeter, quota: Quota) -> u64 {
    tenant.usage().limited.iter().find(|(known, _)| *known == quota).unwrap().1
}

#[test]
fn a_burst_passes_at_once_and_each_further_message_waits_for_its_place() {
    let tenant = TenantMeter::new(&limits(&[("messages_per_second", 10), ("message_burst", 3)]));
    let device = tenant.device("d");
    let waits: Vec<_> = (0..6).map(|_| wait(&device, 1, at(0))).collect();
    assert_eq!(waits, [0, 0, 0, 100, 200, 300].map(|ms| ms * MS));
    assert_eq!(limited(&tenant, Quota::Messages), 3);
    // After a pause the burst is there again, and no more than it.
    let waits: Vec<_> = (0..4).map(|_| wait(&device, 1, at(60_000))).collect();
    assert_eq!(waits, [0, 0, 0, 100].map(|ms| ms * MS));
}

#[test]
fn connections_that_wait_are_served_in_turn_at_the_rate() {
    let tenant = TenantMeter::new(&limits(&[("messages_per_second", 100), ("message_burst", 1)]));
    let devices: Vec<_> = (0..4).map(|n| tenant.device(&format!("d{n}"))).collect();
    // Each device sends the next message when the one before it was handled.
    let mut due: Vec<(Moment, usize)> = (0..4).map(|n| (at(0), n)).collect();
    let mut handled = [0; 4];
    loop {
        due.sort();
        let (now, n) = due[0];
        if now >= at(1000) {
            break;
        }
        match devices[n].reserve(1, now) {
            Some(wait) => due[0].0 = wait.until,
            // Without a wait there was room; it is handled in no time.
            None => due[0].0 = now,
        }
        handled[n] += 1;
    }
    let total: u32 = handled.iter().sum();
    assert!((100..=108).contains(&total), "{handled:?}");
    assert!(handled.iter().all(|one| one.abs_diff(total / 4) <= 3), "each has its share: {handled:?}");
}

#[test]
fn a_wait_that_is_cancelled_leaves_its_room_to_others() {
    let tenant = TenantMeter::new(&limits(&[("messages_per_second", 10), ("message_burst", 1), ("byte_burst", 1)]));
    let device = tenant.device("d");
    assert_eq!(wait(&device, 1, at(0)), Duration::ZERO);
    let first = device.reserve(1, at(0)).unwrap();
    assert_eq!((at(0).until(first.until), first.quota), (80 * MS, Quota::Messages));
    device.cancel(first);
    assert_eq!(wait(&device, 1, at(0)), 80 * MS, "the room of the first one");
}

#[test]
fn a_message_larger_than_the_burst_passes_and_the_next_one_waits_for_it() {
    let tenant = TenantMeter::new(&limits(&[("bytes_per_second", 1000), ("byte_burst", 100)]));
    let device = tenant.device("d");
    assert_eq!(wait(&device, 2000, at(0)), Duration::ZERO);
    let next = device.reserve(10, at(0)).unwrap();
    assert_eq!((at(0).until(next.until), next.quota), (1901 * MS, Quota::Bytes));
}

#[test]
fn the_limit_of_a_device_holds_for_its_connections_together_and_for_no_other_device() {
    let tenant = TenantMeter::new(&limits(&[("device_messages_per_second", 1), ("device_message_burst", 2)]));
    let (one, again, other) = (tenant.device("d1"), tenant.device("d1"), tenant.device("d2"));
    assert_eq!((wait(&one, 1, at(0)), wait(&again, 1, at(0))), (Duration::ZERO, Duration::ZERO));
    assert_eq!(wait(&one, 1, at(0)), 1000 * MS);
    assert_eq!(wait(&other, 1, at(0)), Duration::ZERO);
    assert_eq!(limited(&tenant, Quota::DeviceMessages), 1);
}

#[test]
fn without_limits_nothing_is_paced_and_a_change_holds_at_once() {
    let tenant = TenantMeter::new(&Limits::default());
    let device = tenant.device("d");
    assert!(!device.paces());
    assert!((0..10_000).all(|_| device.reserve(1 << 20, at(0)).is_none()));
    tenant.set(&limits(&[("device_bytes_per_second", 1)]));
    assert!(device.paces());
    assert!(device.reserve(1000, at(0)).is_none());
    let long = device.reserve(1, at(0)).unwrap();
    assert!(at(0).until(long.until) > 900_000 * MS && !device.is_outdated(&long));
    tenant.set(&limits(&[("device_bytes_per_second", 1000)]));
    assert!(device.is_outdated(&long), "the one who waits asks again");
    device.cancel(long);
    assert!(device.reserve(1000, at(0)).is_none(), "what was used under the old limit is forgotten");
    let next = device.reserve(1, at(0)).unwrap();
    assert_eq!(at(0).until(next.until), MS);
}

#[test]
fn the_largest_limits_and_messages_overflow_nothing() {
    let most = limits(&[("messages_per_second", u64::MAX), ("message_burst", u64::MAX), ("bytes_per_second", 1)]);
    let tenant = TenantMeter::new(&most);
    let device = tenant.device("d");
    assert!(device.reserve(usize::MAX, at(0)).is_none());
    let long = device.reserve(usize::MAX, at(0)).unwrap();
    assert_eq!(long.quota, Quota::Bytes);
    assert!(device.reserve(usize::MAX, long.until).is_none_or(|wait| wait.until >= long.until));
}

#[test]
fn connections_are_counted_until_they_close() {
    let tenant = TenantMeter::new(&limits(&[("connections", 3), ("device_connections", 2)]));
    let (d1, d2) = (tenant.device("d1"), tenant.device("d2"));
    let first = d1.connect(false, at(0)).unwrap();
    let _second = d1.connect(false, at(0)).unwrap();
    let refused = d1.connect(false, at(0)).unwrap_err();
    assert_eq!(refused, Exceeded { quota: Quota::DeviceConnections, limit: 2, retry_after: None });
    let _third = d2.connect(false, at(0)).unwrap();
    let refused = d2.connect(false, at(0)).unwrap_err();
    assert_eq!((refused.quota, refused.limit), (Quota::Connections, 3));
    assert_eq!(
        refused.to_string(),
        "the limit connections = 3 of the tenant is reached: close one first, or raise the limit"
    );
    let over = d1.connect(true, at(0)).unwrap();
    assert_eq!(tenant.usage().connections, 4, "one that takes over another is counted beside it for a moment");
    drop((first, over));
    assert!(d2.connect(false, at(0)).is_ok());
    assert_eq!((limited(&tenant, Quota::Connections), limited(&tenant, Quota::DeviceConnections)), (1, 1));
}

#[test]
fn a_device_has_eight_connections_by_default() {
    let tenant = TenantMeter::new(&Limits::default());
    let device = tenant.device("d");
    let held: Vec<_> = (0..DEVICE_CONNECTIONS).map(|_| device.connect(false, at(0)).unwrap()).collect();
    assert_eq!(device.connect(false, at(0)).unwrap_err().limit, DEVICE_CONNECTIONS);
    drop(held);
    assert_eq!(tenant.usage().connections, 0);
}

#[test]
fn the_rate_of_connects_is_not_used_up_by_those_that_are_refused() {
    let tenant =
        TenantMeter::new(&limits(&[("connects_per_second", 1), ("connect_burst", 2), ("device_connections", 1)]));
    let device = tenant.device("d");
    let _held = device.connect(false, at(0)).unwrap();
    assert_eq!(device.connect(false, at(0)).unwrap_err().quota, Quota::DeviceConnections);
    let _other = tenant.device("d2").connect(false, at(0)).unwrap();
    let refused = device.connect(true, at(0)).unwrap_err();
    assert_eq!(refused, Exceeded { quota: Quota::Connects, limit: 1, retry_after: Some(1000 * MS) });
    assert_eq!(refused.to_string(), "the limit connects_per_second = 1 of the tenant is reached: try again in 1001 ms");
    assert!(device.connect(true, at(1000)).is_ok());
}

#[test]
fn calls_are_held_to_the_rates_of_the_key_and_of_the_tenant() {
    let names = [("calls_per_second", 10), ("call_burst", 3), ("key_calls_per_second", 10), ("key_call_burst", 2)];
    let tenant = TenantMeter::new(&limits(&names));
    let (one, other) = (tenant.caller(), tenant.caller());
    assert!(one.call(at(0)).is_ok() && one.clone().call(at(0)).is_ok());
    let refused = one.call(at(0)).unwrap_err();
    assert_eq!(refused, Exceeded { quota: Quota::KeyCalls, limit: 10, retry_after: Some(100 * MS) });
    assert!(other.call(at(0)).is_ok());
    assert_eq!(other.call(at(0)).unwrap_err().quota, Quota::Calls);
    // The refused call gave its key's room back.
    assert!(other.call(at(100)).is_ok());
    assert_eq!(tenant.usage().calls, 4);
    assert_eq!((limited(&tenant, Quota::Calls), limited(&tenant, Quota::KeyCalls)), (1, 1));
}

#[test]
fn streams_are_counted_until_they_end() {
    let tenant = TenantMeter::new(&limits(&[("streams", 1)]));
    let (one, other) = (tenant.caller(), tenant.caller());
    let open = one.stream().unwrap();
    assert_eq!(other.stream().unwrap_err().quota, Quota::Streams);
    drop(open);
    assert!(other.stream().is_ok());
}

#[test]
fn a_device_leaves_the_table_with_its_last_meter() {
    let tenant = TenantMeter::new(&Limits::default());
    let meter = tenant.device("d");
    let permit = meter.clone().connect(false, at(0)).unwrap();
    drop(meter);
    assert_eq!(tenant.devices.lock().len(), 1, "its connection is open");
    assert_eq!(Arc::strong_count(&tenant), 2);
    drop(permit);
    assert_eq!(tenant.devices.lock().len(), 0);
}

#[test]
fn limits_are_named_alike_in_the_registry_and_in_the_errors() {
    let names: Vec<_> = Limits::names().collect();
    for quota in Quota::ALL.into_iter().filter(|quota| *quota != Quota::Changes) {
        assert!(names.contains(&quota.name()), "{}", quota.name());
    }
    let mut all = Limits::default();
    names.iter().for_each(|name| all.set(name, NonZeroU64::new(7)).unwrap());
    assert!(all.iter().all(|(_, limit)| limit == NonZeroU64::new(7)));
    let error = all.set("message_per_second", None).unwrap_err().to_string();
    assert!(error.starts_with("there is no limit \"message_per_second\": use connections, "), "{error}");
    assert_ne!(all, Limits::default());
}

#[test]
fn the_things_that_a_door_keeps_have_limits() {
    let names = [("sessions", 1), ("subscriptions", 2), ("retained_messages", 3)];
    let tenant = TenantMeter::new(&limits(&names));
    let device = tenant.device("d");
    let all = [
        (Kept::Sessions, Quota::Sessions, 1),
        (Kept::Subscriptions, Quota::Subscriptions, 2),
        (Kept::RetainedMessages, Quota::RetainedMessages, 3),
    ];
    for (kept, quota, most) in all {
        assert!(device.has_room(kept, most - 1) && !device.has_room(kept, most), "{kept:?}");
        assert_eq!(limited(&tenant, quota), 1);
        assert!(!quota.is_rate());
    }
    tenant.set(&Limits::default());
    assert!(all.iter().all(|(kept, ..)| device.has_room(*kept, usize::MAX - 1)));
}

fn names<'a>(
    of: &'a [(&'a str, &'a [&'a str])],
) -> impl Iterator<Item = (&'a str, std::iter::Copied<std::slice::Iter<'a, &'a str>>)> {
    of.iter().map(|(device, names)| (*device, names.iter().copied()))
}

#[test]
fn new_devices_and_series_are_refused_beyond_their_limits_and_known_ones_go_on() {
    let tenant = TenantMeter::new(&limits(&[("devices", 2), ("series", 3)]));
    let device = tenant.device("d1");
    assert!(device.counts_series() && !tenant.is_counted());
    // Those of earlier starts are not read yet.
    for known in [("d1", ["a", "b"]), ("d2", ["a", "b"])] {
        assert!(device.admit(names(&[(known.0, &known.1)])).is_ok());
    }
    assert!(tenant.learn("d3", ["a"].into_iter()));
    tenant.learnt_all(tenant.count_begun());
    assert_eq!(tenant.usage().known, Some((3, 5)), "more than the limits");
    assert!(device.admit(names(&[("d1", &["a"]), ("d2", &["b", "a"]), ("d3", &["a"])])).is_ok());
    let refused = device.admit(names(&[("d1", &["a"]), ("d4", &["a"])])).unwrap_err();
    assert_eq!((refused.quota, refused.limit, refused.retry_after), (Quota::Devices, 2, None));
    let refused = device.admit(names(&[("d1", &["a", "c"])])).unwrap_err();
    assert_eq!(refused.to_string(), "the limit series = 3 of the tenant is reached: known ones go on; raise the limit");
    assert_eq!((limited(&tenant, Quota::Devices), limited(&tenant, Quota::Series)), (1, 1));
    // Nothing of a message that was refused is known afterwards.
    tenant.set(&limits(&[("devices", 4), ("series", 6)]));
    assert!(device.admit(names(&[("d4", &["a"])])).is_ok());
    assert_eq!(tenant.usage().known, Some((4, 6)));
    assert!(device.admit(names(&[("d5", &["a"])])).is_err());
    // Without limits nothing is remembered.
    tenant.set(&Limits::default());
    assert!(!device.counts_series() && tenant.usage().known.is_none() && tenant.remembered() == 0);
}

#[test]
fn devices_are_counted_alone_when_series_are_not_limited() {
    let tenant = TenantMeter::new(&limits(&[("devices", 2)]));
    let device = tenant.device("d1");
    let values: Vec<String> = (0..=MAX_COUNTED).map(|value| value.to_string()).collect();
    assert!(tenant.learn("d1", values.iter().map(String::as_str)));
    tenant.learnt_all(tenant.count_begun());
    let many: Vec<&str> = values.iter().map(String::as_str).collect();
    assert!(device.admit(names(&[("d2", &many)])).is_ok());
    assert_eq!((tenant.usage().known, tenant.remembered()), (Some((2, 0)), 2));
    assert!(device.admit(names(&[("d3", &["a"])])).is_err());
}

#[test]
fn a_message_with_very_many_new_names_is_refused_as_one() {
    let tenant = TenantMeter::new(&limits(&[("series", 3)]));
    tenant.learnt_all(tenant.count_begun());
    let device = tenant.device("d1");
    let values: Vec<String> = (0..100_000).map(|value| value.to_string()).collect();
    let many: Vec<&str> = values.iter().map(String::as_str).collect();
    assert!(device.admit(names(&[("d1", &many)])).is_err());
    assert_eq!((tenant.remembered(), limited(&tenant, Quota::Series)), (0, 1));
    assert!(device.admit(names(&[("d1", &["a", "b", "a", "b", "c"])])).is_ok(), "each counts once");
}

#[test]
fn until_those_of_earlier_starts_are_read_no_more_are_remembered_than_can_be_counted() {
    let tenant = TenantMeter::new(&limits(&[("series", 3)]));
    let device = tenant.device("d1");
    let values: Vec<String> = (0..MAX_COUNTED).map(|value| value.to_string()).collect();
    let many: Vec<&str> = values.iter().map(String::as_str).collect();
    assert!(device.admit(names(&[("d1", &many)])).is_ok() && device.admit(names(&[("d2", &many)])).is_ok());
    assert_eq!(tenant.remembered() as u64, MAX_COUNTED);
}

#[test]
fn a_limit_that_is_set_anew_makes_the_count_begin_anew() {
    let tenant = TenantMeter::new(&limits(&[("devices", 2)]));
    let begun = tenant.count_begun();
    assert!(tenant.learn("d1", ["a"].into_iter()));
    tenant.set(&limits(&[("devices", 2), ("series", 1)]));
    tenant.learnt_all(begun);
    assert!(!tenant.is_counted(), "the series of d1 are not known");
    assert!(tenant.learn("d1", ["a"].into_iter()));
    tenant.learnt_all(tenant.count_begun());
    tenant.set(&limits(&[("devices", 3), ("series", 2)]));
    assert_eq!(tenant.usage().known, Some((1, 1)), "other limits change nothing");
    tenant.set(&limits(&[("series", 2)]));
    assert_eq!(tenant.usage().known, Some((0, 1)));
}

#[test]
fn a_limit_that_cannot_be_counted_is_named() {
    assert_eq!(limits(&[("series", MAX_COUNTED)]).uncountable(), None);
    assert_eq!(limits(&[("devices", MAX_COUNTED + 1)]).uncountable(), Some("devices"));
}

#[test]
fn a_tenant_makes_so_many_changes_at_once_and_then_at_a_rate_also_after_its_limits_were_changed() {
    let tenant = TenantMeter::new(&Limits::default());
    let (one, two) = (tenant.caller(), tenant.caller());
    for change in 0..CHANGES_PER_MINUTE {
        if change % 2 == 0 { one.change(at(0)) } else { two.change(at(0)) }.unwrap();
    }
    tenant.set(&Limits::default());
    let refused = one.change(at(0)).unwrap_err();
    assert_eq!(refused, Exceeded { quota: Quota::Changes, limit: 600, retry_after: Some(100 * MS) });
    assert!(refused.to_string().contains("changes_per_minute = 600"), "{refused}");
    two.change(at(100)).unwrap();
    assert!(one.change(at(100)).is_err());
    assert_eq!(limited(&tenant, Quota::Changes), 2);
    // Calls are another limit.
    one.call(at(100)).unwrap();
}

#[test]
fn a_device_is_in_quarantine_as_the_newest_version_of_it_says() {
    let tenant = TenantMeter::new(&Limits::default());
    let (device, same) = (tenant.device("d"), tenant.device("d"));
    device.set_quarantine(1, true);
    assert!(!same.is_quarantined(), "its tenant holds nothing");
    tenant.set_quarantines(true);
    assert!(same.is_quarantined() && !tenant.device("e").is_quarantined());
    device.set_quarantine(2, false);
    device.set_quarantine(1, true);
    assert!(!same.is_quarantined(), "it was adopted since");
    device.set_quarantine(3, true);
    assert!(same.is_quarantined());
}
