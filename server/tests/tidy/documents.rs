//! Links, configuration and commands in the documents.

use std::process::Command;

use crate::files::{none, read, short, with_ending};

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
                let mut words = command.split_whitespace().peekable();
                let name = words.next().unwrap_or_default();
                let mut help = weir(&[name, "--help"]);
                if let Some(word) = words.peek().filter(|word| !word.starts_with('-')) {
                    // A subcommand has flags of its own.
                    let of_subcommand = weir(&[name, word, "--help"]);
                    help = if of_subcommand.status.success() { of_subcommand } else { help };
                }
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
