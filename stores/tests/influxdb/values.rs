//! InfluxDB holds the values that were written.

use std::collections::BTreeMap;

use model::{TimeRange, Value};
use serde_json::{Value as Json, json};
use weir_stores::StoreError;
use weir_stores::contract::Export;
use weir_stores::influxdb::{Config, FieldType, OnConflict};

use crate::data::{MILLI, Row, T, block, device, float, int, simple, text};
use crate::server::{Influxd, influxd};
use crate::{deliver, open};

const NASTY: &[&str] = &[
    "a b", " a", "a ", "a,b", "a=b", ",", "=", "a\"b", "\"", "a'b", "a\\b", "\\a", "a\\\\b", "C:\\x", "ä/ö", "温度",
    "🌡", "#a", "_a", "a:b|c", "$x", "${x}", "%", "null", "true", "1", "-", "a\u{a0}b", "e\u{301}", "\u{200d}",
    "a==b,, c",
];

/// Names that a tag can have and a field cannot.
const NASTY_TAGS: &[&str] = &["a\\,b", "a\\=b", "a\\ b", "a\\ b\",x=\"y", "a\\\\,b", "\\\" b=c,d", "a\\\\\\ b", "\\,"];

/// Rows of one device: tags, then `[time, {field: value}]` without nulls.
async fn rows(server: &Influxd) -> Vec<(Json, i64, Json)> {
    let mut found = Vec::new();
    for table in server.select("SELECT *::field FROM telemetry GROUP BY *").await {
        let columns = table["columns"].as_array().unwrap();
        for row in table["values"].as_array().unwrap() {
            let cells = columns.iter().zip(row.as_array().unwrap()).skip(1).filter(|(_, value)| !value.is_null());
            let fields: serde_json::Map<_, _> =
                cells.map(|(name, value)| (name.as_str().unwrap().to_owned(), value.clone())).collect();
            found.push((table["tags"].clone(), row[0].as_i64().unwrap(), Json::Object(fields)));
        }
    }
    found
}

#[tokio::test]
async fn every_type_comes_back_as_it_was() {
    let Some(server) = influxd().await else { return };
    let points = open(Config { types: [("i".to_owned(), FieldType::Integer)].into(), ..server.config() });
    let floats = [
        0.0,
        -0.5,
        1.0,
        21.37,
        1e300,
        -1e-300,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        1e17,
        9_007_199_254_740_993.0,
        0.1 + 0.2,
    ];
    let texts = [
        "",
        " ",
        "x",
        "a\nb",
        "\n",
        "a\r\nb",
        "\t",
        "\"",
        "\\",
        "a\\",
        "\\\"",
        "\\n",
        "a,b=c d",
        "🌡\u{0}",
        "end\\\\",
        "#x\n#y",
        "t v=1 5\ntelemetry,tenant=t v=2",
    ];
    let ints = [0, -1, i64::MAX, i64::MIN, 9_007_199_254_740_993];
    let mut given: Vec<Row<'_>> = Vec::new();
    for n in 0..texts.len() {
        let values = vec![
            ("b", Value::Bool(n % 2 == 0)),
            ("f", float(floats[n % floats.len()])),
            ("i", int(ints[n % ints.len()])),
            ("s", text(texts[n])),
        ];
        given.push((T + n as i64 * MILLI, None, values));
    }
    let block = block(&device("t", "d"), &given);
    deliver(&points, vec![block.clone()]).await.unwrap();
    deliver(&points, vec![block]).await.unwrap();
    let fields =
        [("b", "boolean"), ("f", "float"), ("i", "integer"), ("s", "string")].map(|(n, t)| (n.into(), t.into()));
    assert_eq!(server.fields().await, fields);
    let found = rows(&server).await;
    assert_eq!(found.len(), given.len());
    for ((tags, time, fields), (at, _, values)) in found.iter().zip(&given) {
        assert_eq!((tags, time), (&json!({ "device": "d", "tenant": "t" }), at));
        for (name, value) in values {
            match value {
                Value::Float(v) => assert_eq!(fields[name].as_f64().unwrap().to_bits(), v.to_bits(), "{v}"),
                Value::Int(v) => assert_eq!(fields[name].as_i64(), Some(*v)),
                Value::Bool(v) => assert_eq!(fields[name].as_bool(), Some(*v)),
                Value::Str(v) => assert_eq!(fields[name].as_str(), Some(&**v)),
            }
        }
    }
}

