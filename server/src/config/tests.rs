use std::path::Path;

use super::load::{parse, variable};
use super::*;

fn file(text: &str) -> anyhow::Result<Config> {
    parse(Path::new("weir.toml"), text)
}

fn with_environment(pairs: &[(&str, &str)]) -> anyhow::Result<load::Loaded> {
    let environment = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let empty = tempfile::NamedTempFile::new()?;
    load(&Sources { file: Some(empty.path().to_owned()), environment, ..Sources::default() })
}

fn leaves(prefix: &str, table: &toml::Table, out: &mut Vec<String>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => leaves(&key, inner, out),
            _ => out.push(key),
        }
    }
}

#[test]
fn an_address_with_a_path_is_refused_where_it_can_have_none() {
    let mut config = Config::default();
    config.tracing.endpoint = "http://127.0.0.1:4318/v1/traces".into();
    let error = config.check().unwrap_err().to_string();
    assert!(error.contains("`tracing.endpoint`") && error.contains("/v1/traces") && error.contains(":4317"), "{error}");
    config.tracing.endpoint = "http://127.0.0.1:4317/".into();
    config.check().unwrap();
    config.fleet.advertise = "http://10.0.0.7:50052".into();
    let error = config.fleet.advertised(([127, 0, 0, 1], 1).into()).unwrap_err().to_string();
    assert!(error.contains("`fleet.advertise`") && error.contains("host:port"), "{error}");
}

#[test]
fn every_key_of_the_tree_is_documented_and_every_documented_key_is_in_the_tree() {
    let mut tree = Vec::new();
    leaves("", &toml::Table::try_from(Config::default()).unwrap(), &mut tree);
    let mut documented: Vec<String> = keys::all().map(|key| key.name.clone()).collect();
    tree.sort();
    documented.sort();
    assert_eq!(tree, documented);
    for key in keys::all() {
        assert!(!key.text.is_empty(), "{} has a text", key.name);
    }
    for section in keys::SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        assert!(!section.text.is_empty(), "{} is described", section.name);
    }
    for kind in crate::exports::TYPES {
        let defaults = (kind.defaults)().unwrap();
        let keys = (kind.keys)();
        assert_eq!(keys.len(), defaults.len(), "every key of {} has a default", kind.name);
        for key in &keys {
            assert!(!key.text.is_empty(), "{} of {} has a text", key.name, kind.name);
            assert!(!export::common_keys().iter().any(|common| common.name == key.name), "{} is free", key.name);
        }
    }
}

#[test]
fn the_sample_parses_and_is_the_default() {
    assert_eq!(file(&sample()).unwrap(), Config::default());
    assert!(sample().lines().all(|line| line.len() <= 160), "no line is too long to read");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    let error = file("[mqtt]\naddress = \"127.0.0.1:1\"\nmax_conections = 5\n").unwrap_err().to_string();
    assert_eq!(error, "weir.toml:3: unknown key `mqtt.max_conections`; did you mean `mqtt.max_connections`?");
    let error = file("\n[histroy]\nretention_secs = 5\n").unwrap_err().to_string();
    assert_eq!(error, "weir.toml:2: unknown key `histroy`; did you mean `history`?");
    let error = file("segment_bytes = 5\n").unwrap_err().to_string();
    assert_eq!(error, "weir.toml:1: unknown key `segment_bytes`; did you mean `log.segment_bytes`?");
}

#[test]
fn a_value_of_the_wrong_type_and_broken_toml_name_the_line() {
    let error = file("[log]\n\nsegment_bytes = \"big\"\n").unwrap_err().to_string();
    assert!(error.starts_with("weir.toml:3: invalid type: string \"big\""), "{error}");
    let error = file("[log\n").unwrap_err().to_string();
    assert!(error.starts_with("weir.toml:1: "), "{error}");
}

