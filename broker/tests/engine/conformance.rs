//! The table of the standard's statements in docs/conformance.md.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the tests of a suite are.
const SUITES: [(&str, &str); 3] =
    [("codec", "broker/src/codec/tests"), ("e2e", "e2e/tests"), ("engine", "broker/tests/engine")];

/// `MQTT-3.1.2-10` as its numbers.
fn numbers(statement: &str) -> Vec<u32> {
    let numbers = statement.strip_prefix("MQTT-").unwrap_or_else(|| panic!("not a statement: {statement}"));
    numbers.split(['.', '-']).map(|n| n.parse().unwrap_or_else(|_| panic!("not a statement: {statement}"))).collect()
}

#[test]
fn every_statement_of_the_table_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.contains("| MQTT-"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    let mut sources: HashMap<PathBuf, String> = HashMap::new();
    for row in &rows {
        let [version, _, test] = row[..] else { panic!("a row has a version, a statement and a test: {row:?}") };
        assert!(matches!(version, "3.1.1" | "5"), "{row:?}");
        let parts: Vec<&str> = test.trim_matches('`').split("::").collect();
        let [suite, file, name] = parts[..] else { panic!("a test is `SUITE::FILE::NAME`: {row:?}") };
        let folder = SUITES.iter().find(|(known, _)| *known == suite).unwrap_or_else(|| panic!("no suite: {row:?}")).1;
        let path = root.join(folder).join(format!("{file}.rs"));
        let source = sources.entry(path.clone()).or_insert_with(|| std::fs::read_to_string(&path).unwrap_or_default());
        assert!(source.contains(&format!("fn {name}(")), "{} has no test {name}", path.display());
    }
    let keys: Vec<_> = rows.iter().map(|row| (row[0], numbers(row[1]), row[2])).collect();
    let mut sorted = keys.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(keys, sorted, "the rows are in order, each once");
}