#[tokio::test]
async fn equal_readings_of_two_tenants_are_points_of_two_series() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let of = |tenant: &str, value: f64| block(&device(tenant, "line/1"), &[(T, Some(1), vec![("x", float(value))])]);
    for _ in 0..2 {
        deliver(&points, vec![of("north", 1.5), of("north.2", 2.5)]).await.unwrap();
    }
    let mut found = rows(&server).await;
    found.sort_by_key(|(tags, ..)| tags["tenant"].to_string());
    let row =
        |tenant: &str, value: f64| (json!({ "device": "line/1", "tenant": tenant }), T + 1, json!({ "x": value }));
    assert_eq!(found, [row("north", 1.5), row("north.2", 2.5)]);
    let mut counts = points.count(TimeRange::ALL).await.unwrap().unwrap();
    counts.sort();
    assert_eq!(counts, [("north".into(), 1), ("north.2".into(), 1)]);
}

#[tokio::test]
async fn nasty_names_come_back_unchanged_and_names_that_cannot_be_written_are_refused() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let mut wanted = BTreeMap::new();
    let mut blocks = Vec::new();
    for (n, id) in NASTY.iter().enumerate() {
        // Each name as tenant, device and value name, with others.
        let name = |n: usize| NASTY[n % NASTY.len()];
        // No tenant or device has such a name.
        let [tenant, id] = [name(n + 7), id].map(|name| name.trim_start_matches('#'));
        let values = vec![(name(n), float(n as f64)), ("plain", text("x\"y\\")), (name(n + 3), float(0.5))];
        wanted.insert((tenant.to_owned(), id.to_owned()), values.clone());
        blocks.push(block(&device(tenant, id), &[(T, None, values)]));
    }
    deliver(&points, blocks).await.unwrap();
    let found = rows(&server).await;
    assert_eq!(found.len(), NASTY.len());
    for (tags, _, fields) in found {
        let key = (tags["tenant"].as_str().unwrap().to_owned(), tags["device"].as_str().unwrap().to_owned());
        let values = wanted.remove(&key).unwrap_or_else(|| panic!("{tags} was not written"));
        let wanted: serde_json::Map<_, _> = values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.as_ref().as_f64().map_or(json!("x\"y\\"), |v| json!(v))))
            .collect();
        let number = |value: &Json| value.as_f64().map_or(value.clone(), |v| json!(v));
        let fields: serde_json::Map<_, _> =
            fields.as_object().unwrap().iter().map(|(name, value)| (name.clone(), number(value))).collect();
        assert_eq!(fields, wanted);
    }
    let counts = points.count(TimeRange::ALL).await.unwrap().unwrap();
    assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), NASTY.len() as u64);
    for name in ["", "a\nb", "a\tb", "a\\", "a\\,b", "a\\=b", "a\\ b", "a\\\"b"] {
        let error = deliver(&points, vec![block(&device("t", "d"), &[(T, None, vec![(name, float(1.0))])])]).await;
        assert!(
            matches!(&error, Err(StoreError::Refused(r)) if r.contains(&format!("{name:?}"))),
            "{name:?}: {error:?}"
        );
    }
    let error = deliver(&points, vec![simple(&device("t", "d\\"), T, 1, "x", |_| float(1.0))]).await;
    assert!(matches!(&error, Err(StoreError::Refused(r)) if r.contains("backslash")), "{error:?}");
    let error = deliver(&points, vec![block(&device("t", "d"), &[(T, None, vec![])])]).await;
    assert!(matches!(&error, Err(StoreError::Refused(r)) if r.contains("no value")), "{error:?}");
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = deliver(&points, vec![simple(&device("t", "d"), T, 1, "x", |_| float(bad))]).await;
        assert!(matches!(&error, Err(StoreError::Refused(r)) if r.contains("not a finite number")), "{error:?}");
    }
}

