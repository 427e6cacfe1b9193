//! The rules of the house: who may depend on whom, what every crate says of itself, samples that load, links that lead
//! somewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Our crates: the folder, and what it may depend on besides third parties.
const ALLOWED: &[(&str, &[&str])] = &[
    ("api", &["buffer", "model", "proto", "stores"]),
    ("bench", &[]),
    ("broker", &["model"]),
    ("buffer", &["model"]),
    ("e2e", &["model", "proto"]),
    ("flusher", &["buffer", "model", "proto", "stores"]),
    ("ingest", &["broker", "buffer", "model"]),
    ("model", &[]),
    ("proto", &[]),
    ("server", &["api", "broker", "buffer", "flusher", "ingest", "model", "proto", "stores"]),
    ("simulators", &["model", "proto"]),
    ("stores", &["model"]),
    ("xtask", &[]),
];

/// Third-party crates with owners; nobody else may use them. Tests may use those that stand under `dev`.
const OWNED: &[(&str, &[&str], Dev)] = &[
    ("axum", &["server"], Dev::No),
    ("clap", &["bench", "server", "simulators", "xtask"], Dev::No),
    ("flate2", &["stores"], Dev::Yes),
    ("http-body-util", &["simulators", "stores"], Dev::Yes),
    ("hyper", &["stores"], Dev::Yes),
    ("hyper-rustls", &["simulators", "stores"], Dev::No),
    ("hyper-util", &["server", "simulators", "stores"], Dev::Yes),
    ("mongodb", &["e2e", "simulators", "stores"], Dev::Yes),
    ("opentelemetry", &["server"], Dev::No),
    ("opentelemetry-otlp", &["server"], Dev::No),
    ("opentelemetry_sdk", &["server"], Dev::No),
    ("parquet", &["server"], Dev::No),
    ("percent-encoding", &["stores"], Dev::Yes),
    ("protox", &["proto"], Dev::No),
    ("redb", &["stores"], Dev::No),
    ("redis", &["buffer"], Dev::No),
    ("rumqttc", &["e2e", "simulators"], Dev::Yes),
    ("rumqttd", &[], Dev::Yes),
    ("rustls", &["buffer", "stores"], Dev::Yes),
    ("tonic", &["api", "e2e", "flusher", "proto", "server", "simulators"], Dev::Yes),
    ("webpki-roots", &["stores"], Dev::No),
];

#[derive(Clone, Copy, PartialEq)]
enum Dev {
    Yes,
    No,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Every file of the project, in order, without what tools make.
fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if [".git", "target", "node_modules", "corpus", "artifacts", "weir-data"].contains(&name) {
                continue;
            }
            if path.is_dir() { walk(&path, out) } else { out.push(path) }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &mut out);
    out.sort();
    out
}

fn with_ending(ending: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

/// For a message: the path from the root.
fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
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

#[test]
fn every_crate_says_what_it_receives_promises_hands_on_and_never_does() {
    let mut faults = Vec::new();
    for (name, _) in ALLOWED {
        let source = root().join(name).join("src");
        let path = ["lib.rs", "main.rs"].map(|file| source.join(file)).into_iter().find(|path| path.is_file());
        let path = path.unwrap_or_else(|| panic!("{name} has sources"));
        let text = read(&path);
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let places = ["//! Receives: ", "//! Promises: ", "//! Hands on: ", "//! Never: "]
            .map(|word| header.iter().position(|line| line.starts_with(word)));
        let in_order = places.iter().all(Option::is_some) && places.is_sorted();
        if !in_order {
            faults
                .push(format!("{}: the header lacks Receives, Promises, Hands on, Never, in this order", short(&path)));
        }
    }
    none(faults);
}

#[test]
fn no_source_file_is_too_long_to_read() {
    const LINES: usize = 600;
    let long = |path: PathBuf| (read(&path).lines().count(), short(&path));
    let long = with_ending("rs").into_iter().map(long).filter(|(lines, _)| *lines > LINES);
    none(long.map(|(lines, path)| format!("{path} has {lines} lines, {LINES} are the limit: split it")).collect());
}

#[test]
fn lints_are_expected_with_a_reason_and_never_just_allowed() {
    let marks = [concat!("#[al", "low("), concat!("#![al", "low(")];
    let mut faults = Vec::new();
    for path in with_ending("rs") {
        for (number, line) in read(&path).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                faults.push(format!("{}:{}: use #[expect(lint, reason = \"…\")]", short(&path), number + 1));
            }
        }
    }
    none(faults);
}

#[test]
fn no_file_knows_the_machine_on_which_it_was_written() {
    let marks = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut faults = Vec::new();
    for path in files() {
        // What is no text has no paths of ours.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                faults.push(format!("{}:{}: holds {mark}", short(&path), number + 1));
            }
        }
    }
    none(faults);
}

#[test]
fn relative_links_in_the_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for path in with_ending("md") {
        for target in links(&read(&path)) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !path.parent().expect("a file lies in a folder").join(file).exists() {
                faults.push(format!("{} links to {target}, which is not there", short(&path)));
            }
        }
    }
    none(faults);
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(rest[..end].to_owned());
        }
    }
    found
}

/// The fenced blocks of a document in this language, with the line at which each begins.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim().strip_prefix("```"), inside) {
            (Some(tag), None) => {
                inside = Some(tag.trim() == language);
                if tag.trim() == language {
                    found.push((number + 2, String::new()));
                }
            }
            (Some(_), Some(_)) => inside = None,
            (None, Some(true)) => {
                let block = &mut found.last_mut().expect("a block was begun").1;
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    found
}

/// True for what could be a file: it begins with a section, not with a key of one.
fn is_whole(block: &str) -> bool {
    let first = block.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    first.starts_with('[') && !first.starts_with("[route.")
}

fn weir(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).output().expect("weir runs")
}

#[test]
fn configuration_in_the_documents_loads() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sample.toml");
    let mut faults = Vec::new();
    for path in with_ending("md") {
        for (line, block) in blocks(&read(&path), "toml").into_iter().filter(|(_, block)| is_whole(block)) {
            std::fs::write(&file, block).unwrap();
            let output = weir(&["config", "--check", file.to_str().unwrap()]);
            if !output.status.success() {
                faults.push(format!("{}:{line}: {}", short(&path), String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
    }
    none(faults);
}

#[test]
fn the_printed_configuration_loads() {
    let printed = weir(&["config"]);
    assert!(printed.status.success());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, printed.stdout).unwrap();
    let checked = weir(&["config", "--check", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn commands_in_the_documents_exist_with_their_flags() {
    let mut faults = Vec::new();
    for path in with_ending("md") {
        for (line, block) in blocks(&read(&path), "sh") {
            for command in block.lines().filter_map(|l| l.trim().strip_prefix("weir ")) {
                let command = command.split(" #").next().unwrap_or_default();
                let mut words = command.split_whitespace();
                let name = words.next().unwrap_or_default();
                let help = weir(&[name, "--help"]);
                let text = String::from_utf8_lossy(&help.stdout).into_owned();
                let unknown = words.filter(|w| w.starts_with("--")).map(|w| w.split('=').next().unwrap_or(w));
                let unknown: Vec<&str> = unknown.filter(|flag| !text.contains(flag)).collect();
                if !help.status.success() || !unknown.is_empty() {
                    faults.push(format!("{}:{line}: `weir {command}`: {unknown:?}", short(&path)));
                }
            }
        }
    }
    none(faults);
}
