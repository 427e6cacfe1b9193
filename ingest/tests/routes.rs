//! Routes for payloads of known sources, and each key of a route.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use model::{Reading, Value};
use weir_ingest::{Limits, MapOutcome, Route, Routes, Rules, StoredMessage, map};

/// 2025-10-09T08:53:20Z
const NOW: i64 = 1_760_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

#[derive(serde::Deserialize)]
struct File {
    route: Vec<Route>,
}

fn rules(routes: &str) -> Rules {
    let file: File = toml::from_str(routes).expect("the routes are TOML");
    Rules::new(Routes::new(&file.route).expect("the routes are good"), Limits::default(), Arc::default())
}

fn outcome(routes: &str, topic: &str, payload: &str) -> MapOutcome {
    let message = StoredMessage {
        tenant: "default",
        client: "c1",
        topic,
        payload: payload.as_bytes(),
        received: NOW,
        retain: false,
        device: None,
    };
    map(&rules(routes), &message)
}

fn all(routes: &str, topic: &str, payload: &str) -> Vec<Reading> {
    match outcome(routes, topic, payload) {
        MapOutcome::Readings(readings) => readings,
        other => panic!("{topic} {payload}: {other:?}"),
    }
}

fn one(routes: &str, topic: &str, payload: &str) -> Reading {
    let mut all = all(routes, topic, payload);
    assert_eq!(all.len(), 1, "{topic} {payload}: {all:?}");
    all.remove(0)
}

fn refused(routes: &str, topic: &str, payload: &str) -> String {
    match outcome(routes, topic, payload) {
        MapOutcome::Refused(reason) => reason,
        other => panic!("{topic} {payload}: {other:?}"),
    }
}

/// Device, seconds and values in one comparable text: `d1 1700000000 a=1 b=true`; `-` for no time
/// of its own.
fn line(reading: &Reading) -> String {
    use std::fmt::Write;
    let mut out = reading.device.id.to_string();
    match reading.device_timed {
        true => write!(out, " {}", reading.time / SECOND).unwrap(),
        false => out.push_str(" -"),
    }
    for (name, value) in &reading.values {
        match value {
            Value::Str(text) => write!(out, " {name}={text:?}").unwrap(),
            Value::Float(v) => write!(out, " {name}={v:?}").unwrap(),
            other => write!(out, " {name}={other}").unwrap(),
        }
    }
    out
}

fn lines(routes: &str, topic: &str, payload: &str) -> Vec<String> {
    all(routes, topic, payload).iter().map(line).collect()
}

#[test]
fn tasmota_sensors_states_and_presence_are_read() {
    let routes = r#"
        [[route]]
        topic = "tele/{device}/LWT"
        kind = "presence"
        [[route]]
        topic = ["tele/{device}/SENSOR", "tele/{device}/STATE"]
        time = "Time"
        zone = "Europe/Berlin"
        exclude = ["*Unit", "Wifi.*"]
        [route.fields]
        "POWER*" = { true = ["ON"], false = ["OFF"] }
        "ENERGY.TotalStartTime" = { drop = true }
    "#;
    let sensor = r#"{"Time":"2025-07-01T12:00:00","ENERGY":{"TotalStartTime":"2024-01-01T00:00:00","Total":12.345,
        "Power":42,"Factor":0.91},"DS18B20":{"Id":"01131B5","Temperature":21.5},"TempUnit":"C"}"#;
    let wanted = r#"plug7 1751364000 ENERGY.Total=12.345 ENERGY.Power=42 ENERGY.Factor=0.91 DS18B20.Id="01131B5" DS18B20.Temperature=21.5"#;
    assert_eq!(lines(routes, "tele/plug7/SENSOR", sensor), [wanted]);
    let state =
        r#"{"Time":"2025-07-01T12:00:00","Uptime":"0T01:00:00","POWER1":"ON","POWER2":"OFF","Wifi":{"RSSI":60}}"#;
    let wanted = r#"plug7 1751364000 Uptime="0T01:00:00" POWER1=true POWER2=false"#;
    assert_eq!(lines(routes, "tele/plug7/STATE", state), [wanted]);
    assert_eq!(lines(routes, "tele/plug7/LWT", "Online"), ["plug7 - online=true"]);
    assert_eq!(lines(routes, "tele/plug7/LWT", "Offline"), ["plug7 - online=false"]);
    assert_eq!(lines(routes, "tele/plug7/LWT", ""), ["plug7 - online=false"], "withdrawn");
    assert!(refused(routes, "tele/plug7/LWT", "maybe").contains("neither online nor offline"));
}