#[tokio::test]
async fn backslashes_before_separators_come_back_in_tags() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let mut wanted = Vec::new();
    for (n, id) in NASTY_TAGS.iter().enumerate() {
        let tenant = NASTY_TAGS[(n + 3) % NASTY_TAGS.len()];
        wanted.push((json!({ "tenant": tenant, "device": id }), T, json!({ "a": "\"=, x", "b": "y" })));
        let values = vec![("a", text("\"=, x")), ("b", text("y"))];
        deliver(&points, vec![block(&device(tenant, id), &[(T, None, values)])]).await.unwrap();
    }
    let mut found = rows(&server).await;
    let name = |row: &(Json, i64, Json)| row.0.to_string();
    found.sort_by_key(name);
    wanted.sort_by_key(name);
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn readings_of_one_millisecond_stay_two_and_are_counted_by_tenant_and_time() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let one = |seq, name| (T + 250_000, seq, vec![(name, float(1.0))]);
    let blocks = vec![
        block(&device("acme", "d"), &[one(Some(1), "x"), one(Some(2), "x"), one(Some(1_000_003), "y")]),
        block(&device("acme", "e"), &[one(None, "x"), (T + MILLI, None, vec![("x", float(1.0)), ("y", float(2.0))])]),
        simple(&device("zeta, inc", "d"), T, 1_000, "x", int),
    ];
    deliver(&points, blocks.clone()).await.unwrap();
    deliver(&points, blocks).await.unwrap();
    let acme: Vec<i64> = rows(&server).await.iter().filter(|r| r.0["tenant"] == "acme").map(|r| r.1).collect();
    assert_eq!(acme, [T + 1, T + 2, T + 3, T + 250_000, T + MILLI]);
    let counts = points.count(TimeRange::ALL).await.unwrap().unwrap();
    assert_eq!(counts, [("acme".into(), 5), ("zeta, inc".into(), 1_000)]);
    let counts = points.count(TimeRange { start: T + MILLI, end: T + 10 * MILLI }).await.unwrap().unwrap();
    assert_eq!(counts, [("acme".into(), 1), ("zeta, inc".into(), 9)]);
    assert!(points.count(TimeRange { start: 0, end: T }).await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn readings_that_share_no_field_and_fields_that_changed_their_type_are_counted() {
    let Some(server) = influxd().await else { return };
    let month = 30 * 86_400 * model::time::SECOND;
    // The span of a shard is a week: then a field may have another type.
    let lines = format!("telemetry,tenant=t,device=d x=1 {T}\ntelemetry,tenant=t,device=d x=\"far\" {}\n", T + month);
    let path = "/api/v2/write?org=plant&bucket=iot";
    assert_eq!(server.ask("POST", path, Some(crate::server::TOKEN), &lines).await.unwrap().0, 204);
    let points = open(server.config());
    let one = |at, name, value| block(&device("t", "d"), &[(at, None, vec![(name, value)])]);
    let names = ["y", "device", "tenant", "_counted_by_weir", "d", "select", "_time", "_value"];
    let blocks = names.iter().enumerate().map(|(n, name)| one(T + (1 + n as i64) * MILLI, name, float(1.0)));
    deliver(&points, blocks.chain([one(T + MILLI, "z", text("beside y"))]).collect()).await.unwrap();
    deliver(&points, vec![one(T + month + MILLI, "x", text("far"))]).await.unwrap();
    assert_eq!(points.count(TimeRange::ALL).await.unwrap().unwrap(), [("t".into(), 3 + names.len() as u64)]);
    // The server refuses a late value of the wrong type; it does not decide the type of later
    // values.
    for _ in 0..2 {
        let error = deliver(&points, vec![one(T + MILLI, "x", text("far"))]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(r) if r.contains("already exists as type float")), "{error:?}");
        deliver(&points, vec![one(T + month + 2 * MILLI, "x", text("far"))]).await.unwrap();
    }
    deliver(&points, vec![one(T + 20 * MILLI, "x", float(2.0))]).await.unwrap();
    deliver(&points, vec![one(T + month + 3 * MILLI, "x", text("far"))]).await.unwrap();
    let coercing = open(Config { on_conflict: OnConflict::Coerce, ..server.config() });
    let late = vec![("x", text("2.5")), ("y", text("3.5"))];
    deliver(&coercing, vec![block(&device("t", "late"), &[(T, None, late)])]).await.unwrap();
    deliver(&coercing, vec![one(T + month + 4 * MILLI, "x", text("far"))]).await.unwrap();
    let found = rows(&server).await;
    assert!(found.iter().any(|row| row.0["device"] == "late" && row.2 == json!({ "x": 2.5, "y": 3.5 })), "{found:?}");
}