#[test]
fn every_key_can_be_set_by_its_own_variable() {
    let mut names: Vec<String> = keys::all().map(|key| variable(&key.name)).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "no two keys share a variable");

    let loaded = with_environment(&[
        ("WEIR_LOG_SEGMENT_BYTES", "4194304"),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300"),
        ("WEIR_INSECURE", "true"),
        ("WEIR_TRACING_RATIO", "0.01"),
        ("WEIR_TRACING_DEVICES", "d1,d2"),
        ("WEIR_DATA_DIR", "/tmp/x"),
        ("WEIR_LOG", "debug"),
    ])
    .unwrap();
    assert_eq!(loaded.config.log.segment_bytes, 4_194_304);
    assert!((loaded.config.history.sink.flush_secs - 0.3).abs() < 1e-9);
    assert!(loaded.config.insecure);
    assert_eq!((loaded.config.tracing.ratio, loaded.config.tracing.devices.len()), (0.01, 2));
    assert_eq!(loaded.config.data_dir, Path::new("/tmp/x"));
    assert_eq!(loaded.config.logging.level, "debug");
}

#[test]
fn a_wrong_variable_is_named() {
    let error = format!("{:#}", with_environment(&[("WEIR_LOG_SEGMENT_BYTES", "many")]).unwrap_err());
    assert!(
        error.starts_with("environment variable WEIR_LOG_SEGMENT_BYTES: `log.segment_bytes` takes a whole"),
        "{error}"
    );
    let error = format!("{:#}", with_environment(&[("WEIR_LOG_SEGMENT_BYTES", "-1")]).unwrap_err());
    assert!(error.contains("`log.segment_bytes` = \"-1\""), "{error}");
    let warnings = with_environment(&[("WEIR_LOG_SEGMENT_BYTE", "1"), ("WEIR_TEST_NODE", "x")]).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("WEIR_LOG_SEGMENT_BYTES"), "{warnings:?}");
}

#[test]
fn flags_are_stronger_than_the_environment_and_that_than_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.toml");
    std::fs::write(
        &path,
        "[mqtt]\naddress = \"127.0.0.1:1\"\n[grpc]\naddress = \"127.0.0.1:2\"\n[http]\naddress = \"127.0.0.1:3\"\n",
    )
    .unwrap();
    let loaded = load(&Sources {
        file: Some(path),
        flags: vec![("http.address", "127.0.0.1:33".into())],
        environment: vec![
            ("WEIR_GRPC_ADDRESS".into(), "127.0.0.1:22".into()),
            ("WEIR_HTTP_ADDRESS".into(), "127.0.0.1:23".into()),
        ],
        ..Sources::default()
    })
    .unwrap();
    let addresses: Vec<&str> = loaded.config.addresses().iter().map(|(_, a)| *a).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.1:22", "127.0.0.1:33"]);
}

#[test]
fn an_address_that_others_can_reach_needs_encryption_and_authentication_or_insecure() {
    let mut config = Config::default();
    config.grpc.address = "0.0.0.0:50051".into();
    assert!(config.check().is_ok());
    let refused = |config: &Config| config.check_exposure().unwrap_err().to_string();
    let error = refused(&config);
    assert!(error.contains("`grpc.address`") && error.contains("`tls.certificate`"), "{error}");
    assert!(error.contains("--insecure"), "{error}");
    (config.tls.certificate, config.tls.key) = ("server.pem".into(), "server.key".into());
    config.mqtt.tls_address = "0.0.0.0:8883".into();
    let error = refused(&config);
    assert!(error.contains("`mqtt.tls_address`") && error.contains("`auth.required = true`"), "{error}");
    config.auth.required = true;
    config.check_exposure().unwrap();
    config.mqtt.address = "[::]:1883".into();
    let error = refused(&config);
    assert!(error.contains("`mqtt.address`") && error.contains("`mqtt.tls_address`"), "{error}");
    config.insecure = true;
    assert!(config.check_exposure().is_ok());
    config.mqtt.address = "localhost".into();
    assert!(config.check().is_err());
}

