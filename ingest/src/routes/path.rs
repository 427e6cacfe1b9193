//! Paths into a document: `$` (the document), `@` (the row), `@^` (the object around the row), then
//! steps.

use std::fmt;

use crate::decode::tree::Node;

/// A path, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    origin: Origin,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Document,
    /// This many objects up from the row.
    Row(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    /// Negative counts from the end.
    Index(i64),
    /// `[*]`
    Elements,
    /// `.*`
    Members,
    /// `.{name}`: members, their names captured.
    Named(String),
}

/// The starting points of paths: the document, and the row behind the objects around it, outermost
/// first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathContext<'t> {
    pub(crate) document: &'t Node<'t>,
    pub(crate) chain: &'t [&'t Node<'t>],
    /// Names of members that the path of the row captured.
    pub(crate) keys: &'t [(&'t str, &'t str)],
}

/// The object or array that is empty where a wildcard looks for elements.
static NOTHING: Node<'static> = Node::Absent;

impl Path {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("path `{text}`: {what}");
        let (origin, mut rest) = match text.strip_prefix('$') {
            Some(rest) => (Origin::Document, rest),
            None => {
                let rest = text.strip_prefix('@').ok_or_else(|| wrong("it has to begin with `$` or `@`"))?;
                let steps = rest.trim_start_matches('^');
                (Origin::Row(rest.len() - steps.len()), steps)
            }
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, tail) = step(rest).map_err(wrong)?;
            steps.push(step);
            rest = tail;
        }
        Ok(Self { text: text.into(), origin, steps })
    }

    /// Returns the name that the value of a plain path has in a flat row; None for a path with
    /// indices or wildcards, or above the row.
    pub(crate) fn flat_name(&self) -> Option<String> {
        if self.origin == Origin::Row(0) || self.origin == Origin::Document {
            let keys: Option<Vec<&str>> =
                self.steps.iter().map(|step| if let Step::Key(key) = step { Some(&**key) } else { None }).collect();
            return keys.filter(|keys| !keys.is_empty()).map(|keys| keys.join("."));
        }
        None
    }

    /// True when the path has the same value for all rows of a document.
    pub(crate) fn of_document(&self) -> bool {
        self.origin == Origin::Document
    }

    /// Returns the last key of the path.
    pub(crate) fn last_key(&self) -> Option<&str> {
        self.steps.iter().rev().find_map(|step| if let Step::Key(key) = step { Some(&**key) } else { None })
    }

    /// Returns the names of `.{name}` steps.
    pub(crate) fn keys(&self) -> Vec<&str> {
        self.steps.iter().filter_map(|step| if let Step::Named(name) = step { Some(&**name) } else { None }).collect()
    }

    /// True when the last step finds any number of nodes.
    pub(crate) fn ends_in_wildcard(&self) -> bool {
        matches!(self.steps.last(), Some(Step::Elements | Step::Members | Step::Named(_)))
    }

    /// Calls `visit` for each node that the path finds, with the objects around it and the names of
    /// the members that it captured. A null, or an empty array or object, on the way is found as
    /// null.
    pub(crate) fn find<'t>(&self, place: PathContext<'t>, visit: Visit<'_, 't>) {
        let (mut above, mut keys) = (Vec::new(), Vec::new());
        let start = match self.origin {
            Origin::Document => place.document,
            Origin::Row(up) => {
                let Some(at) = place.chain.len().checked_sub(up + 1) else { return };
                above.extend_from_slice(&place.chain[..at]);
                place.chain[at]
            }
        };
        walk(&self.steps, start, &mut above, &mut keys, visit);
    }

    /// Returns the first node that the path finds and that is not null.
    pub(crate) fn first<'t>(&self, place: PathContext<'t>) -> Option<&'t Node<'t>> {
        let mut found = None;
        self.find(place, &mut |node, _, _| {
            if found.is_none() && *node != Node::Absent {
                found = Some(node);
            }
        });
        found
    }
}

/// Receives a node, the objects around it, and the names of members.
type Visit<'v, 't> = &'v mut dyn FnMut(&'t Node<'t>, &[&'t Node<'t>], &[&'t str]);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn step(rest: &str) -> Result<(Step, &str), &'static str> {
    if let Some(rest) = rest.strip_prefix(".\"") {
        let (key, tail) = rest.split_once('"').ok_or("a quote is not closed")?;
        return Ok((Step::Key(key.into()), tail));
    }
    if let Some(rest) = rest.strip_prefix('.') {
        let (key, tail) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
        if let Some(name) = key.strip_prefix('{').and_then(|key| key.strip_suffix('}')) {
            let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            return if valid {
                Ok((Step::Named(name.into()), tail))
            } else {
                Err("`.{name}` has letters, digits and `_`")
            };
        }
        return match key {
            "" => Err("a name is missing after `.`"),
            "*" => Ok((Step::Members, tail)),
            key if key.contains(['"', '{', '}', ']']) => {
                Err("a name with quotes, braces or brackets has to be in quotes")
            }
            key => Ok((Step::Key(key.into()), tail)),
        };
    }
    let inside = rest.strip_prefix('[').ok_or("a step begins with `.` or `[`")?;
    let (index, tail) = inside.split_once(']').ok_or("`[` without `]`")?;
    match index {
        "*" => Ok((Step::Elements, tail)),
        index => Ok((Step::Index(index.parse().map_err(|_| "`[` and `]` have to enclose a number or `*`")?), tail)),
    }
}

fn walk<'t>(
    steps: &[Step],
    node: &'t Node<'t>,
    above: &mut Vec<&'t Node<'t>>,
    keys: &mut Vec<&'t str>,
    visit: Visit<'_, 't>,
) {
    let (step, rest) = match steps.split_first() {
        Some(split) if *node != Node::Absent => split,
        _ => return visit(node, above, keys),
    };
    let held = above.len();
    if let Node::Object(_) = node {
        above.push(node);
    }
    match (step, node) {
        (Step::Key(key), node) => {
            if let Some(member) = node.member(key) {
                walk(rest, member, above, keys, visit);
            }
        }
        (Step::Index(index), Node::Array(elements)) => {
            let at = if *index < 0 { index + elements.len() as i64 } else { *index };
            if let Some(element) = usize::try_from(at).ok().and_then(|at| elements.get(at)) {
                walk(rest, element, above, keys, visit);
            }
        }
        (Step::Elements, Node::Array(elements)) if elements.is_empty() => visit(&NOTHING, above, keys),
        (Step::Elements, Node::Array(elements)) => elements.iter().for_each(|e| walk(rest, e, above, keys, visit)),
        (Step::Members | Step::Named(_), Node::Object(members)) if members.is_empty() => visit(&NOTHING, above, keys),
        (Step::Members, Node::Object(members)) => members.iter().for_each(|(_, m)| walk(rest, m, above, keys, visit)),
        (Step::Named(_), Node::Object(members)) => {
            for (key, member) in members.iter() {
                keys.push(key);
                walk(rest, member, above, keys, visit);
                keys.pop();
            }
        }
        _ => {}
    }
    above.truncate(held);
}