#[tokio::test]
async fn a_bucket_may_be_called_as_it_likes() {
    let Some(server) = influxd().await else { return };
    for bucket in ["a/b/c", "x y/z", "with space & ümlaut", "0123456789abcdef"] {
        server.bucket(bucket).await;
        let points = open(Config { bucket: bucket.to_owned(), ..server.config() });
        deliver(&points, vec![simple(&device("t", "d"), T, 7, "x", int)]).await.unwrap();
        assert_eq!(points.count(TimeRange::ALL).await.unwrap().unwrap(), [("t".into(), 7)], "{bucket}");
        let error = deliver(&points, vec![simple(&device("t", "d"), T, 7, "x", |_| text("far"))]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(r) if r.contains("is float since")), "{error:?}");
    }
    assert!(server.fields().await.is_empty(), "the other bucket has nothing");
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_refused_with_the_type_of_the_field_and_since_when_it_has_it() {
    let Some(server) = influxd().await else { return };
    let one = |at, name, value| block(&device("t", "d"), &[(at, None, vec![(name, value)])]);
    let writer = open(Config { types: [("n".to_owned(), FieldType::Integer)].into(), ..server.config() });
    deliver(&writer, vec![one(T, "x", float(1.5)), one(T, "n", int(7)), one(T, "s", text("on"))]).await.unwrap();

    // A second process finds the types in the bucket.
    let points = open(server.config());
    let refused = async |name, value| match deliver(&points, vec![one(T + MILLI, name, value)]).await {
        Err(StoreError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let reason = refused("x", text("far")).await;
    assert_eq!(
        reason,
        "a text (far) does not fit field \"x\", which is float since 2025-06-15T15:06:40Z in bucket \"iot\""
    );
    assert!(refused("n", float(1.5)).await.contains("is integer since 2025-06-15T15:06:40Z"));
    assert!(refused("s", Value::Bool(true)).await.contains("is string since"));
    // A value that fits without a loss is written.
    deliver(&points, vec![one(T + MILLI, "x", int(2)), one(T + MILLI, "n", float(8.0))]).await.unwrap();
    assert_eq!(rows(&server).await.last().unwrap().2, json!({ "x": 2, "n": 8 }));
    // No type is learnt from a refused reading.
    assert!(refused("fresh", float(f64::NAN)).await.contains("finite"));
    deliver(&points, vec![one(T + MILLI, "fresh", text("is a text"))]).await.unwrap();
    let declared = open(Config { types: [("d".to_owned(), FieldType::Boolean)].into(), ..server.config() });
    let error = deliver(&declared, vec![one(T, "d", float(1.0))]).await.unwrap_err();
    assert!(error.to_string().contains("which influxdb.types declares as boolean"), "{error}");
}

#[tokio::test]
async fn names_that_mean_something_to_influxdb_are_mapped_and_break_no_condition() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let names = ["device", "tenant", "time", "Time", "time_", "_time", "_value", "_field", "_measurement", "_start"];
    let values: Vec<_> = names.iter().enumerate().map(|(n, name)| (*name, float(n as f64))).collect();
    let all = [block(&device("t", "d"), &[(T, None, values)]), simple(&device("t", "e"), T, 3, "x", int)];
    deliver(&points, all.to_vec()).await.unwrap();
    let wanted: serde_json::Map<_, _> =
        names.iter().enumerate().map(|(n, name)| (format!("{name}_"), json!(n as i64))).collect();
    let found = rows(&server).await;
    let (_, _, fields) = found.iter().find(|row| row.0["device"] == "d").unwrap();
    assert_eq!(fields, &Json::Object(wanted));
    for (condition, count) in [("device = 'd'", 1), ("device = 'e'", 3), ("tenant = 't' AND device = 'e'", 3)] {
        let tables = server.select(&format!("SELECT * FROM telemetry WHERE {condition}")).await;
        assert_eq!(tables[0]["values"].as_array().unwrap().len(), count, "{condition}");
    }
}

#[tokio::test]
async fn an_integer_that_no_float_is_equal_to_costs_nothing_of_its_reading() {
    const LONG: i64 = (1 << 53) + 1;
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let row = |at, n| block(&device("t", "d"), &[(at, None, vec![("n", int(n)), ("t", float(1.5))])]);
    // Also as the first value of its name.
    deliver(&points, vec![row(T, LONG), row(T + MILLI, 2), row(T + 2 * MILLI, -LONG)]).await.unwrap();
    let found: Vec<Json> = rows(&server).await.into_iter().map(|row| row.2).collect();
    let wanted = [json!({ "n_int": LONG, "t": 1.5 }), json!({ "n": 2, "t": 1.5 }), json!({ "n_int": -LONG, "t": 1.5 })];
    assert_eq!(found, wanted);
    let coercing = open(Config { on_conflict: OnConflict::Coerce, ..server.config() });
    deliver(&coercing, vec![row(T + 3 * MILLI, LONG)]).await.unwrap();
    assert_eq!(rows(&server).await[3].2["n"], json!(9_007_199_254_740_992_i64));
}

#[tokio::test]
async fn one_tenant_does_not_decide_the_types_of_another() {
    let Some(server) = influxd().await else { return };
    let one = |tenant: &str, at: i64, value| block(&device(tenant, "d"), &[(T + at * MILLI, None, vec![("x", value)])]);
    let points = open(server.config());
    deliver(&points, vec![one("a", 0, text("on")), one("b", 0, float(1.5))]).await.unwrap();
    for (n, points) in [points, open(server.config()), open(server.config())].iter().enumerate() {
        let at = 1 + n as i64;
        if n == 1 {
            // The first value that this process sees of the tenant fits the field of the other.
            let error = deliver(points, vec![one("b", at, text("on"))]).await.unwrap_err();
            assert!(matches!(&error, StoreError::Refused(r) if r.contains("\"x_float\"")), "{error:?}");
        }
        deliver(points, vec![one("b", at, float(2.5)), one("a", at, text("off"))]).await.unwrap();
        let error = deliver(points, vec![one("a", at, float(1.0))]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(r) if r.contains("is string since")), "{error:?}");
        let error = deliver(points, vec![one("b", at, text("on"))]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(r) if r.contains("\"x_float\"")), "{error:?}");
    }
    let found = rows(&server).await;
    let of = |tenant: &str| found.iter().filter(|row| row.0["tenant"] == tenant).map(|row| row.2.clone()).collect();
    let (a, b): (Vec<Json>, Vec<Json>) = (of("a"), of("b"));
    assert_eq!(a, ["on", "off", "off", "off"].map(|v| json!({ "x": v })));
    assert_eq!(b, [1.5, 2.5, 2.5, 2.5].map(|v| json!({ "x_float": v })));
}

