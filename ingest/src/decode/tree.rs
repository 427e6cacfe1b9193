//! Documents as trees, for routes with paths, and their values as flat rows.

use std::borrow::Cow;

use model::ValueRef;
use model::glob::Glob;

use super::lexer::{Lexer, Scalar, Token};
use super::plain::Bare;
use super::scratch::Scratch;
use super::{Class, JsonText, Refusal, flat, plain};
use crate::limits::Limits;

/// A document, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    Absent,
    /// A number that is not finite.
    NotFinite,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Members<'a>),
}

/// Members in their order; of two with the same name the last one counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Members<'a> {
    all: Vec<(Cow<'a, str>, Node<'a>)>,
    /// Of many members, the place of the one that counts for each name, by name: every row may look
    /// for several names in one object.
    sorted: Vec<u32>,
}

/// Number of members that are searched one by one.
const FEW: usize = 16;

impl<'a> Members<'a> {
    fn new(all: Vec<(Cow<'a, str>, Node<'a>)>) -> Self {
        let mut sorted: Vec<u32> = Vec::new();
        if all.len() > FEW {
            sorted = (0..u32::try_from(all.len()).expect("a message is shorter than 4 GiB")).collect();
            let member = |at: &u32| &all[*at as usize];
            // Of those with one name, first those that are not null, the last of them first.
            sorted.sort_unstable_by(|a, b| {
                let null = |at| member(at).1 == Node::Absent;
                member(a).0.cmp(&member(b).0).then_with(|| null(a).cmp(&null(b))).then_with(|| b.cmp(a))
            });
            sorted.dedup_by(|later, kept| member(&*later).0 == member(&*kept).0);
        }
        Self { all, sorted }
    }

    /// Returns the last member of this name that is not null; null if all are.
    fn get(&self, key: &str) -> Option<&Node<'a>> {
        if !self.sorted.is_empty() {
            let found = self.sorted.binary_search_by(|at| (*self.all[*at as usize].0).cmp(key)).ok()?;
            return Some(&self.all[self.sorted[found] as usize].1);
        }
        let mut named = self.all.iter().rev().filter(|(k, _)| k == key).map(|(_, member)| member);
        let last = named.next()?;
        Some(if *last == Node::Absent { named.find(|member| **member != Node::Absent).unwrap_or(last) } else { last })
    }
}

impl<'a> std::ops::Deref for Members<'a> {
    type Target = [(Cow<'a, str>, Node<'a>)];

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

/// Names whose text is a document, and a lexer's mode.
struct Build<'b> {
    limits: &'b Limits,
    lenient: bool,
    json_text: &'b [Glob],
    /// Name of the node being read.
    path: String,
}

/// Reads a JSON document. Texts whose names match `json_text` are read as documents too. Returns
/// the position of a further document.
pub(crate) fn json<'a>(
    text: JsonText<'a>,
    json_text: &[Glob],
    limits: &Limits,
) -> Result<(Node<'a>, Option<usize>), Refusal> {
    let mut build = Build { limits, lenient: text.lenient, json_text, path: String::new() };
    let mut lexer = Lexer::new(text);
    let node = build.node(&mut lexer, 0)?;
    if let Node::Text(text) = &node {
        refuse_quoted_json(text, build.lenient, limits)?;
    }
    Ok((node, lexer.end()?))
}

/// Reads a bare value.
pub(crate) fn value<'a>(payload: &'a [u8], rules: Bare) -> Result<Node<'a>, Refusal> {
    let text = plain::text(payload)?;
    Ok(match plain::parse(&text) {
        plain::Parsed::Absent => Node::Absent,
        plain::Parsed::Bool(v) => Node::Bool(v),
        plain::Parsed::Int(v) => Node::Int(v),
        plain::Parsed::Float(v) => Node::Float(v),
        plain::Parsed::Text => {
            plain::check_format(&text, rules)?;
            Node::Text(text)
        }
    })
}

/// Refuses a text that is a whole JSON document: stored as text it is of no use.
pub(crate) fn refuse_quoted_json(text: &str, lenient: bool, limits: &Limits) -> Result<(), Refusal> {
    let begins = text.trim_start().starts_with(['{', '[']);
    if begins && document(text, lenient, &[], limits).is_ok() {
        let reason = "JSON in quotes: add `json_text = [\"*\"]` to the route to read it";
        return Err(Refusal::new(Class::Json, reason));
    }
    Ok(())
}

/// Reads a text that is one document.
fn document<'a>(text: &'a str, lenient: bool, json_text: &[Glob], limits: &Limits) -> Result<Node<'a>, Refusal> {
    let mut lexer = Lexer::new(JsonText { text, at: 0, lenient });
    let node = Build { limits, lenient, json_text, path: String::new() }.node(&mut lexer, 1)?;
    match lexer.end()? {
        None => Ok(node),
        Some(_) => Err(lexer.wrong("nothing (trailing text)")),
    }
}

