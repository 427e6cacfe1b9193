//! Which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::{none, read, root};

/// Crates of the workspace: the folder, and the other crates it may depend on.
pub(crate) const ALLOWED: &[(&str, &[&str])] = &[
    ("api", &["buffer", "identity", "model", "proto", "stores", "tls"]),
    ("bench", &["mqtt-client", "tls"]),
    ("bridge", &["model", "mqtt-client", "tls"]),
    ("broker", &["door", "model", "tls"]),
    ("buffer", &["envelope", "model"]),
    ("cluster", &["broker", "buffer", "model", "tls"]),
    ("door", &["model"]),
    ("e2e", &["model", "mqtt-client", "proto"]),
    ("envelope", &[]),
    ("flusher", &["buffer", "cluster", "model", "proto", "stores"]),
    ("identity", &["door", "model", "tls"]),
    ("ingest", &["buffer", "door", "model"]),
    ("model", &[]),
    ("mqtt-client", &[]),
    ("proto", &[]),
    (
        "server",
        &[
            "api", "bridge", "broker", "buffer", "cluster", "door", "envelope", "flusher", "identity", "ingest",
            "model", "proto", "stores", "tls",
        ],
    ),
    ("simulators", &["model", "mqtt-client", "proto", "tls"]),
    ("stores", &["envelope", "model"]),
    ("tls", &[]),
    ("xtask", &[]),
];

/// Third-party crates with owners, which other crates must not use. `Dev::Yes` allows them in
/// tests.
const OWNED: &[(&str, &[&str], Dev)] = &[
    ("argon2", &["identity"], Dev::No),
    ("aws-lc-rs", &["envelope", "identity"], Dev::Yes),
    ("axum", &["server"], Dev::No),
    ("clap", &["bench", "server", "simulators", "xtask"], Dev::No),
    ("flate2", &["stores"], Dev::Yes),
    ("http-body-util", &["identity", "simulators", "stores"], Dev::Yes),
    ("hyper", &["identity", "stores"], Dev::Yes),
    ("hyper-rustls", &["server", "simulators", "stores"], Dev::No),
    ("httparse", &["broker"], Dev::No),
    ("hyper-util", &["identity", "server", "simulators", "stores", "tls"], Dev::Yes),
    ("jsonwebtoken", &["identity", "simulators"], Dev::No),
    ("listenfd", &["server"], Dev::No),
    ("mongodb", &["e2e", "identity", "simulators", "stores"], Dev::Yes),
    ("opentelemetry", &["server"], Dev::No),
    ("opentelemetry-otlp", &["server"], Dev::No),
    ("opentelemetry_sdk", &["server"], Dev::No),
    ("parquet", &["server"], Dev::No),
    ("percent-encoding", &["stores"], Dev::Yes),
    ("protox", &["proto"], Dev::No),
    ("rdkafka", &["stores"], Dev::No),
    ("redb", &["identity", "stores"], Dev::No),
    ("redis", &["buffer"], Dev::No),
    ("rumqttc", &["e2e", "simulators"], Dev::Yes),
    ("rumqttd", &[], Dev::Yes),
    ("rcgen", &["tls"], Dev::Yes),
    ("rustls", &["buffer", "identity", "stores", "tls"], Dev::Yes),
    ("sha1", &["broker"], Dev::No),
    ("tokio-postgres", &["identity"], Dev::Yes),
    ("tonic", &["api", "cluster", "e2e", "flusher", "proto", "server", "simulators", "tls"], Dev::Yes),
    ("tokio-tungstenite", &["bridge"], Dev::No),
    ("tokio-rustls", &["identity", "tls"], Dev::Yes),
    ("webpki-roots", &["identity", "stores", "tls"], Dev::No),
    ("x509-parser", &["identity", "tls"], Dev::Yes),
];

#[derive(Clone, Copy, PartialEq)]
enum Dev {
    Yes,
    No,
}

/// The names under a table of a manifest.
fn dependencies(manifest: &toml::Table, table: &str) -> BTreeSet<String> {
    manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned()).collect()
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let workspace: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let load = |name: &str| (name.to_owned(), read(&root().join(name).join("Cargo.toml")).parse().unwrap());
    members.iter().map(|member| load(member.as_str().unwrap())).collect()
}

#[test]
fn our_crates_depend_on_each_other_only_as_the_architecture_allows() {
    let manifests = manifests();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(known, manifests.keys().map(String::as_str).collect(), "every crate stands in the table");
    let mut faults = Vec::new();
    for (name, allowed) in ALLOWED {
        for table in ["dependencies", "build-dependencies"] {
            for used in dependencies(&manifests[*name], table) {
                if known.contains(used.as_str()) && !allowed.contains(&used.as_str()) {
                    faults.push(format!("{name} must not depend on {used}"));
                }
            }
        }
    }
    none(faults);
}

#[test]
fn third_party_crates_are_used_by_their_owners_only() {
    let mut faults = Vec::new();
    for (name, manifest) in manifests() {
        for (table, dev) in [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)] {
            let used = dependencies(&manifest, table);
            for (third, owners, tests) in OWNED {
                let allowed = owners.contains(&name.as_str()) || (dev && *tests == Dev::Yes);
                if used.contains(*third) && !allowed {
                    faults.push(format!("{name} must not use {third} ({table})"));
                }
            }
        }
    }
    none(faults);
}

#[test]
fn versions_of_third_party_crates_stand_in_the_workspace_only() {
    let mut faults = Vec::new();
    for (name, manifest) in manifests() {
        for table in ["dependencies", "build-dependencies"] {
            for (used, value) in manifest.get(table).and_then(toml::Value::as_table).into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    faults.push(format!("{name}: `{used}` does not say `workspace = true` ({table})"));
                }
            }
        }
    }
    none(faults);
}
