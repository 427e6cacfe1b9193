//! A decision about a topic costs no allocation.

use weir_door::Grants;

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