#[test]
fn zigbee2mqtt_names_with_slashes_are_one_device() {
    let routes = r#"
        [[route]]
        topic = ["zigbee2mqtt/bridge/#", "zigbee2mqtt/{device...}/set", "zigbee2mqtt/{device...}/get"]
        kind = "ignore"
        [[route]]
        topic = "zigbee2mqtt/{device...}/availability"
        kind = "presence"
        [[route]]
        topic = "zigbee2mqtt/{device...}"
        time = "last_seen"
        exclude = ["update*", "device.*"]
    "#;
    let payload = r#"{"battery":97,"contact":false,"last_seen":"2025-10-09T08:00:00+02:00","linkquality":120,
        "update":{"state":"idle"},"update_available":null,"color":{"x":0.37,"y":0.38},"action":""}"#;
    let wanted =
        r#"floor 1/door 1759989600 battery=97 contact=false linkquality=120 color.x=0.37 color.y=0.38 action="""#;
    assert_eq!(lines(routes, "zigbee2mqtt/floor 1/door", payload), [wanted]);
    assert_eq!(lines(routes, "zigbee2mqtt/lamp/availability", r#"{"state":"online"}"#), ["lamp - online=true"]);
    assert_eq!(lines(routes, "zigbee2mqtt/a/b/availability", "offline"), ["a/b - online=false"]);
    for topic in ["zigbee2mqtt/bridge/devices", "zigbee2mqtt/lamp/set", "zigbee2mqtt/bridge"] {
        assert_eq!(outcome(routes, topic, "{}"), MapOutcome::Plain, "{topic}");
    }
}

#[test]
fn shelly_of_both_generations() {
    let routes = r#"
        [[route]]
        topic = "shellies/{device}/online"
        kind = "presence"
        [[route]]
        topic = ["shellies/{device}/{kind}/{n}/{name}"]
        field = "{kind}.{n}.{name}"
        [[route]]
        topic = ["shellies/{device}/{kind}/{n}"]
        field = "{kind}.{n}"
        fields = { "relay.*" = { true = ["on"], false = ["off"] } }
        [[route]]
        topic = "{device}/events/rpc"
        when = { "$.method" = ["NotifyStatus", "NotifyFullStatus"] }
        device = "{$.src??device}"
        root = "$.params"
        time = "$.params.ts"
        strings = "drop"
    "#;
    assert_eq!(lines(routes, "shellies/plug-1/relay/0/power", "42.17"), ["plug-1 - relay.0.power=42.17"]);
    assert_eq!(lines(routes, "shellies/plug-1/relay/0", "on"), ["plug-1 - relay.0=true"]);
    assert_eq!(lines(routes, "shellies/plug-1/online", "true"), ["plug-1 - online=true"]);
    let rpc = r#"{"src":"shellyplus1pm-a8","dst":"x","method":"NotifyStatus","params":{"ts":1759999999.5,
        "switch:0":{"id":0,"apower":12.3,"output":true,"source":"button"}}}"#;
    let wanted = "shellyplus1pm-a8 1759999999 switch:0.id=0 switch:0.apower=12.3 switch:0.output=true";
    assert_eq!(lines(routes, "kitchen/events/rpc", rpc), [wanted]);
    assert_eq!(outcome(routes, "kitchen/events/rpc", r#"{"method":"NotifyEvent"}"#), MapOutcome::Plain);
}

#[test]
fn esphome_publishes_one_value_for_each_topic() {
    let routes = r#"
        [[route]]
        topic = "{device}/{component}/{name}/state"
        format = "value"
        field = "{name}"
        fields = { "*" = { null = ["unknown"] }, "door" = { true = ["ON"], false = ["OFF"] } }
        [[route]]
        topic = "{device}/status"
        kind = "presence"
    "#;
    assert_eq!(lines(routes, "attic/sensor/temperature/state", "21.4"), ["attic - temperature=21.4"]);
    assert_eq!(lines(routes, "attic/binary_sensor/door/state", "ON"), ["attic - door=true"]);
    for nothing in ["nan", "", "unknown", "NaN", "-inf"] {
        assert_eq!(lines(routes, "attic/sensor/temperature/state", nothing).len(), 0, "{nothing}");
    }
    assert_eq!(lines(routes, "attic/status", "online"), ["attic - online=true"]);
}

#[test]
fn lorawan_servers_wrap_the_payload() {
    let things = r#"
        [[route]]
        topic = "v3/{app}/devices/{device}/up"
        root = "$.uplink_message.decoded_payload"
        time = ["$.uplink_message.settings.time", "$.received_at"]
    "#;
    let payload = r#"{"end_device_ids":{"device_id":"soil-3","dev_eui":"70B3D57ED0001234"},
        "received_at":"2025-10-09T08:00:00.123456789Z","uplink_message":{"f_port":2,"f_cnt":14,"frm_payload":"AQI=",
        "decoded_payload":{"moisture":31.5,"temp":{"soil":12},"alarm":false},"rx_metadata":[{"rssi":-97,"snr":7.5}],
        "settings":{"frequency":"868100000"}}}"#;
    let wanted = "soil-3 1759996800 moisture=31.5 temp.soil=12 alarm=false";
    assert_eq!(lines(things, "v3/farm@ttn/devices/soil-3/up", payload), [wanted]);
    assert_eq!(one(things, "v3/farm@ttn/devices/soil-3/up", payload).time % SECOND, 123_456_789);

    let chirpstack = r#"
        [[route]]
        topic = "application/+/device/{eui}/event/up"
        device = "{$.deviceInfo.devEui|upper}"
        root = ["$.object", "$.rxInfo[0]"]
        time = ["$.time"]
        include = ["*"]
        exclude = ["gatewayId", "uplinkId", "location.*", "context", "metadata.*", "nsTime", "crcStatus"]
    "#;
    let payload = r#"{"deduplicationId":"3ac7e3c4","time":"2025-10-09T08:00:00+00:00","deviceInfo":{"tenantId":"52f1",
        "devEui":"0101010101010101"},"fCnt":4,"object":{"temperatureSensor":{"1":22.5}},
        "rxInfo":[{"gatewayId":"0016c001f153a14c","uplinkId":4217106255,"rssi":-36,"snr":10.5}]}"#;
    let wanted = "0101010101010101 1759996800 temperatureSensor.1=22.5 rssi=-36 snr=10.5";
    assert_eq!(lines(chirpstack, "application/1/device/0101010101010101/event/up", payload), [wanted]);
}