impl Build<'_> {
    fn node<'a>(&mut self, lexer: &mut Lexer<'a>, depth: usize) -> Result<Node<'a>, Refusal> {
        let length = self.path.len();
        Ok(match lexer.token()? {
            Token::Text => self.text(lexer.text_cow()?),
            Token::Bare => match lexer.scalar()? {
                Scalar::Absent => Node::Absent,
                Scalar::NotFinite => Node::NotFinite,
                Scalar::Bool(v) => Node::Bool(v),
                Scalar::Int(v) => Node::Int(v),
                Scalar::Float(v) => Node::Float(v),
                Scalar::Digits(v) => Node::Text(v.into()),
            },
            Token::Array => {
                flat::check_depth(depth + 1, self.limits)?;
                let mut elements = Vec::new();
                while lexer.more(elements.is_empty(), b']')? {
                    if lexer.hole() {
                        elements.push(Node::Absent);
                        continue;
                    }
                    self.enter(&elements.len().to_string());
                    elements.push(self.node(lexer, depth + 1)?);
                    self.path.truncate(length);
                }
                Node::Array(elements)
            }
            Token::Object => {
                flat::check_depth(depth + 1, self.limits)?;
                let mut members = Vec::new();
                while lexer.more(members.is_empty(), b'}')? {
                    let key = lexer.key_cow()?;
                    self.enter(&key);
                    members.push((key, self.node(lexer, depth + 1)?));
                    self.path.truncate(length);
                }
                Node::Object(Members::new(members))
            }
        })
    }

    fn enter(&mut self, name: &str) {
        if self.json_text.is_empty() {
            return;
        }
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    /// Returns a text, or the document in it.
    fn text<'a>(&self, text: Cow<'a, str>) -> Node<'a> {
        if text.trim_start().starts_with(['{', '['])
            && self.json_text.iter().any(|glob| glob.matches(&self.path))
            && let Ok(node) = document(&text, self.lenient, &[], self.limits)
        {
            return node.into_owned();
        }
        Node::Text(text)
    }
}

impl Node<'_> {
    fn into_owned(self) -> Node<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Absent => Node::Absent,
            Self::NotFinite => Node::NotFinite,
            Self::Bool(v) => Node::Bool(v),
            Self::Int(v) => Node::Int(v),
            Self::Float(v) => Node::Float(v),
            Self::Text(v) => Node::Text(owned(v)),
            Self::Array(elements) => Node::Array(elements.into_iter().map(Node::into_owned).collect()),
            Self::Object(members) => {
                let members = members.all.into_iter().map(|(key, member)| (owned(key), member.into_owned()));
                Node::Object(Members::new(members.collect()))
            }
        }
    }

    /// Adds all values below this node to the present row, except the nodes `skip`.
    pub(crate) fn flatten(&self, skip: &[&Self], limits: &Limits, scratch: &mut Scratch) -> Result<(), Refusal> {
        let place = scratch.place();
        match self {
            node if skip.iter().any(|skip| std::ptr::eq(node, *skip)) => {}
            Self::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    scratch.join_index(index);
                    element.flatten(skip, limits, scratch)?;
                    scratch.back_to(place);
                }
            }
            Self::Object(members) => {
                let is_skipped = |member: &Self| skip.iter().any(|skip| std::ptr::eq(member, *skip));
                let skipped: Vec<_> = members.iter().filter(|(_, m)| is_skipped(m)).map(|(key, _)| key).collect();
                for (key, member) in members.iter().filter(|(key, _)| !skipped.contains(&key)) {
                    scratch.dot();
                    scratch.path.push_str(key);
                    member.flatten(skip, limits, scratch)?;
                    scratch.back_to(place);
                }
            }
            Self::NotFinite => scratch.not_finite(),
            scalar => match scalar.scalar() {
                Some(value) => {
                    let slot = scratch.slot(value);
                    scratch.add(slot, limits)?;
                }
                None => scratch.absent += 1,
            },
        }
        Ok(())
    }

    /// Returns a scalar.
    pub(crate) fn scalar(&self) -> Option<ValueRef<'_>> {
        match self {
            Self::Bool(v) => Some(ValueRef::Bool(*v)),
            Self::Int(v) => Some(ValueRef::Int(*v)),
            Self::Float(v) => Some(ValueRef::Float(*v)),
            Self::Text(v) => Some(ValueRef::Str(v)),
            Self::Absent | Self::NotFinite | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Returns a scalar as text.
    pub(crate) fn to_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Bool(v) => Some(v.to_string().into()),
            Self::Int(v) => Some(v.to_string().into()),
            Self::Float(v) => Some(v.to_string().into()),
            Self::Text(v) => Some(Cow::Borrowed(v)),
            Self::Absent | Self::NotFinite | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Returns a member.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        if let Self::Object(members) = self { members.get(key) } else { None }
    }
}
