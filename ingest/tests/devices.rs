//! Payloads of devices with faults of their own: clocks that were never set, JSON that is nearly
//! JSON, bytes, other formats. Nothing vanishes: each value is stored, or the message is kept as a
//! dead letter with the reason.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use model::{Reading, Value};
use weir_ingest::{Limits, MapOutcome, Route, Routes, Rules, StoredMessage, map};

/// 2025-10-09T08:53:20Z
const NOW: i64 = 1_760_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;
const TOPIC: &str = "devices/d1/telemetry";
/// A topic that its routes begin with; a test adds the other keys.
const ROUTE: &str = "[[route]]\ntopic = \"t/{device}\"\n";

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct File {
    route: Vec<Route>,
}

fn outcome(routes: &str, topic: &str, payload: &[u8]) -> MapOutcome {
    let file: File = toml::from_str(routes).expect("the routes are TOML");
    let rules = Rules::new(Routes::new(&file.route).expect("the routes are good"), Limits::default(), Arc::default());
    map(
        &rules,
        &StoredMessage { tenant: "default", client: "c1", topic, payload, received: NOW, retain: false, device: None },
    )
}

fn readings(routes: &str, topic: &str, payload: &[u8]) -> Vec<Reading> {
    match outcome(routes, topic, payload) {
        MapOutcome::Readings(readings) => readings,
        other => panic!("{topic} {}: {other:?}", String::from_utf8_lossy(payload)),
    }
}

/// Each reading as its time in seconds (`-` for the time of receipt, with a claimed time in
/// brackets) and its values.
fn lines(routes: &str, topic: &str, payload: &[u8]) -> Vec<String> {
    use std::fmt::Write;
    let line = |reading: &Reading| {
        let mut out = if reading.device_timed { (reading.time / SECOND).to_string() } else { "-".into() };
        if let Some(claimed) = reading.claimed_time {
            write!(out, "[{}]", claimed.div_euclid(SECOND)).unwrap();
        }
        for (name, value) in &reading.values {
            match value {
                Value::Str(text) => write!(out, " {name}={text:?}").unwrap(),
                Value::Float(v) => write!(out, " {name}={v:?}").unwrap(),
                other => write!(out, " {name}={other}").unwrap(),
            }
        }
        out
    };
    readings(routes, topic, payload).iter().map(line).collect()
}

fn default_line(payload: &str) -> String {
    let lines = lines("", TOPIC, payload.as_bytes());
    assert_eq!(lines.len(), 1, "{payload}: {lines:?}");
    lines.into_iter().next().unwrap()
}

fn refused(routes: &str, topic: &str, payload: impl AsRef<[u8]>) -> String {
    match outcome(routes, topic, payload.as_ref()) {
        MapOutcome::Refused(reason) => reason,
        other => panic!("{topic} {}: {other:?}", String::from_utf8_lossy(payload.as_ref())),
    }
}

