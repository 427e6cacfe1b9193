//! Topic templates.

use std::fmt;

/// Name of the capture that is the client id of the sender.
pub(crate) const CLIENT: &str = "client";

/// Captures of a template by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Captures(Vec<(String, String)>);

impl Captures {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Adds the client id of the sender, unless the topic has a capture of that name. An id that
    /// was assigned is not added: it would make a device for each connection.
    pub(crate) fn add_client(&mut self, client: &str) {
        if self.get(CLIENT).is_none() && !door::is_assigned(client) {
            self.0.push((CLIENT.into(), client.into()));
        }
    }
}

/// A topic template, checked.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    text: String,
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(String),
    /// `+`
    Any,
    /// `#`
    Rest,
    /// Text before, capture, text after.
    Capture(String, String, String),
    /// `{name...}`: one or more levels.
    Levels(String),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let mut levels = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            levels.push(match *part {
                "+" => Level::Any,
                "#" if i + 1 == parts.len() => Level::Rest,
                "#" => return Err(format!("`#` is not at the end of `{text}`")),
                part if part.contains('{') => capture(part, text)?,
                part if part.contains(['+', '#', '}']) => return Err(format!("`{part}` in `{text}` is not a level")),
                part => Level::Literal(part.into()),
            });
        }
        if text.is_empty() {
            return Err("a topic template is empty".into());
        }
        let names: Vec<&String> = levels.iter().filter_map(Level::name).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(format!("`{{{}}}` is repeated in `{text}`", twice.1));
        }
        if levels.iter().filter(|l| matches!(l, Level::Levels(_))).count() > 1 {
            return Err(format!("`{text}` has more than one capture of several levels"));
        }
        Ok(Self { text: text.into(), levels })
    }

    pub(crate) fn has_capture(&self, name: &str) -> bool {
        self.levels.iter().filter_map(Level::name).any(|n| n == name)
    }

    pub(crate) fn captures(&self, topic: &str) -> Option<Captures> {
        if topic.starts_with('$') && self.levels.first().is_some_and(Level::is_wild) {
            return None;
        }
        let given: Vec<&str> = topic.split('/').collect();
        let mut captures = Captures::default();
        walk(&self.levels, &given, &mut captures).then_some(captures)
    }

    /// True when this template certainly matches every topic that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        if other.text.starts_with('$') && self.levels.first().is_some_and(Level::is_wild) {
            return false;
        }
        for (i, level) in self.levels.iter().enumerate() {
            match (level, other.levels.get(i)) {
                (Level::Rest, _) => return true,
                // `a/#` matches `a` too, `a/{x...}` does not.
                (Level::Levels(_), Some(Level::Rest) | None) => return false,
                (Level::Levels(_), Some(_)) => {
                    let empty =
                        |l: &Level| matches!(l, Level::Rest) || *l == Level::Any || *l == Level::Literal(String::new());
                    return i + 1 == self.levels.len() && !other.levels[i..].iter().any(empty);
                }
                (level, Some(other)) if level == other && !matches!(other, Level::Capture(..)) => {}
                (Level::Any, Some(Level::Literal(_) | Level::Capture(..))) => {}
                (Level::Capture(before, _, after), Some(Level::Capture(b, _, a)))
                    if b.starts_with(before.as_str()) && a.ends_with(after.as_str()) => {}
                (Level::Capture(before, _, after), Some(Level::Literal(text)))
                    if inside(text, before, after).is_some() => {}
                _ => return false,
            }
        }
        self.levels.len() == other.levels.len()
    }
}

/// Returns the text between `before` and `after`, if it is not empty.
fn inside<'l>(level: &'l str, before: &str, after: &str) -> Option<&'l str> {
    level.strip_prefix(before)?.strip_suffix(after).filter(|between| !between.is_empty())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Level {
    /// True when the level does not match a `$` at the start of a topic.
    fn is_wild(&self) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Capture(before, ..) => before.is_empty(),
            Self::Any | Self::Rest | Self::Levels(_) => true,
        }
    }

    fn name(&self) -> Option<&String> {
        match self {
            Self::Capture(_, name, _) | Self::Levels(name) => Some(name),
            _ => None,
        }
    }
}

fn capture(level: &str, text: &str) -> Result<Level, String> {
    let bad = || format!("`{level}` in `{text}` is not text with one `{{capture}}`");
    let (before, rest) = level.split_once('{').ok_or_else(bad)?;
    let (name, after) = rest.split_once('}').ok_or_else(bad)?;
    if before.contains('}') || after.contains(['{', '}']) {
        return Err(bad());
    }
    let (name, several) = match name.strip_suffix("...") {
        Some(name) => (name, true),
        None => (name, false),
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("`{name}` in `{text}` is not a valid name: use letters, digits and `_`"));
    }
    match (several, before.is_empty() && after.is_empty()) {
        (true, true) => Ok(Level::Levels(name.into())),
        (true, false) => Err(format!("`{{{name}...}}` in `{text}` has to be the whole level")),
        (false, _) => Ok(Level::Capture(before.into(), name.into(), after.into())),
    }
}

fn walk(levels: &[Level], given: &[&str], captures: &mut Captures) -> bool {
    let Some((level, levels)) = levels.split_first() else { return given.is_empty() };
    if let Level::Rest = level {
        return true;
    }
    let Some((first, rest)) = given.split_first() else { return false };
    match level {
        Level::Literal(text) => text == first && walk(levels, rest, captures),
        Level::Any => walk(levels, rest, captures),
        Level::Capture(before, name, after) => {
            let Some(value) = inside(first, before, after) else { return false };
            captures.0.push((name.clone(), value.into()));
            walk(levels, rest, captures)
        }
        Level::Levels(name) => {
            // There is at most one of these, so the rest has a fixed length or ends in `#`.
            let held = captures.0.len();
            (1..=given.len()).rev().any(|n| {
                captures.0.truncate(held);
                captures.0.push((name.clone(), given[..n].join("/")));
                walk(levels, &given[n..], captures)
            })
        }
        Level::Rest => true,
    }
}
