//! `when`: conditions on messages beyond their topic.

use std::collections::BTreeMap;

use super::config::{Condition, Literal};
use super::path::{Path, PathContext};
use super::topic::Captures;
use crate::decode::tree::Node;

/// The conditions of a route.
#[derive(Debug, Clone, Default)]
pub(crate) struct When(Vec<(Subject, Test)>);

#[derive(Debug, Clone)]
enum Subject {
    Capture(String),
    Path(Path),
}

#[derive(Debug, Clone)]
enum Test {
    Exists,
    Missing,
    OneOf(Vec<Literal>),
}

impl When {
    pub(crate) fn new(
        conditions: &BTreeMap<String, Condition>,
        has_capture: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let mut all = Vec::new();
        for (key, condition) in conditions {
            let subject = match key.as_str() {
                path if path.starts_with(['$', '@']) => Subject::Path(Path::parse(path)?),
                name if has_capture(name) => Subject::Capture(name.into()),
                name => return Err(format!("`{name}` is neither a path nor captured by every topic template")),
            };
            let test = match condition {
                Condition::One(Literal::Text(word)) if word == "exists" => Test::Exists,
                Condition::One(Literal::Text(word)) if word == "missing" => Test::Missing,
                Condition::One(one) => Test::OneOf(vec![one.clone()]),
                Condition::Many(many) => Test::OneOf(many.clone()),
            };
            all.push((subject, test));
        }
        Ok(Self(all))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when a condition depends on the payload.
    pub(crate) fn reads_payload(&self) -> bool {
        self.0.iter().any(|(subject, _)| matches!(subject, Subject::Path(_)))
    }

    /// True when the conditions on the topic are met.
    pub(crate) fn topic_holds(&self, captures: &Captures) -> bool {
        self.0.iter().all(|(subject, test)| match subject {
            Subject::Capture(name) => match (test, captures.get(name)) {
                (Test::Exists, value) => value.is_some(),
                (Test::Missing, value) => value.is_none(),
                (Test::OneOf(list), Some(value)) => list.iter().any(|literal| literal.text() == value),
                (Test::OneOf(_), None) => false,
            },
            Subject::Path(_) => true,
        })
    }

    /// True when the conditions on the payload are met: those on the document, or those on a row.
    pub(crate) fn payload_holds(&self, place: PathContext<'_>, of_document: bool) -> bool {
        self.0.iter().all(|(subject, test)| match subject {
            Subject::Path(path) if path.of_document() == of_document => match (test, path.first(place)) {
                (Test::Exists, found) => found.is_some(),
                (Test::Missing, found) => found.is_none(),
                (Test::OneOf(list), Some(node)) => list.iter().any(|literal| equal(literal, node)),
                (Test::OneOf(_), None) => false,
            },
            _ => true,
        })
    }
}

#[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "a condition on a number means that number")]
fn equal(literal: &Literal, node: &Node<'_>) -> bool {
    match (literal, node) {
        (Literal::Bool(a), Node::Bool(b)) => a == b,
        (Literal::Int(a), Node::Int(b)) => a == b,
        (Literal::Int(a), Node::Float(b)) => *a as f64 == *b,
        (Literal::Float(a), Node::Int(b)) => *a == *b as f64,
        (Literal::Float(a), Node::Float(b)) => a == b,
        (Literal::Text(a), Node::Text(b)) => a == b,
        _ => false,
    }
}