#[test]
fn keys_of_tls_are_given_together() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(refused(|config| config.tls.certificate = "a".into()).contains("without `tls.key`"));
    assert!(refused(|config| config.tls.key = "a".into()).contains("without `tls.certificate`"));
    assert!(refused(|config| config.tls.client_ca = "a".into()).contains("`tls.client_ca` needs"));
    assert!(refused(|config| config.mqtt.tls_address = "127.0.0.1:0".into()).contains("`mqtt.tls_address` needs"));
    assert!(refused(|config| config.tls.max_handshakes = 0).contains("`tls.max_handshakes`"));
}

#[test]
fn a_short_fleet_secret_is_refused_without_being_shown() {
    let mut config = Config::default();
    config.fleet.secret = "hunter2".into();
    let error = config.check_exposure().unwrap_err().to_string();
    assert!(error.contains("`fleet.secret` has 7 characters") && !error.contains("hunter2"), "{error}");
    config.fleet.secret = "0123456789abcdef".into();
    assert!(config.check_exposure().is_ok());
}

fn fleet(redis: &str) -> Config {
    let mut config = Config::default();
    config.redis.log.urls = vec![redis.to_owned()];
    config.mongodb.uri = "mongodb://m".to_owned();
    config.fleet.secret = "0123456789abcdef".into();
    config
}

#[test]
fn a_flusher_that_others_call_at_an_address_in_the_open_needs_certificates_or_insecure() {
    let mut config = fleet("redis://127.0.0.1");
    config.fleet.advertise = "127.0.0.1:7".into();
    config.check_exposure().unwrap();
    // Its listener is on loopback, behind a forwarded port.
    for advertise in ["10.0.0.7:50052", "flusher:50052", "[2001:db8::1]:50052", "localhost.example:1"] {
        config.fleet.advertise = advertise.into();
        let error = config.check_exposure().unwrap_err().to_string();
        assert!(error.contains("`fleet.advertise` is ") && error.contains("`fleet.certificate`"), "{error}");
        let trusting = Config { insecure: true, ..config.clone() };
        trusting.check_exposure().unwrap();
        let caller = Config { roles: vec![Role::Api], ..config.clone() };
        caller.check_exposure().unwrap();
        let mut encrypted = config.clone();
        encrypted.fleet.certificate = "server.pem".into();
        encrypted.check_exposure().unwrap();
    }
}

#[test]
fn a_process_that_may_call_no_flusher_of_other_machines_says_so_at_the_start() {
    for (redis, warns) in [
        ("redis://127.0.0.1:6379", false),
        ("redis://user:secret@localhost/1", false),
        ("rediss://[::1]:6379", false),
        ("unix:///run/redis.sock", false),
        ("redis://user:secret@10.0.0.5:6379/1", true),
        ("redis://redis", true),
    ] {
        let mut config = fleet(redis);
        config.roles = vec![Role::Api];
        let warning = config.exposure_warning();
        assert_eq!(warning.is_some(), warns, "{redis}");
        if let Some(warning) = warning {
            assert!(warning.contains("`fleet.certificate`") && !warning.contains("secret@"), "{warning}");
        }
        config.insecure = true;
        assert_eq!(config.exposure_warning(), None);
        (config.insecure, config.fleet.certificate) = (false, "server.pem".into());
        assert_eq!(config.exposure_warning(), None);
    }
    assert_eq!(Config::default().exposure_warning(), None);
}

#[test]
fn topics_that_every_device_could_use_are_refused() {
    for (topic, expected) in [("devices/#", "every device could use"), ("devices/{device}#", "not a topic filter")] {
        let mut config = Config::default();
        config.auth.publish = vec![topic.to_owned()];
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("`auth.publish`") && error.contains(expected), "{topic}: {error}");
    }
}

