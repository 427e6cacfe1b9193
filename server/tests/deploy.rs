//! Every alert has a runbook, and every runbook an alert.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Headings of a runbook, in this order.
const SECTIONS: [&str; 4] = ["## What it means", "## What you see", "## What to do", "## Whom to wake"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Alerts with the runbooks in their rules.
fn alerts() -> BTreeMap<String, BTreeSet<String>> {
    let mut alerts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("deploy/prometheus/rules")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for rule in text.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().trim();
            let pages = rule.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: "));
            alerts.entry(name.to_owned()).or_default().extend(pages.map(str::to_owned));
        }
    }
    assert!(!alerts.is_empty(), "there are alerts");
    alerts
}

#[test]
fn every_alert_names_its_page_and_the_page_is_there() {
    for (alert, pages) in alerts() {
        let page = format!("docs/runbooks/{alert}.md");
        let url = format!("https://runbooks.example/{page}");
        assert_eq!(pages, BTreeSet::from([url]), "the annotation `runbook_url` of {alert}");
        assert!(root().join(&page).is_file(), "{page} is missing");
    }
}

#[test]
fn every_page_belongs_to_an_alert_and_says_what_to_do() {
    let alerts = alerts();
    for entry in std::fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(alerts.contains_key(&name), "{} belongs to no alert", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("# {name}\n")), "{} has another title", path.display());
        let places = SECTIONS.map(|section| text.find(section));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{} lacks {SECTIONS:?}", path.display());
        let steps = &text[places[2].unwrap()..places[3].unwrap()];
        assert!(steps.contains("1. "), "{} has no steps", path.display());
        assert!(steps.lines().any(|line| line.trim().starts_with("weir ")), "{} names no command", path.display());
    }
}

fn weir(arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "weir {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All words of a text that begin with `WEIR_`.
fn variables(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words.filter(|word| word.starts_with("WEIR_")).collect()
}

#[test]
fn the_configuration_of_the_service_loads_also_with_every_store_switched_on() {
    let file = root().join("deploy/weir.toml");
    weir(&["config", "--check", file.to_str().unwrap()]);
    let text = std::fs::read_to_string(&file).unwrap();
    // Settings follow a `#` without a blank, comments one with a blank.
    let switched_on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    let all: String = text.lines().map(switched_on).collect();
    assert_ne!(all, text, "some stores are switched off");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, all.replace("[influxdb]", "[influxdb]\ntoken = \"secret\"")).unwrap();
    weir(&["config", "--check", file.to_str().unwrap()]);
}

#[test]
fn variables_that_the_container_files_set_are_read() {
    let sample = weir(&["config"]);
    let known = variables(&sample);
    // Variables of the compose file itself, and of the commands in it.
    let own = BTreeSet::from(["WEIR_API_KEY_FILE", "WEIR_CA", "WEIR_DEMO_TOKEN", "WEIR_SERVER"]);
    for file in ["deploy/compose.yaml", "deploy/Dockerfile", "deploy/weir.toml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let set = variables(&text);
        let unknown: Vec<&&str> = set.difference(&known).filter(|name| !own.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} sets {unknown:?}, which Weir does not read");
    }
}