#[test]
fn an_implausible_time_is_kept_beside_the_reading_which_counts_from_its_arrival() {
    for (payload, wanted) in [
        (r#"{"ts":0,"t":1}"#, "-[0] t=1"),
        (r#"{"ts":-60,"t":1}"#, "-[-60] t=1"),
        (r#"{"ts":86399,"t":1}"#, "-[86399] t=1"),
        (r#"{"ts":"17","t":1}"#, "-[17] t=1"),
        (r#"{"timestamp":946684799,"t":1}"#, "-[946684799] t=1"),
        (r#"{"timestamp":946684800,"t":1}"#, "946684800 t=1"),
        (r#"{"time":"1970-01-01T00:01:00Z","t":1}"#, "-[60] t=1"),
        (r#"{"time":"1999-12-31 23:59:59","t":1}"#, "-[946684799] t=1"),
        (r#"{"ts":4294967294,"t":1}"#, "-[4294967294] t=1"),
        (r#"{"ts":"2061-05-01T00:00:00Z","t":1}"#, "-[2882131200] t=1"),
        (r#"{"ts":1765000000,"t":1}"#, "-[1765000000] t=1"),
        // Times that no reading can hold.
        (r#"{"ts":"0001-01-01T00:00:00Z","t":1}"#, "- t=1"),
        (r#"{"ts":"9999-12-31T23:59:59Z","t":1}"#, "- t=1"),
        (r#"{"ts":1e300,"t":1}"#, "- t=1"),
        (r#"{"ts":0,"values":{"t":1,"h":2}}"#, "-[0] t=1 h=2"),
        (r#"{"ts":9,"seq":4,"t":1}"#, "-[9] t=1"),
    ] {
        assert_eq!(default_line(payload), wanted, "{payload}");
    }
    let tasmota = "[[route]]\ntopic = \"t/{device}\"\ntime = \"Time\"\nzone = \"Asia/Tokyo\"";
    let boot = lines(tasmota, "t/d", br#"{"Time":"1970-01-01T00:00:09","P":3}"#);
    assert_eq!(boot, ["-[-32391] P=3"]);
    let tree = "[[route]]\ntopic = \"t/{device}\"\nroot = \"$.o\"\ntime = \"$.at\"";
    assert_eq!(lines(tree, "t/d", br#"{"at":5,"o":{"v":1}}"#), ["-[5] v=1"]);
    let rows = "[[route]]\ntopic = \"t/{device}\"\neach = \"$.rows\"";
    let payload = br#"{"ts":1759999000,"rows":[{"ts":0,"v":1},{"v":2}]}"#;
    assert_eq!(lines(rows, "t/d", payload), ["1759999000 ts=0 v=1", "1759999000 v=2"], "the document's time is better");
}

#[test]
fn a_time_that_cannot_be_read_costs_no_value_and_stays_one() {
    for (payload, wanted) in [
        (r#"{"time":"","t":1}"#, "- t=1"),
        (r#"{"time":"  ","t":1}"#, "- t=1"),
        (r#"{"time":null,"t":1}"#, "- t=1"),
        (r#"{"ts":"0000-00-00 00:00:00","t":1}"#, "- t=1"),
        (r#"{"time":"16:47","t":1}"#, r#"- time="16:47" t=1"#),
        (r#"{"time":"00:00:00","t":1}"#, r#"- time="00:00:00" t=1"#),
        (r#"{"timestamp":"yesterday","t":1}"#, r#"- timestamp="yesterday" t=1"#),
        (r#"{"ts":"2025-13-45T99:00:00Z","t":1}"#, r#"- ts="2025-13-45T99:00:00Z" t=1"#),
        (r#"{"ts":true,"t":1}"#, "- ts=true t=1"),
        (r#"{"ts":{"s":5},"t":1}"#, "- ts.s=5 t=1"),
        (r#"{"ts":"?","values":{"t":1}}"#, r#"- ts="?" t=1"#),
    ] {
        assert_eq!(default_line(payload), wanted, "{payload}");
    }
    let pattern = "[[route]]\ntopic = \"t/{device}\"\ntime = \"at\"\ntime_format = \"%d.%m.%Y %H:%M\"";
    assert_eq!(lines(pattern, "t/d", br#"{"at":"--.--.----","v":1}"#), [r#"- at="--.--.----" v=1"#]);
    let seconds = "[[route]]\ntopic = \"t/{device}\"\ntime = \"at\"\ntime_format = \"s\"";
    assert_eq!(lines(seconds, "t/d", br#"{"at":"soon","v":1}"#), [r#"- at="soon" v=1"#]);
    let rows = lines("", TOPIC, br#"[{"ts":1700000000,"t":1},{"ts":"?","t":2}]"#);
    assert_eq!(rows, ["1700000000 t=1", r#"- ts="?" t=2"#]);
}

#[test]
fn a_member_named_time_can_be_a_duration() {
    assert_eq!(default_line(r#"{"time":90,"program":4}"#), "- time=90 program=4");
    assert_eq!(default_line(r#"{"time":12.5,"v":1}"#), "- time=12.5 v=1");
    assert_eq!(default_line(r#"{"time":"45","v":1}"#), r#"- time="45" v=1"#);
    assert_eq!(default_line(r#"{"time":"PT5M","v":1}"#), r#"- time="PT5M" v=1"#);
    assert_eq!(default_line(r#"{"time":1700000000,"v":1}"#), "1700000000 v=1");
    let named = "[[route]]\ntopic = \"t/{device}\"\ntime = \"time\"";
    assert_eq!(lines(named, "t/d", br#"{"time":90,"v":1}"#), ["-[90] v=1"], "here the route says that it is a time");
}

#[test]
fn of_several_times_the_first_that_can_be_used_counts() {
    assert_eq!(default_line(r#"{"ts":"","time":1700000000,"v":1}"#), "1700000000 v=1");
    assert_eq!(default_line(r#"{"ts":3,"timestamp":1700000000,"v":1}"#), "1700000000 ts=3 v=1");
    assert_eq!(
        default_line(r#"{"ts":"now","time":90,"timestamp":1700000000,"v":1}"#),
        r#"1700000000 ts="now" time=90 v=1"#
    );
    assert_eq!(default_line(r#"{"ts":4102444800,"time":1700000000,"v":1}"#), "1700000000 ts=4102444800 v=1");
    assert_eq!(default_line(r#"{"ts":"?","timestamp":7,"v":1}"#), r#"-[7] ts="?" v=1"#, "a time is better than none");
    let paths =
        "[[route]]\ntopic = \"t/{device}\"\nroot = \"$.o\"\ntime = [\"$.gps.time\", \"{$.day}T{$.clock}\", \"$.at\"]";
    let payload = br#"{"gps":{"time":"1980-01-06T00:00:00Z"},"at":1700000000,"o":{"v":1}}"#;
    assert_eq!(lines(paths, "t/d", payload), ["1700000000 v=1"]);
    let payload = br#"{"gps":{"time":""},"day":"2025-10-09","clock":"08:00:00","at":1700000000,"o":{"v":1}}"#;
    assert_eq!(lines(paths, "t/d", payload), ["1759996800 v=1"]);
}

#[test]
fn numbers_can_count_from_1970_in_the_zone_of_the_route() {
    let route = "[[route]]\ntopic = \"t/{device}\"\ntime = \"at\"\nzone = \"America/New_York\"\nepoch = \"local\"";
    for (at, wanted) in [
        // Summer and winter time.
        ("1759982400", 1_759_982_400 + 4 * 3600),
        ("1736899200000", 1_736_899_200 + 5 * 3600),
        ("\"1736899200\"", 1_736_899_200 + 5 * 3600),
        ("\"2025-01-15T00:00:00Z\"", 1_736_899_200),
    ] {
        assert_eq!(
            lines(route, "t/d", format!(r#"{{"at":{at},"v":1}}"#).as_bytes()),
            [format!("{wanted} v=1")],
            "{at}"
        );
    }
}

#[test]
fn nearly_json_is_read_where_it_has_one_meaning() {
    for (payload, wanted) in [
        (r#"{"a":1,}"#, "- a=1"),
        (r#"{"a":1,,,"b":{"c":2,,}}"#, "- a=1 b.c=2"),
        (r#"{,"a":1}"#, "- a=1"),
        (r#"{"a":[1,2,]}"#, "- a.0=1 a.1=2"),
        (r#"{"a":[1,,3]}"#, "- a.0=1 a.2=3"),
        (r#"{"a":-7.,"b":.25,"c":-.5,"d":+4,"e":1.e2,"f":+.5}"#, "- a=-7.0 b=0.25 c=-0.5 d=4 e=100.0 f=0.5"),
        (r#"{"a":[22.]}"#, "- a.0=22.0"),
        ("{\"a\":1}\0\n", "- a=1"),
        ("{\"a\":1}\r\n\0\0 \0", "- a=1"),
        ("{\"a\":1}\n\0\r\n", "- a=1"),
        ("\u{1e}{\"a\":1}\n", "- a=1"),
        ("{\"a\":\"one\ntwo\tthree\"}", r#"- a="one\ntwo\tthree""#),
        (r#"{"a":True,"b":FALSE,"c":None,"d":1}"#, "- a=true b=false d=1"),
        (r#"[{"a":1},]"#, "- a=1"),
    ] {
        assert_eq!(default_line(payload), wanted, "{payload:?}");
        let tree = format!("{ROUTE}root = \"$\"");
        if !payload.starts_with('[') {
            assert_eq!(lines(&tree, "t/d", payload.as_bytes()), [wanted], "{payload:?}");
        }
        let strict = format!("{ROUTE}lenient = false");
        if !payload.ends_with(['\n', '\0']) || payload.starts_with('\u{1e}') {
            refused(&strict, "t/d", payload);
        }
    }
}

#[test]
fn what_would_be_a_guess_is_refused() {
    for payload in [
        "{a:1}",
        "{'a':1}",
        r#"{"a":,"b":1}"#,
        r#"{"a":1 "b":2}"#,
        r#"{"a":1"#,
        r#"{"a":007}"#,
        r#"{"a":0x1F}"#,
        r#"{"a":1}}"#,
        r#"{"a":1} and more"#,
        r#"{"a":.}"#,
        r#"{"a":+}"#,
        r#"{"a":1}{"b":"#,
        "{\"a\":1}\0{\"a\":2}",
        "{\"a\":\"\x01\"}",
        r#"{"a":"\x41"}"#,
        r#"{"a":1;"b":2}"#,
    ] {
        assert!(refused("", TOPIC, payload).contains("not JSON"), "{payload}");
    }
}

#[test]
fn several_documents_in_one_message_are_as_many_readings() {
    let wanted = ["1700000000 a=1", "1700000060 a=2", "- b=3"];
    for payload in [
        "{\"ts\":1700000000,\"a\":1}\n{\"ts\":1700000060,\"a\":2}\r\n{\"b\":3}",
        "{\"ts\":1700000000,\"a\":1}{\"ts\":1700000060,\"a\":2} {\"b\":3}\n\n\0",
        "{\"ts\":1700000000,\"a\":1},\n{\"ts\":1700000060,\"a\":2},\n{\"b\":3},\n",
        "[{\"ts\":1700000000,\"a\":1}]\n[{\"ts\":1700000060,\"a\":2},{\"b\":3}]",
        "\x1e{\"ts\":1700000000,\"a\":1}\n\x1e{\"ts\":1700000060,\"a\":2}\n\x1e{\"b\":3}\n",
    ] {
        assert_eq!(lines("", TOPIC, payload.as_bytes()), wanted, "{payload:?}");
    }
    // Each document finds its own route, and names its own device.
    let routes = r#"
        [[route]]
        topic = "g"
        when = { "$.kind" = "t" }
        device = "{$.id}"
        include = ["v"]
        [[route]]
        topic = "g"
        when = { "$.kind" = "h" }
        device = "{$.id}/h"
        include = ["w"]
    "#;
    let payload = br#"{"kind":"t","id":"a","v":1}
        {"kind":"h","id":"b","w":2}"#;
    let all = readings(routes, "g", payload);
    assert_eq!(all.iter().map(|r| &*r.device.id).collect::<Vec<_>>(), ["a", "b/h"]);
    assert!(all[0].received < all[1].received);
    let whole = format!("{}{{\"v\":\"{}\"}}", "{\"v\":1}\n".repeat(3), "x".repeat(5000));
    assert!(refused("", TOPIC, whole).contains("text of v"), "all or nothing");
    assert!(refused("", TOPIC, "{\"v\":1}\n{\"v\":x}").contains("line 2 column 6"));
    assert!(refused("", TOPIC, "{\"v\":1}\n".repeat(10_001)).contains("10000 readings"));
}

#[test]
fn json_that_is_not_utf_8_is_read_as_latin_1() {
    for (payload, wanted) in [
        (&b"{\"unit\":\"\xb5g/m\xb3\",\"v\":8}"[..], r#"- unit="µg/m³" v=8"#),
        (b"{\"Au\xdfen\":1}", "- Außen=1"),
        (b"{\"price\":\"\x80 5\"}", r#"- price="€ 5""#),
        // UTF-8 and Latin-1 in one payload.
        (b"{\"a\":\"\xc3\xa9\",\"b\":\"\xe9\"}", r#"- a="é" b="é""#),
    ] {
        assert_eq!(lines("", TOPIC, payload), [wanted]);
        assert_eq!(lines(&format!("{ROUTE}root = \"$\""), "t/d", payload), [wanted]);
    }
    let strict = "[[route]]\ntopic = \"t/{device}\"\nlenient = false";
    assert!(refused(strict, "t/d", b"{\"u\":\"\xb0\"}").contains("not UTF-8 at byte 6"));
    assert!(refused("", TOPIC, b"{\"u\":\"\x81\"}").contains("not UTF-8"), "no character in Latin-1 or Windows-1252");
}

#[test]
fn bytes_of_numbers_are_not_text() {
    for payload in [
        &b"\xff\xff\xff\xff"[..],
        b"\xff",
        b"\x09\xc4",
        b"\x41\xc8",
        b"\x42\xc8\x00\x00",
        b"\x00\x00\xac\x41",
        b"\x9c\xff\xff\xff",
        b"\x41\xac\x66\x66",
        b"\x00",
        b"\x00\x00\x00\x00",
        b"\x0a\x00\x00\x00",
        b"\xe8\x03",
        b"\xc0\x31",
        b"\x66\x66\xf6\x3f",
        b"\x01",
        b"\x7f",
    ] {
        for topic in [TOPIC, "devices/d1/telemetry/t"] {
            assert!(refused("", topic, payload).starts_with("not text"), "{payload:x?}");
        }
    }
    for (payload, wanted) in [
        (&b"21.5\xb0C\r\n"[..], "21.5°C"),
        (b"-4 \xb0C", "-4 °C"),
        (b"12 \xb5g", "12 µg"),
        (b"ge\xf6ffnet", "geöffnet"),
        (b"M\xfcll", "Müll"),
        (b"K\xfcche: zu\0", "Küche: zu"),
    ] {
        assert_eq!(lines("", TOPIC, payload), [format!("- value={wanted:?}")]);
    }
}

#[test]
fn other_formats_are_refused_by_name_unless_the_route_wants_text() {
    let text = format!("{ROUTE}format = \"value\"");
    for (payload, format) in [
        ("tank,site=north level=4.25,pump=t 1700000000000000000", "Influx line protocol"),
        ("21.5,48,1013.2", "CSV"),
        ("ts;t\n1700000000;21.5\n1700000060;21.75", "CSV"),
        ("t|21.5|h|40", "pairs"),
        ("t=21.5&h=40", "pairs"),
        ("AAECAwQFBgc=", "base64"),
        ("<status><t>21.5</t></status>", "XML"),
    ] {
        let said = refused("", TOPIC, payload);
        assert!(said.contains(format) && said.contains("format = \"value\""), "{payload}: {said}");
        refused(&format!("{ROUTE}value = \"$\""), "t/d", payload);
        assert_eq!(lines(&text, "t/d", payload.as_bytes()), [format!("- value={payload:?}")]);
    }
    let quoted = r#""{\"t\":21.5}""#;
    assert!(refused("", TOPIC, quoted).contains("JSON in quotes"));
    assert!(refused(&format!("{ROUTE}value = \"$\""), "t/d", quoted).contains("JSON in quotes"));
    assert_eq!(default_line(r#""{closed}""#), r#"- value="{closed}""#);
    assert_eq!(lines(&format!("{ROUTE}json_text = [\"*\"]"), "t/d", quoted.as_bytes()), ["- t=21.5"]);
}

#[test]
fn json_in_a_text_is_read_where_the_route_names_it() {
    let route = format!("{ROUTE}json_text = [\"raw\", \"*.data\"]");
    let payload = br#"{"raw":"{\"a\":1,\"l\":[2,{\"b\":true}]}","x":{"data":"[3]"},"other":"{\"c\":4}"}"#;
    assert_eq!(lines(&route, "t/d", payload), [r#"- raw.a=1 raw.l.0=2 raw.l.1.b=true x.data.0=3 other="{\"c\":4}""#]);
    assert_eq!(lines(&route, "t/d", br#"{"raw":"{broken","v":1}"#), [r#"- raw="{broken" v=1"#]);
    let paths = format!("{ROUTE}json_text = [\"m\"]\nroot = \"$.m.o\"\ntime = \"$.m.ts\"");
    assert_eq!(lines(&paths, "t/d", br#"{"m":"{\"ts\":1700000000,\"o\":{\"v\":1}}"}"#), ["1700000000 v=1"]);
}

#[test]
fn words_for_no_number_units_and_commas_are_read_where_the_route_asks() {
    let numbers = format!("{ROUTE}strings = \"numbers\"");
    let payload = br#"{"a":"NAN","b":"+Infinity","c":" nan ","d":"7","e":"nano"}"#;
    assert_eq!(lines(&numbers, "t/d", payload), [r#"- d=7 e="nano""#]);
    let units = format!(
        "{ROUTE}unit_suffix = true\ndecimal = \",\"\nnull_values = [\"--\", \"n/a\"]\nfields = {{ id = {{ type = \"string\" }}, p = {{ type = \"float\" }} }}"
    );
    let payload = br#"{"t":"19,5 C","w":"230 V","x":"--","y":"n/a","s":"on","id":"12 V","p":"1,5"}"#;
    assert_eq!(lines(&units, "t/d", payload), [r#"- t=19.5 w=230 s="on" id="12 V" p=1.5"#]);
    assert_eq!(lines(&units, "t/d", "-3,25\u{b0}C".as_bytes()), ["- value=-3.25"]);
    assert_eq!(lines(&units, "t/d", b"68 \xb0F"), ["- value=68"]);
    assert_eq!(default_line("68 \u{b0}F"), "- value=\"68 \u{b0}F\"", "a text, unless the route asks");
    let typed = format!("{ROUTE}unit_suffix = true\nfields = {{ t = {{ scale = 0.5 }} }}");
    assert_eq!(lines(&typed, "t/d", br#"{"t":"42 W"}"#), ["- t=21.0"]);
}

#[test]
fn a_number_out_of_the_range_of_a_float_keeps_its_digits() {
    assert_eq!(default_line(r#"{"x":1e400}"#), r#"- x="1e400""#);
    assert_eq!(default_line(r#"{"x":[-2.5E+999,1]}"#), r#"- x.0="-2.5E+999" x.1=1"#);
    assert_eq!(default_line("1e400"), r#"- value="1e400""#);
    let tree = format!("{ROUTE}value = \"$.x\"\nfield = \"x\"");
    assert_eq!(lines(&tree, "t/d", br#"{"x":1e309}"#), [r#"- x="1e309""#]);
}

#[test]
fn a_message_whose_values_would_all_be_lost_is_refused_with_the_reason() {
    for (keys, payload, reason) in [
        ("", r#"{"x":NaN}"#, "`x` is not a number"),
        ("", r#"{"x":[nan,-inf]}"#, "`x.0` is not a number"),
        ("root = \"$\"", r#"{"x":NaN}"#, "`x` is not a number"),
        ("", r#"{"":4}"#, "empty name"),
        ("each = \"$.rows\"", r#"{"row":[{"v":1}]}"#, "`each` of route 1 ($.rows) finds nothing"),
        ("each = \"$[*].x\"", r#"[[1,2]]"#, "`each` of route 1"),
        ("root = [\"$.o\", \"$.p\"]", r#"{"q":{"v":1}}"#, "`root` of route 1 ($.o, $.p) finds nothing"),
        ("value = \"@[1]\"", r#"{"v":1}"#, "`value` of route 1 (@[1]) finds nothing"),
        ("value = \"$.v\"\nfield = \"{@.name}\"", r#"{"v":1}"#, "`field` of route 1: `@.name`"),
    ] {
        let said = refused(&format!("{ROUTE}{keys}"), "t/d", payload);
        assert!(said.contains(reason), "{payload}: {said}");
    }
    for (keys, payload) in [
        ("", r#"{"x":null}"#),
        ("", "{}"),
        ("", "[]"),
        ("", ""),
        ("each = \"$.rows[*]\"", r#"{"rows":[]}"#),
        ("each = \"$.rows[*]\"", r#"{"rows":null}"#),
        ("each = \"$.*\"", "{}"),
        ("root = \"$.a.o\"", r#"{"a":{"o":null}}"#),
        ("root = \"$.a.o\"", r#"{"a":null}"#),
        ("value = \"$.v\"", r#"{"v":null}"#),
        ("exclude = [\"x\"]", r#"{"x":1}"#),
        ("strings = \"drop\"", r#"{"x":"a"}"#),
    ] {
        assert_eq!(lines(&format!("{ROUTE}{keys}"), "t/d", payload.as_bytes()).len(), 0, "{keys} {payload}");
    }
    assert_eq!(default_line(r#"{"":4,"b":2}"#), "- b=2");
}

#[test]
fn values_of_different_places_with_one_name_are_refused_together() {
    let fields = "fields = { a = { name = \"t\" }, b = { name = \"t\" } }";
    for (keys, payload) in [
        ("", r#"{"a.b":1,"a":{"b":2}}"#),
        ("", r#"{"a":{"b.c":1},"a.b":{"c":2}}"#),
        ("", r#"{"l":[1],"l.0":2}"#),
        ("", r#"{"":{"b":1},"b":2}"#),
        ("", r#"[{"v":1},{"a":{"b":1},"a.b":2}]"#),
        ("", r#"{"ts":1700000000,"values":{"v":1},"values.v":2}"#),
        ("root = \"$\"", r#"{"a.b":1,"a":{"b":2}}"#),
        ("root = [\"$.o\", \"$.p\"]", r#"{"o":{"v":1},"p":{"v":2}}"#),
        ("root = \"$.list[*]\"", r#"{"list":[{"v":1},{"v":2}]}"#),
        (fields, r#"{"a":1,"b":2}"#),
    ] {
        let said = refused(&format!("{ROUTE}{keys}"), "t/d", payload);
        assert!(said.contains("two values"), "{payload}: {said}");
    }
    for (payload, wanted) in [
        (r#"{"a":{"b":1,"b":2},"c":3}"#, "- a.b=2 c=3"),
        (r#"{"a":{"b":1},"a":{"b":2}}"#, "- a.b=2"),
        (r#"{"a.b":1,"a":{"c":2}}"#, "- a.b=1 a.c=2"),
    ] {
        assert_eq!(default_line(payload), wanted, "{payload}");
    }
    assert_eq!(lines(&format!("{ROUTE}{fields}"), "t/d", br#"{"a":1,"a":2}"#), ["- t=2"]);
}

#[test]
fn rows_that_are_arrays_are_rows() {
    let route = |each: &str| format!("{ROUTE}each = \"{each}\"\ntime = \"@[0]\"\nfield = \"v\"\nvalue = \"@[1]\"");
    let pairs = br#"[[1700000000,1.5],[1700000060,null],[1700000120,3]]"#;
    for each in ["$[*]", "$"] {
        assert_eq!(lines(&route(each), "t/d", pairs), ["1700000000 v=1.5", "1700000120 v=3"], "{each}");
    }
    let nested = br#"{"s":{"a":[[1700000000,1]],"b":[[1700000060,2]]}}"#;
    assert_eq!(lines(&route("$.s.*[*]"), "t/d", nested), ["1700000000 v=1", "1700000060 v=2"]);
    assert_eq!(
        lines(&format!("{ROUTE}each = \"$[*]\"\nfield = \"x\""), "t/d", b"[[1,2],3]"),
        ["- x.0=1 x.1=2", "- x=3"]
    );
    let objects = br#"{"a":[{"v":1},{"v":2}],"b":[{"v":3}]}"#;
    assert_eq!(lines(&format!("{ROUTE}each = \"$.*\""), "t/d", objects), ["- v=1", "- v=2", "- v=3"]);
}

#[test]
fn the_names_of_members_can_be_times_devices_and_names() {
    let times = format!("{ROUTE}each = \"$.{{at}}\"\ntime = \"{{at}}\"");
    let payload = br#"{"1700000000":{"v":1},"1700000060":{"v":2}}"#;
    assert_eq!(lines(&times, "t/d", payload), ["1700000000 v=1", "1700000060 v=2"]);
    let devices = "[[route]]\ntopic = \"g\"\neach = \"$.{mac}.{sensor}\"\ndevice = \"{mac|lower}\"\nfield = \"{sensor}\"\nvalue = \"@.value\"";
    let payload = br#"{"AA:01":{"t":{"value":1.5},"h":{"value":40}},"AA:02":{"t":{"value":2.5}}}"#;
    let all = readings(devices, "g", payload);
    let devices: Vec<_> = all.iter().map(|r| format!("{} {}", r.device.id, r.values[0].0)).collect();
    assert_eq!(devices, ["aa:01 t", "aa:01 h", "aa:02 t"]);
}

#[test]
fn usual_words_of_presence_are_known() {
    let route = format!("{ROUTE}kind = \"presence\"");
    for (word, online) in [
        ("Awake", true),
        ("asleep", true),
        ("AVAILABLE", true),
        ("reachable", true),
        ("active", true),
        ("up", true),
        ("2", true),
        ("yes", true),
        ("unavailable", false),
        ("Unreachable", false),
        ("inactive", false),
        ("down", false),
        ("no", false),
        ("Dead", false),
    ] {
        for payload in [word.to_owned(), format!("\"{word}\""), format!("{{\"state\":\"{word}\"}}")] {
            assert_eq!(lines(&route, "t/d", payload.as_bytes()), [format!("- online={online}")], "{payload}");
        }
    }
    assert!(refused(&route, "t/d", "perhaps").contains("neither online nor offline"));
}

#[test]
fn a_buffer_of_many_readings_is_one_message() {
    let rows: Vec<String> = (0..5_000).map(|n| format!(r#"{{"ts":{},"v":{n}}}"#, 1_700_000_000 + n)).collect();
    assert_eq!(readings("", TOPIC, format!("[{}]", rows.join(",")).as_bytes()).len(), 5_000);
}

/// Each row may look for its time and device in the document.
#[test]
fn rows_in_a_document_with_very_many_members_are_read_in_linear_time() {
    let read = |members: usize, rows: usize| {
        let others: String = (0..members).map(|n| format!("\"m{n}\":1,")).collect();
        let payload = format!(
            "{{{others}\"ts\":1700000000,\"id\":\"x\",\"rows\":[{}{{\"v\":1}}]}}",
            "{\"v\":1},".repeat(rows - 1)
        );
        let routes = "[[route]]\ntopic = \"g\"\neach = \"$.rows\"\ndevice = \"{$.id}\"";
        let begun = std::time::Instant::now();
        let all = readings(routes, "g", payload.as_bytes());
        assert!(all.len() == rows && all.iter().all(|r| &*r.device.id == "x" && r.time == 1_700_000_000 * SECOND));
        begun.elapsed()
    };
    // One by one these are 4 × 10^9 comparisons, minutes without optimization.
    assert!(read(100_000, 10_000).as_secs() < 30);
    // The last member of a name counts, and null never hides another.
    let routes = format!("{ROUTE}value = \"$.v\"\nfield = \"v\"");
    for others in [0, 40] {
        let others: String = (0..others).map(|n| format!("\"m{n}\":1,")).collect();
        for (members, wanted) in [("\"v\":1,\"v\":2", "- v=2"), ("\"v\":3,\"v\":null", "- v=3")] {
            assert_eq!(lines(&routes, "t/d", format!("{{{others}{members}}}").as_bytes()), [wanted]);
        }
    }
}
