//! The form of source files.

use std::path::PathBuf;

use crate::crates::ALLOWED;
use crate::files::{files, none, read, root, short, with_ending};

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
        // Binary files contain no paths.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                faults.push(format!("{}:{}: holds {mark}", short(&path), number + 1));
            }
        }
    }
    none(faults);
}