#[tokio::test]
async fn an_owner_changes_a_type_by_declaring_it() {
    let Some(server) = influxd().await else { return };
    let one = |at: i64, value| block(&device("t", "d"), &[(T + at * MILLI, None, vec![("x", value)])]);
    deliver(&open(server.config()), vec![one(0, text("n/a"))]).await.unwrap();
    let declared = open(Config { types: [("x".to_owned(), FieldType::Float)].into(), ..server.config() });
    deliver(&declared, vec![one(1, float(1.5)), one(2, int(2))]).await.unwrap();
    let error = deliver(&declared, vec![one(3, text("n/a"))]).await.unwrap_err();
    assert!(error.to_string().contains("which influxdb.types declares as float"), "{error}");
    let found: Vec<Json> = rows(&server).await.into_iter().map(|row| row.2).collect();
    assert_eq!(found, [json!({ "x": "n/a" }), json!({ "x_float": 1.5 }), json!({ "x_float": 2 })]);
}

#[tokio::test]
async fn a_type_that_another_writer_brought_meanwhile_is_learnt_from_the_servers_refusal() {
    let Some(server) = influxd().await else { return };
    let one = |value| block(&device("t", "d"), &[(T, None, vec![("x", value)])]);
    let [plain, coercing] =
        [OnConflict::DeadLetter, OnConflict::Coerce].map(|on_conflict| open(Config { on_conflict, ..server.config() }));
    plain.check().await.unwrap();
    coercing.check().await.unwrap();
    deliver(&open(server.config()), vec![one(float(1.0))]).await.unwrap();
    let error = deliver(&plain, vec![one(text("2.5"))]).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused(reason) if reason.contains("already exists as type float")),
        "{error:?}"
    );
    let error = deliver(&plain, vec![one(text("2.5"))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(reason) if reason.contains("is float since")), "{error:?}");
    deliver(&coercing, vec![one(text("2.5"))]).await.unwrap();
    assert_eq!(rows(&server).await[0].2, json!({ "x": 2.5 }));
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_coerced_or_written_to_another_field_when_configured() {
    let Some(server) = influxd().await else { return };
    let types: BTreeMap<String, FieldType> =
        [("i", FieldType::Integer), ("b", FieldType::Boolean), ("s", FieldType::String)]
            .map(|(n, t)| (n.into(), t))
            .into();
    let with = |on_conflict| open(Config { types: types.clone(), on_conflict, ..server.config() });
    let row = |values| block(&device("t", "d"), &[(T, None, values)]);
    let coercing = with(OnConflict::Coerce);
    let values = vec![("f", text(" 1.5 ")), ("i", float(2.6)), ("b", int(1)), ("s", float(0.5))];
    deliver(&coercing, vec![row(vec![("f", float(0.0))]), row(values)]).await.unwrap();
    assert_eq!(rows(&server).await[0].2, json!({ "f": 1.5, "i": 3, "b": true, "s": "0.5" }));
    assert!(matches!(deliver(&coercing, vec![row(vec![("f", text("far"))])]).await, Err(StoreError::Refused(_))));
    assert!(matches!(deliver(&coercing, vec![row(vec![("i", float(1e300))])]).await, Err(StoreError::Refused(_))));

    let beside = with(OnConflict::SideField);
    let values = vec![("f", text("far")), ("i", float(2.6)), ("b", text("x")), ("s", int(4)), ("g", int(i64::MAX))];
    deliver(&beside, vec![row(vec![("g", float(0.0))]), row(values)]).await.unwrap();
    let fields = &rows(&server).await[0].2;
    assert_eq!((&fields["f_str"], &fields["i_float"], &fields["b_str"]), (&json!("far"), &json!(2.6), &json!("x")));
    assert_eq!((&fields["s"], &fields["g_int"]), (&json!("4"), &json!(i64::MAX)));
    let taken = vec![("f", text("far")), ("f_str", text("here"))];
    assert!(matches!(deliver(&beside, vec![row(taken)]).await, Err(StoreError::Refused(_))), "nothing is written over");
}
