//! Documents as trees, for routes with paths, and their values as flat rows.

use std::borrow::Cow;

use super::lexer::{Lexer, Scalar, Token};
use super::scratch::{Scratch, Slot};
use super::{Refusal, flat, plain};
use crate::limits::Limits;

/// A document, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Absent,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    /// Members in their order; of two with the same name the last one counts.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Reads a JSON document.
pub(crate) fn json<'a>(payload: &'a [u8], limits: &Limits) -> Result<Node<'a>, Refusal> {
    let mut lexer = Lexer::new(payload)?;
    let node = node(&mut lexer, 0, limits)?;
    lexer.end()?;
    Ok(node)
}

/// Reads a bare value.
pub(crate) fn value<'a>(payload: &'a [u8]) -> Result<Node<'a>, Refusal> {
    let text = plain::text(payload)?;
    Ok(match plain::parse(&text) {
        plain::Parsed::Absent => Node::Absent,
        plain::Parsed::Bool(v) => Node::Bool(v),
        plain::Parsed::Int(v) => Node::Int(v),
        plain::Parsed::Float(v) => Node::Float(v),
        plain::Parsed::Text => Node::Text(text),
    })
}

fn node<'a>(lexer: &mut Lexer<'a>, depth: usize, limits: &Limits) -> Result<Node<'a>, Refusal> {
    Ok(match lexer.token()? {
        Token::Text => Node::Text(lexer.text_cow()?),
        Token::Bare => match lexer.scalar()? {
            Scalar::Absent => Node::Absent,
            Scalar::Bool(v) => Node::Bool(v),
            Scalar::Int(v) => Node::Int(v),
            Scalar::Float(v) => Node::Float(v),
            Scalar::Digits(v) => Node::Text(v.into()),
        },
        Token::Array => {
            flat::check_depth(depth + 1, limits)?;
            let mut elements = Vec::new();
            while lexer.more(elements.is_empty(), b']')? {
                elements.push(node(lexer, depth + 1, limits)?);
            }
            Node::Array(elements)
        }
        Token::Object => {
            flat::check_depth(depth + 1, limits)?;
            let mut members = Vec::new();
            while lexer.more(members.is_empty(), b'}')? {
                let key = lexer.key_cow()?;
                members.push((key, node(lexer, depth + 1, limits)?));
            }
            Node::Object(members)
        }
    })
}

impl Node<'_> {
    /// Adds all values below this node to the present row, except the node `skip`.
    pub(crate) fn flatten(&self, skip: Option<&Self>, limits: &Limits, scratch: &mut Scratch) -> Result<(), Refusal> {
        let length = scratch.path.len();
        match self {
            node if skip.is_some_and(|skip| std::ptr::eq(node, skip)) => {}
            Self::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    scratch.join_index(index);
                    element.flatten(skip, limits, scratch)?;
                    scratch.path.truncate(length);
                }
            }
            Self::Object(members) => {
                let skipped = skip.and_then(|skip| members.iter().find(|(_, member)| std::ptr::eq(member, skip)));
                let skipped = skipped.map(|(key, _)| key);
                for (key, member) in members.iter().filter(|(key, _)| Some(key) != skipped) {
                    scratch.dot();
                    scratch.path.push_str(key);
                    member.flatten(skip, limits, scratch)?;
                    scratch.path.truncate(length);
                }
            }
            scalar => match scalar.slot(scratch) {
                Some(slot) => scratch.add(slot, limits)?,
                None => scratch.absent += 1,
            },
        }
        Ok(())
    }

    /// Returns a scalar, with its text put into the scratch.
    pub(crate) fn slot(&self, scratch: &mut Scratch) -> Option<Slot> {
        match self {
            Self::Bool(v) => Some(Slot::Bool(*v)),
            Self::Int(v) => Some(Slot::Int(*v)),
            Self::Float(v) => Some(Slot::Float(*v)),
            Self::Text(v) => Some(Slot::Text(scratch.put(v))),
            Self::Absent | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Returns a scalar as text.
    pub(crate) fn to_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Bool(v) => Some(v.to_string().into()),
            Self::Int(v) => Some(v.to_string().into()),
            Self::Float(v) => Some(v.to_string().into()),
            Self::Text(v) => Some(Cow::Borrowed(v)),
            Self::Absent | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Returns the last member of this name that is not null.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.iter().rev().find(|(k, member)| k == key && *member != Node::Absent).map(|(_, member)| member)
            }
            _ => None,
        }
    }
}