#[test]
fn owntracks_kinds_are_distinguished_by_the_payload() {
    let routes = r#"
        [[route]]
        topic = "owntracks/{user}/{phone}"
        device = "{user}/{phone}"
        when = { "$._type" = "location" }
        time = "tst"
        include = ["lat", "lon", "acc", "alt", "batt", "vel"]
        [[route]]
        topic = "owntracks/{user}/{phone}"
        device = "{user}/{phone}"
        when = { "$._type" = "lwt" }
        kind = "presence"
        state = "$._type"
        offline = ["lwt"]
    "#;
    let payload =
        r#"{"_type":"location","acc":14,"batt":82,"lat":52.52437,"lon":13.41053,"tid":"an","tst":1759999000}"#;
    let wanted = "anna/phone 1759999000 acc=14 batt=82 lat=52.52437 lon=13.41053";
    assert_eq!(lines(routes, "owntracks/anna/phone", payload), [wanted]);
    let lwt = r#"{"_type":"lwt","tst":1700000000}"#;
    assert_eq!(
        lines(routes, "owntracks/anna/phone", lwt),
        ["anna/phone - online=false"],
        "the will's time is that of connect"
    );
    assert_eq!(outcome(routes, "owntracks/anna/phone", r#"{"_type":"transition"}"#), MapOutcome::Plain);
}

#[test]
fn rtl_433_has_the_device_in_the_payload() {
    let routes = r#"
        [[route]]
        topic = "rtl_433/+/events"
        device = "{$.model|lower}-{$.id??$.channel}"
        exclude = ["model", "id", "channel", "mic"]
        zone = "America/New_York"
        fields = { temperature_F = { name = "temperature_C", scale = 0.5, offset = -16 }, battery_ok = { type = "bool" } }
    "#;
    let payload = r#"{"time":"2025-10-09 04:00:00","model":"Acurite-Tower","id":4242,"channel":"A","battery_ok":1,
        "temperature_F":70,"humidity":41,"mic":"CHECKSUM"}"#;
    let wanted = "acurite-tower-4242 1759996800 battery_ok=true temperature_C=19.0 humidity=41";
    assert_eq!(lines(routes, "rtl_433/pi/events", payload), [wanted]);
    let without = refused(routes, "rtl_433/pi/events", r#"{"model":"Generic"}"#);
    assert!(without.contains("$.id") && without.contains("device"), "{without}");
}

#[test]
fn victron_puts_a_value_into_an_object() {
    let routes = r#"
        [[route]]
        topic = "N/{device}/{service}/{instance}/{name...}"
        field = "{service}.{instance}.{name}"
        value = "$.value"
    "#;
    assert_eq!(
        lines(routes, "N/c0619ab/battery/256/Dc/0/Voltage", r#"{"value": 52.4}"#),
        ["c0619ab - battery.256.Dc/0/Voltage=52.4"]
    );
    assert_eq!(lines(routes, "N/c0619ab/battery/256/Soc", r#"{"value": null}"#).len(), 0);
    assert_eq!(lines(routes, "N/c0619ab/battery/256/Soc", r#"{"value": []}"#).len(), 0);
}

#[test]
fn rows_come_from_each_and_know_the_object_around_them() {
    let routes = r#"
        [[route]]
        topic = "gateway/{gateway}"
        each = "$.devices[*].readings[*]"
        device = "{@^.mac|lower}"
        field = "{@.name}"
        value = ["@.value", "@.text"]
        time = ["@.at", "@^.at", "$.at"]
        time_format = "ms"
    "#;
    let payload = r#"{"at":1759999000000,"devices":[
        {"mac":"AA","readings":[{"name":"t","value":1.5},{"name":"h","value":40,"at":1759999001000}]},
        {"mac":"BB","at":1759999002000,"readings":[{"name":"s","text":"ok"},{"value":7}]}]}"#;
    let wanted = ["aa 1759999000 t=1.5", "aa 1759999001 h=40", r#"bb 1759999002 s="ok""#];
    assert_eq!(lines(routes, "gateway/g1", payload), wanted, "a row whose name is missing holds nothing");
}

#[test]
fn rows_without_a_time_have_the_documents() {
    let routes = r#"
        [[route]]
        topic = "x/{device}"
        each = "$.rows"
        when = { "@.ok" = true }
        exclude = ["ok"]
    "#;
    let payload =
        r#"{"ts":1759999000,"rows":[{"ok":true,"v":1},{"ok":false,"v":2},{"ok":true,"v":3,"ts":1759999005}]}"#;
    assert_eq!(lines(routes, "x/d", payload), ["d 1759999000 v=1", "d 1759999005 v=3"]);
}

#[test]
fn later_routes_see_what_continue_lets_through() {
    let routes = r#"
        [[route]]
        topic = "m/{device}"
        include = ["a"]
        continue = true
        [[route]]
        topic = "m/{name}"
        device = "all/{name}"
        include = ["b"]
    "#;
    assert_eq!(lines(routes, "m/x", r#"{"a":1,"b":2}"#), ["x - a=1", "all/x - b=2"]);
}

#[test]
fn a_bad_row_of_one_route_refuses_the_message_of_all() {
    let routes = r#"
        [[route]]
        topic = "m/{device}"
        continue = true
        [[route]]
        topic = "m/{device}"
        device = "copy/{$.id}"
    "#;
    assert!(refused(routes, "m/x", r#"{"a":1}"#).contains("`$.id`"));
}

#[test]
fn strings_become_numbers_only_when_they_cannot_be_anything_else() {
    let routes = r#"
        [[route]]
        topic = "s/{device}"
        strings = "numbers"
        fields = { serial = { type = "string" }, meter = { type = "float" } }
    "#;
    for (text, wanted) in [
        ("21.5", "v=21.5"),
        ("-3", "v=-3"),
        ("0", "v=0"),
        ("0.25", "v=0.25"),
        ("00000401", r#"v="00000401""#),
        ("12e5", r#"v="12e5""#),
        ("+5", r#"v="+5""#),
        ("1234567890123456", r#"v="1234567890123456""#),
        ("123456789012345", "v=123456789012345"),
        ("1.", r#"v="1.""#),
        (".5", r#"v=".5""#),
        ("", r#"v="""#),
        ("-", r#"v="-""#),
    ] {
        assert_eq!(lines(routes, "s/d", &format!(r#"{{"v":"{text}"}}"#)), [format!("d - {wanted}")], "{text}");
    }
    assert_eq!(lines(routes, "s/d", r#"{"serial":"12","meter":"0012.50"}"#), [r#"d - serial="12" meter=12.5"#]);
}

#[test]
fn a_value_that_cannot_have_its_type_is_not_stored() {
    let routes = r#"
        [[route]]
        topic = "f/{device}"
        [route.fields]
        amp = { type = "float", scale = 0.001 }
        count = { type = "int" }
        mode = { map = { "0" = "off", "1" = "heat" } }
        code = { type = "string" }
        exact = { type = "bool", true = ["yes"], null = ["?"] }
        "e*" = { drop = true }
    "#;
    for (payload, wanted) in [
        (r#"{"amp":1500}"#, "amp=1.5"),
        (r#"{"amp":false,"count":2.0}"#, "count=2"),
        (r#"{"amp":"off","count":2.5,"code":7}"#, r#"code="7""#),
        (r#"{"mode":1,"exact":"yes","extra":1}"#, r#"mode="heat" exact=true"#),
        (r#"{"mode":2,"exact":"?"}"#, "mode=2"),
    ] {
        assert_eq!(lines(routes, "f/d", payload), [format!("d - {wanted}")], "{payload}");
    }
}

#[test]
fn times_have_formats_and_zones() {
    let time = |route: &str, payload: &str| {
        let route = format!("[[route]]\ntopic = \"t/{{device}}\"\n{route}");
        one(&route, "t/d", payload).time
    };
    let german = "time = \"at\"\ntime_format = \"%d.%m.%Y %H:%M:%S\"\nzone = \"Europe/Berlin\"";
    assert_eq!(time(german, r#"{"at":"09.10.2025 10:00:00","v":1}"#), 1_759_996_800 * SECOND);
    let offset = "time = \"at\"\ntime_format = \"%Y%m%dT%H%M%S%z\"";
    assert_eq!(time(offset, r#"{"at":"20251009T100000+0200","v":1}"#), 1_759_996_800 * SECOND);
    let parts = "time = \"{$.day}T{$.clock}\"\nzone = \"Europe/Berlin\"";
    assert_eq!(time(parts, r#"{"day":"2025-10-09","clock":"10:00:00","v":1}"#), 1_759_996_800 * SECOND);
    assert_eq!(time("time = \"at\"\ntime_format = \"s\"", r#"{"at":"1759996800","v":1}"#), 1_759_996_800 * SECOND);
    // Berlin, 2024-10-27: 02:30 comes twice, the earlier is 00:30 UTC. 2025-03-30: 02:30 never
    // comes; before the gap it is +01:00.
    let zone = "zone = \"Europe/Berlin\"";
    assert_eq!(time(zone, r#"{"ts":"2024-10-27 02:30:00","v":1}"#), 1_729_989_000 * SECOND);
    assert_eq!(time(zone, r#"{"ts":"2025-03-30T02:30:00","v":1}"#), 1_743_298_200 * SECOND);
    assert_eq!(time("", r#"{"ts":"2025-10-09T08:00:00.1234567Z","v":1}"#), 1_759_996_800 * SECOND + 123_456_700);
}

#[test]
fn the_client_id_can_be_the_device() {
    let routes = "[[route]]\ntopic = \"v1/devices/me/telemetry\"\ndevice = \"{client}\"";
    assert_eq!(lines(routes, "v1/devices/me/telemetry", r#"{"t":1}"#), ["c1 - t=1"]);
}

#[test]
fn faults_in_a_route_are_named_at_the_start() {
    let fault = |route: &str| {
        let file: File = toml::from_str(&format!("[[route]]\ntopic = \"a/{{device}}/{{x}}\"\n{route}")).unwrap();
        Routes::new(&file.route).unwrap_err().to_string()
    };
    for (route, wanted) in [
        ("device = \"{missing}\"", "route 1, key `device`: `{missing}` is not captured"),
        ("prefix = \"{$.a[}\"", "key `prefix`: path `$.a[`"),
        ("field = \"{x|reverse}\"", "`reverse`"),
        ("each = \"devices\"", "key `each`: path `devices`"),
        ("root = \"$.a..b\"", "key `root`"),
        ("value = \"$[x]\"", "key `value`"),
        ("time = \"{y}\"", "key `time`: `{y}`"),
        ("time_format = \"seconds\"", "key `time_format`: `seconds` is not a time format"),
        ("zone = \"Mars/Phobos\"", "key `zone`: `Mars/Phobos` is not a time zone"),
        ("when = { y = 1 }", "key `when`: `y` is neither"),
        ("state = \"$.x\"", "key `state`"),
        ("root = \"$.{y}\"", "key `root`: `.{name}` is possible in `each` only"),
        ("each = \"$.{x}\"", "key `each`: `{x}` is captured by the topic too"),
        ("each = [\"$.a.{y}\", \"$.b\"]\nfield = \"{y}\"", "key `field`: `{y}`"),
        ("each = \"$.{y-z}\"", "key `each`: path"),
        ("fields = { v = { type = \"bool\", scale = 2.0 } }", "key `fields`: `v` is scaled"),
    ] {
        let said = fault(route);
        assert!(said.contains(wanted), "{route}: {said}");
    }
    let unknown = toml::from_str::<File>("[[route]]\ntopic = \"a\"\ndevcie = \"x\"").err().expect("an unknown key");
    assert!(unknown.to_string().contains("devcie"), "{unknown}");
}

#[test]
fn a_route_that_is_never_reached_is_a_fault_unless_the_earlier_one_continues() {
    let check = |first: &str| {
        let text = format!("[[route]]\ntopic = \"a/{{device...}}\"\n{first}\n[[route]]\ntopic = \"a/{{device}}/x\"");
        let file: File = toml::from_str(&text).unwrap();
        Routes::new(&file.route).map(|_| ()).map_err(|error| error.number)
    };
    assert_eq!(check(""), Err(2));
    assert_eq!(check("continue = true"), Ok(()));
    assert_eq!(check("when = { \"$.a\" = \"exists\" }"), Ok(()));
    assert_eq!(check("retained = \"skip\""), Ok(()));
}

#[test]
fn every_key_of_a_route_is_written_out() {
    let keys = toml::Table::try_from(Route::default()).expect("a route is a table");
    for key in [
        "topic",
        "kind",
        "when",
        "continue",
        "format",
        "lenient",
        "json_text",
        "device",
        "prefix",
        "each",
        "root",
        "field",
        "value",
        "time",
        "time_format",
        "zone",
        "epoch",
        "include",
        "exclude",
        "fields",
        "strings",
        "unit_suffix",
        "decimal",
        "null_values",
        "retained",
        "state",
        "online",
        "offline",
    ] {
        assert!(keys.contains_key(key), "{key}");
    }
    assert_eq!(keys.len(), 28);
    assert_eq!(keys.try_into::<Route>().unwrap(), Route::default());
}
