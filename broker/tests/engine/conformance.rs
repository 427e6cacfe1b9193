//! The tables of the standards' statements in docs/conformance-*.md.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where the tests of a suite are.
const SUITES: [(&str, &str); 3] =
    [("codec", "broker/src/codec/tests"), ("e2e", "e2e/tests"), ("engine", "broker/tests/engine")];

/// The statements of a standard: section, first and last number.
type Statements = &'static [(&'static str, u32, u32)];

#[rustfmt::skip]
const OF_3_1_1: Statements = &[
    ("1.5.3", 1, 3), ("2.2.2", 1, 2), ("2.3.1", 1, 7), ("3.1.0", 1, 2), ("3.1.2", 1, 24),
    ("3.1.3", 1, 11), ("3.1.4", 1, 5), ("3.2.0", 1, 1), ("3.2.2", 1, 6), ("3.3.1", 1, 12),
    ("3.3.2", 1, 3), ("3.3.4", 1, 1), ("3.3.5", 1, 2), ("3.6.1", 1, 1), ("3.8.1", 1, 1),
    ("3.8.3", 1, 4), ("3.8.4", 1, 6), ("3.9.3", 1, 2), ("3.10.1", 1, 1), ("3.10.3", 1, 2),
    ("3.10.4", 1, 6), ("3.12.4", 1, 1), ("3.14.1", 1, 1), ("3.14.4", 1, 3), ("4.1.0", 1, 2),
    ("4.3.1", 1, 1), ("4.3.2", 1, 2), ("4.3.3", 1, 2), ("4.4.0", 1, 1), ("4.5.0", 1, 2),
    ("4.6.0", 1, 6), ("4.7.1", 1, 3), ("4.7.2", 1, 1), ("4.7.3", 1, 4), ("4.8.0", 1, 2),
    ("6.0.0", 1, 4), ("7.0.0", 1, 2), ("7.1.1", 1, 1), ("7.1.2", 1, 1),
];

#[rustfmt::skip]
const OF_5: Statements = &[
    ("1.5.4", 1, 3), ("1.5.5", 1, 1), ("1.5.7", 1, 1), ("2.1.3", 1, 1), ("2.2.1", 2, 6),
    ("2.2.2", 1, 1), ("3.1.0", 1, 2), ("3.1.2", 1, 30), ("3.1.3", 1, 12), ("3.1.4", 1, 6),
    ("3.2.0", 1, 2), ("3.2.2", 1, 22), ("3.3.1", 1, 13), ("3.3.2", 1, 20), ("3.3.4", 1, 10),
    ("3.4.2", 1, 3), ("3.5.2", 1, 3), ("3.6.1", 1, 1), ("3.6.2", 1, 3), ("3.7.2", 1, 3),
    ("3.8.1", 1, 1), ("3.8.3", 1, 5), ("3.8.4", 1, 8), ("3.9.2", 1, 2), ("3.9.3", 1, 2),
    ("3.10.1", 1, 1), ("3.10.3", 1, 2), ("3.10.4", 1, 6), ("3.11.2", 1, 2), ("3.11.3", 1, 2),
    ("3.12.4", 1, 1), ("3.14.0", 1, 1), ("3.14.1", 1, 1), ("3.14.2", 1, 4), ("3.14.4", 1, 3),
    ("3.15.1", 1, 1), ("3.15.2", 1, 3), ("4.1.0", 1, 2), ("4.2", 1, 1), ("4.3.1", 1, 1),
    ("4.3.2", 1, 5), ("4.3.3", 1, 13), ("4.4.0", 1, 2), ("4.5.0", 1, 2), ("4.6.0", 1, 6),
    ("4.7.0", 1, 1), ("4.7.1", 1, 2), ("4.7.2", 1, 1), ("4.7.3", 1, 4), ("4.8.2", 1, 6),
    ("4.9.0", 1, 3), ("4.12.0", 1, 7), ("4.12.1", 1, 2), ("4.13.1", 1, 1), ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows of a version's table: statement, subject, and tests or a reason.
fn rows(version: &str) -> Vec<[String; 3]> {
    let table = std::fs::read_to_string(root().join(format!("docs/conformance-{version}.md"))).unwrap();
    let lines = table.lines().filter_map(|line| line.strip_prefix("| MQTT-")?.strip_suffix(" |"));
    let cells = lines.map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells.map(|row| row.try_into().unwrap_or_else(|row| panic!("a row has three cells: {row:?}"))).collect()
}

#[test]
fn the_tables_have_every_statement_of_the_standards_once_and_in_their_order() {
    for (version, statements, count) in [("3.1.1", OF_3_1_1, 141), ("5", OF_5, 251)] {
        let wanted: Vec<String> = statements
            .iter()
            .flat_map(|(section, first, last)| (*first..=*last).map(move |number| format!("{section}-{number}")))
            .collect();
        assert_eq!(wanted.len(), count);
        assert_eq!(rows(version).into_iter().map(|[number, ..]| number).collect::<Vec<_>>(), wanted, "MQTT {version}");
    }
}

#[test]
fn every_statement_names_tests_that_exist_or_a_reason() {
    let mut sources: HashMap<PathBuf, String> = HashMap::new();
    for [number, subject, cell] in rows("3.1.1").into_iter().chain(rows("5")) {
        assert!((1..=8).contains(&subject.split_whitespace().count()), "{number}: {subject}");
        let (mut names, mut reason) = (0, String::new());
        for (n, part) in cell.split('`').enumerate() {
            let parts: Vec<&str> = part.split("::").collect();
            if n % 2 == 0 || parts.len() == 1 {
                reason += part;
                continue;
            }
            let folder =
                SUITES.iter().find(|(suite, _)| *suite == parts[0]).unwrap_or_else(|| panic!("{number}: {part}")).1;
            let path = root().join(folder).join(format!("{}.rs", parts[1]));
            let source =
                sources.entry(path.clone()).or_insert_with(|| std::fs::read_to_string(&path).unwrap_or_default());
            assert!(!source.is_empty(), "{number}: {} does not exist", path.display());
            if let Some(name) = parts.get(2) {
                assert!(source.contains(&format!("fn {name}(")), "{number}: {} has no test {name}", path.display());
                names += 1;
            }
        }
        let has_reason = ["Client's duty", "Every test", "Weir", "WEIR"].iter().any(|begin| reason.starts_with(begin));
        assert!(has_reason || names > 0 && reason.trim_matches([',', ' ']).is_empty(), "{number}: {cell}");
    }
}
