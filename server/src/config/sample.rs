//! `weir config`: the defaults as a file, every key with what it means.

use std::fmt::Write;

use super::load::variable;
use super::{Config, docs};

/// The commented default configuration. Reading it gives the default.
pub(crate) fn sample() -> String {
    let tree = toml::Table::try_from(Config::default()).expect("the default configuration is a tree");
    let mut out = String::from(
        "# Configuration of Weir: every key, with its default. A key that is left out has its default.\n\
         # Flags are stronger than the environment (the variable stands after each key), that is stronger than this file.\n",
    );
    for (section, about) in docs::SECTIONS {
        let keys = docs::KEYS.iter().filter(|(key, _)| key.rsplit_once('.').map_or("", |(s, _)| s) == *section);
        if section.is_empty() {
            out.push('\n');
        } else {
            write!(out, "\n# {about}\n[{section}]\n").expect("writing to a string does not fail");
        }
        for (key, doc) in keys {
            let name = key.rsplit('.').next().unwrap_or(key);
            let value = lookup(&tree, key).expect("a test holds every documented key to the tree");
            for line in wrap(doc, 110) {
                writeln!(out, "# {line}").expect("writing to a string does not fail");
            }
            writeln!(out, "{name} = {value}  # {}", variable(key)).expect("writing to a string does not fail");
        }
    }
    out.push('\n');
    out.push_str(docs::ROUTES);
    out
}

/// The value of a key.
pub(super) fn lookup<'a>(tree: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        None => tree.get(key),
        Some((section, rest)) => lookup(tree.get(section)?.as_table()?, rest),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.len() + word.len() >= width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
