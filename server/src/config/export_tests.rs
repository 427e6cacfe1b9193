use std::path::Path;

use super::load::parse;
use super::*;

const BUS: &str = "[[export]]\nname = \"bus-1\"\ntype = \"influxdb\"\nurl = \"http://127.0.0.1:8086\"\n\
                   org = \"o\"\nbucket = \"b\"\n";

fn loaded(text: &str, environment: &[(&str, &str)]) -> anyhow::Result<load::Loaded> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weir.toml");
    std::fs::write(&path, text)?;
    let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    load(&Sources { file: Some(path), environment, ..Sources::default() })
}

fn fault(text: &str) -> String {
    format!("{:#}", loaded(text, &[]).unwrap_err())
}

#[test]
fn two_exports_of_a_type_stand_beside_the_section_influxdb() {
    let text = format!(
        "[influxdb]\nurl = \"http://h\"\norg = \"o\"\nbucket = \"b\"\nflush_interval_ms = 7\n{BUS}\
         {}",
        BUS.replace("bus-1", "bus-2")
    );
    let exports = loaded(&text, &[]).unwrap().config.exports().unwrap();
    let seen: Vec<(&str, &str, Start)> =
        exports.iter().map(|export| (export.name.as_str(), export.kind.as_str(), export.start)).collect();
    assert_eq!(
        seen,
        [
            ("influxdb", "influxdb", Start::Beginning),
            ("bus-1", "influxdb", Start::Now),
            ("bus-2", "influxdb", Start::Now)
        ]
    );
    assert_eq!(exports[0].flush_interval_ms, 7);
}

#[test]
fn an_export_that_cannot_be_is_refused_with_its_name_its_key_and_the_file() {
    for (text, wanted) in [
        (format!("{BUS}{BUS}"), "two exports have the `name` \"bus-1\""),
        (BUS.replace("bus-1", "Bus"), "`name` is \"Bus\""),
        (BUS.replace("bus-1", "dead-letters"), "which Weir uses itself"),
        (BUS.replace("bus-1", "history"), "which Weir uses itself"),
        (BUS.replace("name = \"bus-1\"\n", ""), "`name` is missing"),
        (BUS.replace("\"influxdb\"", "\"carrier-pigeon\""), "export `bus-1`: `type` is \"carrier-pigeon\""),
        (BUS.replace("type = \"influxdb\"\n", ""), "export `bus-1`: `type` is missing"),
        (BUS.replace("url = \"http://127.0.0.1:8086\"\n", ""), "export `bus-1`: set `url`"),
        (BUS.replace("org = \"o\"\n", ""), "set export.bus-1.org"),
        (format!("{BUS}batch_lines = \"many\"\n"), "export `bus-1`: `batch_lines`: invalid type"),
        (format!("{BUS}flush_records = 0\n"), "export `bus-1`: `flush_records` is 0"),
    ] {
        let error = fault(&text);
        assert!(error.contains(wanted) && error.contains("weir.toml"), "{error}");
    }
    let both = BUS.replace("bus-1", "influxdb") + "[influxdb]\nurl = \"http://h\"\norg = \"o\"\nbucket = \"b\"\n";
    assert!(fault(&both).contains("[influxdb] is the export"));
}

#[test]
fn an_unknown_key_of_an_export_is_refused_with_its_line_and_the_nearest_known_one() {
    let error = parse(Path::new("weir.toml"), &format!("{BUS}tokn = \"x\"\n")).unwrap_err().to_string();
    assert_eq!(error, "weir.toml:7: unknown key `tokn` of an export; did you mean `token`?");
}

#[test]
fn a_variable_sets_a_key_of_an_export_and_its_secret_is_not_shown() {
    let loaded = loaded(
        BUS,
        &[
            ("WEIR_EXPORT_BUS_1_TOKEN", "hidden"),
            ("WEIR_EXPORT_BUS_1_DEVICES", "a*,b*"),
            ("WEIR_EXPORT_BUS_1_BATCH_LINES", "9"),
            ("WEIR_EXPORT_OTHER_TOKEN", "x"),
            ("WEIR_INSECURE", "true"),
        ],
    )
    .unwrap();
    let export = &loaded.config.export[0];
    assert_eq!(export.settings["token"].as_str(), Some("hidden"));
    assert_eq!(export.settings["batch_lines"].as_integer(), Some(9));
    assert_eq!(export.devices, ["a*", "b*"]);
    assert!(!format!("{:?}", loaded.config).contains("hidden"));
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("WEIR_EXPORT_OTHER_TOKEN"), "{:?}", loaded.warnings);
}

#[test]
fn a_wrong_variable_of_an_export_is_named() {
    let error = format!("{:#}", loaded(BUS, &[("WEIR_EXPORT_BUS_1_BATCH_LINES", "many")]).unwrap_err());
    assert!(error.starts_with("environment variable WEIR_EXPORT_BUS_1_BATCH_LINES: export `bus-1`"), "{error}");
    let two = BUS.replace("bus-1", "a") + &BUS.replace("bus-1", "a-request");
    let error = loaded(&two, &[("WEIR_EXPORT_A_REQUEST_TIMEOUT_MS", "5000")]).err().map(|error| format!("{error:#}"));
    assert_eq!(error, None, "`timeout_ms` is not a key, so only one export is meant");
}
