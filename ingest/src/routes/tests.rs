use model::glob::Glob;

use super::topic::Pattern;
use super::*;

fn route(topic: &str) -> Route {
    Route { topic: OneOrMany::One(topic.into()), ..Route::default() }
}

fn captured(topic: &str, template: &str) -> Option<Vec<(&'static str, String)>> {
    let captures = Pattern::parse(template).unwrap().captures(topic)?;
    Some(["device", "name"].into_iter().filter_map(|n| Some((n, captures.get(n)?.to_owned()))).collect())
}

#[test]
fn templates_capture_levels_parts_of_levels_and_several_levels() {
    let device = |text: &str| Some(vec![("device", text.to_owned())]);
    assert_eq!(captured("devices/d1/telemetry", "devices/{device}/telemetry"), device("d1"));
    assert_eq!(captured("tele/tasmota_7/SENSOR", "tele/tasmota_{device}/SENSOR"), device("7"));
    assert_eq!(captured("zigbee2mqtt/kitchen/lamp", "zigbee2mqtt/{device...}"), device("kitchen/lamp"));
    assert_eq!(captured("a/b/c/state", "{device...}/state"), device("a/b/c"));
    assert_eq!(captured("/x/d1", "/x/{device}"), device("d1"));
    assert_eq!(captured("devices//telemetry", "devices/{device}/telemetry"), None);
    assert_eq!(captured("$SYS/x", "{device}/x"), None);
    assert_eq!(captured("a/d1/any/thing", "a/{device}/#"), device("d1"));
}

#[test]
fn faults_name_the_route_and_the_key() {
    let fault = |route: Route| {
        let error = Routes::new(&[self::route("ok/{device}"), route]).unwrap_err();
        (error.number, error.key)
    };
    assert_eq!(fault(route("a/{device")), (2, "topic"));
    assert_eq!(fault(route("a/#/b")), (2, "topic"));
    assert_eq!(fault(route("a/{x}")), (2, "device"), "the device is not captured");
    assert_eq!(fault(Route { zone: "Mars/Phobos".into(), ..route("a/{device}") }), (2, "zone"));
    assert_eq!(fault(Route { prefix: "{x}".into(), ..route("a/{device}") }), (2, "prefix"));
    assert_eq!(fault(route("ok/{device}")), (2, "topic"), "never reached");
    assert_eq!(fault(Route { topic: OneOrMany::Many(vec![]), ..Route::default() }), (2, "topic"));
}

#[test]
fn globs_match_as_shells_do() {
    for (glob, name, yes) in [
        ("temp*", "temperature", true),
        ("*.x", "a.x", true),
        ("a*c*e", "abcde", true),
        ("a", "ab", false),
        ("*", "", true),
    ] {
        assert_eq!(Glob::new(glob).matches(name), yes, "{glob} {name}");
    }
}
