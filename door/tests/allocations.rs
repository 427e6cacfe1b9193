//! A decision about a topic and the pacing of a message cost no allocation.

use std::num::NonZeroU64;

use weir_door::Grants;
use weir_door::quota::{Limits, Moment, TenantMeter};

#[test]
fn a_decision_about_a_topic_allocates_nothing() {
    let templates = ["tele/{device}/SENSOR", "stat/{device}/+", "devices/{device}/#"].map(str::to_owned);
    let grants = Grants::of(&templates, &templates, "d1").unwrap();
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            assert!(grants.may_publish("devices/d1/telemetry") && !grants.may_publish("devices/d2/telemetry"));
            assert!(grants.may_subscribe("$share/g/devices/d1/#") && !grants.may_subscribe("devices/+/#"));
            assert!(grants.may_receive("devices/d1/x") && !grants.may_receive("devices/d2/x"));
        }
    });
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_message_that_is_paced_allocates_nothing() {
    let rate = NonZeroU64::new(1000);
    let limits = Limits { messages_per_second: rate, device_bytes_per_second: rate, ..Limits::default() };
    let tenant = TenantMeter::new(&limits);
    let device = tenant.device("d1");
    let counted = allocation_counter::measure(|| {
        let mut waited = 0;
        for _ in 0..2000 {
            if let Some(wait) = device.reserve(100, Moment::now()) {
                waited += 1;
                device.cancel(wait);
            }
            device.count(1, 100);
        }
        assert!(waited > 500, "{waited}");
    });
    assert_eq!(counted.count_total, 0);
}