#[test]
fn routes_are_kept_when_a_variable_changes_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.toml");
    std::fs::write(&path, "[[route]]\ntopic = \"a/{device}\"\n").unwrap();
    let environment = vec![("WEIR_INSECURE".to_owned(), "true".to_owned())];
    let loaded = load(&Sources { file: Some(path), environment, ..Sources::default() }).unwrap();
    assert_eq!(loaded.config.route.len(), 1);
}

#[test]
fn tracing_that_cannot_be_is_refused_by_its_key() {
    for (variable, wrong) in [
        ("WEIR_TRACING_ENDPOINT", "localhost:4317"),
        ("WEIR_TRACING_RATIO", "1.5"),
        ("WEIR_TRACING_RATIO", "-0.1"),
        ("WEIR_TRACING_RATIO", "NaN"),
        ("WEIR_TRACING_RATIO", "half"),
        ("WEIR_TRACING_QUEUE_SPANS", "0"),
        ("WEIR_TRACING_TIMEOUT_MS", "0"),
        ("WEIR_TRACING_HEADERS", "secret"),
    ] {
        let error = format!("{:#}", with_environment(&[(variable, wrong)]).unwrap_err());
        let key = variable.trim_start_matches("WEIR_").to_lowercase().replacen('_', ".", 1);
        assert!(error.contains(&format!("`{key}`")) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn a_fleet_with_authentication_needs_a_registry_that_its_processes_share() {
    let fleet = "[redis]\nurls = ['redis://r']\n[mongodb]\nuri = 'mongodb://m'\n[auth]\nrequired = true\n";
    let error = check(fleet).unwrap_err();
    assert!(error.contains("`auth.registry`") && error.contains("PostgreSQL"), "{error}");
    for registry in ["mongodb", "postgresql://weir:hidden@db/weir"] {
        check(&format!("{fleet}registry = '{registry}'\n")).unwrap();
    }
    let error = check("[auth]\nregistry = 'mongodb'\n").unwrap_err();
    assert!(error.contains("`mongodb.uri` is empty"), "{error}");
    let error = check("[auth]\nregistry = 'mysql://weir:hidden@db/weir'\n").unwrap_err();
    assert!(error.contains("postgresql://") && !error.contains("hidden"), "{error}");
}

#[test]
fn passwords_need_authentication_and_memory() {
    let error = check("[auth]\npasswords = true\n").unwrap_err();
    assert!(error.contains("`auth.passwords`") && error.contains("`auth.required`"), "{error}");
    let text = "[auth]\nrequired = true\npasswords = true\n[memory]\nmax_bytes = ";
    let error = check(&format!("{text}104857600\n")).unwrap_err();
    let least: u64 = error.split_whitespace().find_map(|word| word.parse().ok()).expect("an amount");
    assert!(error.contains("`memory.max_bytes`") && least > 200_000_000, "{error}");
    check(&format!("{text}{least}\n")).unwrap();
    check(&format!("{text}{}\n", least - 4)).unwrap_err();
}

fn check(text: &str) -> Result<(), String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    assert!(!format!("{config:?}").contains("hidden"), "{config:?}");
    config.check().map_err(|error| format!("{error:#}"))
}

#[test]
fn encryption_has_one_key_and_its_log_in_the_data_folder() {
    let refused = |text: &str| {
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap_err().to_string()
    };
    let both = refused("[encryption]\nkey_file = \"/k\"\nkey_env = \"K\"");
    assert!(both.contains("`encryption.key_file`") && both.contains("set one of them"), "{both}");
    let alone = refused("[encryption]\nread_only = true");
    assert!(alone.contains("`encryption.read_only`"), "{alone}");
    let redis = refused("[encryption]\nkey_file = \"/k\"\n[redis]\nurls = [\"redis://localhost\"]");
    assert!(redis.contains("log on Redis") && redis.contains("`redis.urls`"), "{redis}");
    let config: Config = toml::from_str("[encryption]\nkey_command = [\"kms\", \"--key\"]").unwrap();
    config.check().unwrap();
}
