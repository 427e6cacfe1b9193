//! Rules of a route for single values.

use std::collections::BTreeMap;

use model::ValueRef;
use model::glob::Glob;

use super::config::{FieldRule, FieldType, Literal};
use crate::decode::plain::{self, Parsed};

/// Rules by name, the most exact glob first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(Vec<(Glob, Rule)>);

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: Option<String>,
    pub(crate) drop: bool,
    kind: Option<FieldType>,
    scale: Option<(f64, f64)>,
    null: Vec<String>,
    words: Vec<(String, bool)>,
    map: Vec<(String, Literal)>,
}

/// The result of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shaped {
    /// The value as it was.
    Same,
    /// No value.
    Absent,
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

impl Fields {
    pub(crate) fn new(rules: &BTreeMap<String, FieldRule>) -> Result<Self, String> {
        let mut compiled = Vec::new();
        for (glob, rule) in rules {
            compiled.push((Glob::new(glob), Rule::new(glob, rule)?));
        }
        compiled.sort_by_cached_key(|(glob, _): &(Glob, Rule)| std::cmp::Reverse(exactness(glob)));
        Ok(Self(compiled))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rule(&self, name: &str) -> Option<&Rule> {
        self.0.iter().find(|(glob, _)| glob.matches(name)).map(|(_, rule)| rule)
    }
}

/// Orders globs: a whole name before patterns, more literal text before less.
fn exactness(glob: &Glob) -> (bool, usize) {
    (glob.literal().is_some(), glob.to_string().bytes().filter(|b| *b != b'*').count())
}

impl Rule {
    fn new(glob: &str, rule: &FieldRule) -> Result<Self, String> {
        for (key, number) in [("scale", rule.scale), ("offset", rule.offset)] {
            if number.is_some_and(|n| !n.is_finite()) {
                return Err(format!("`{key}` of `{glob}` is not a number"));
            }
        }
        let scaled = rule.scale.is_some() || rule.offset.is_some();
        if scaled && matches!(rule.kind, Some(FieldType::Bool | FieldType::String)) {
            return Err(format!("`{glob}` is scaled, so its type can only be `float` or `int`"));
        }
        if rule.name.as_ref().is_some_and(String::is_empty) {
            return Err(format!("`name` of `{glob}` is empty"));
        }
        let texts = |list: &[Literal]| list.iter().map(Literal::text).collect::<Vec<_>>();
        let words = texts(&rule.true_words).into_iter().map(|w| (w, true));
        Ok(Self {
            name: rule.name.clone(),
            drop: rule.drop,
            kind: rule.kind,
            scale: scaled.then(|| (rule.scale.unwrap_or(1.0), rule.offset.unwrap_or(0.0))),
            null: texts(&rule.null),
            words: words.chain(texts(&rule.false_words).into_iter().map(|w| (w, false))).collect(),
            map: rule.map.iter().map(|(from, to)| (from.clone(), to.clone())).collect(),
        })
    }

    /// True when the rule leaves the type as it is.
    pub(crate) fn is_untyped(&self) -> bool {
        self.kind.is_none()
    }

    /// True when a text may be read as a number before the rule applies.
    pub(crate) fn allows_coercion(&self) -> bool {
        self.kind != Some(FieldType::String) && !self.has_words()
    }

    /// True when the rule needs the text of a value.
    fn has_words(&self) -> bool {
        !self.null.is_empty() || !self.words.is_empty() || !self.map.is_empty()
    }

    pub(crate) fn shape(&self, value: ValueRef<'_>) -> Shaped {
        if self.has_words() {
            let text = value.to_string();
            if self.null.contains(&text) {
                return Shaped::Absent;
            }
            if let Some((_, truth)) = self.words.iter().find(|(word, _)| *word == text) {
                return self.coerce(ValueRef::Bool(*truth)).or(Shaped::Bool(*truth));
            }
            if let Some((_, to)) = self.map.iter().find(|(from, _)| *from == text) {
                return match to {
                    Literal::Bool(v) => self.coerce(ValueRef::Bool(*v)).or(Shaped::Bool(*v)),
                    Literal::Int(v) => self.coerce(ValueRef::Int(*v)).or(Shaped::Int(*v)),
                    Literal::Float(v) => self.coerce(ValueRef::Float(*v)).or(Shaped::Float(*v)),
                    Literal::Text(v) => self.coerce(ValueRef::Str(v)).or(Shaped::Text(v.clone())),
                };
            }
        }
        self.coerce(value)
    }

    /// Converts a value to the type of the rule; a boolean or a word is not a float.
    fn coerce(&self, value: ValueRef<'_>) -> Shaped {
        if let Some((scale, offset)) = self.scale {
            let Some(number) = as_float(value) else { return Shaped::Absent };
            let number = number * scale + offset;
            return match self.kind {
                _ if !number.is_finite() => Shaped::Absent,
                Some(FieldType::Int) => whole(number.round()),
                _ => Shaped::Float(number),
            };
        }
        match (self.kind, value) {
            (None, _)
            | (Some(FieldType::Float), ValueRef::Float(_))
            | (Some(FieldType::Int), ValueRef::Int(_))
            | (Some(FieldType::Bool), ValueRef::Bool(_))
            | (Some(FieldType::String), ValueRef::Str(_)) => Shaped::Same,
            (Some(FieldType::Float), value) => as_float(value).map_or(Shaped::Absent, Shaped::Float),
            (Some(FieldType::Int), ValueRef::Float(v)) if v.fract() == 0.0 => whole(v),
            (Some(FieldType::Int), ValueRef::Str(text)) => match plain::number(text.trim()) {
                Some(Parsed::Int(v)) => Shaped::Int(v),
                Some(Parsed::Float(v)) if v.fract() == 0.0 => whole(v),
                _ => Shaped::Absent,
            },
            (Some(FieldType::Bool), ValueRef::Int(0) | ValueRef::Str("false" | "0")) => Shaped::Bool(false),
            (Some(FieldType::Bool), ValueRef::Int(1) | ValueRef::Str("true" | "1")) => Shaped::Bool(true),
            (Some(FieldType::String), value) => Shaped::Text(value.to_string()),
            (Some(FieldType::Int | FieldType::Bool), _) => Shaped::Absent,
        }
    }
}

impl Shaped {
    fn or(self, same: Self) -> Self {
        if self == Self::Same { same } else { self }
    }
}

fn as_float(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Float(v) => Some(v),
        #[expect(clippy::cast_precision_loss, reason = "the route asks for a float")]
        ValueRef::Int(v) => Some(v as f64),
        ValueRef::Bool(_) => None,
        ValueRef::Str(text) => match plain::number(text.trim())? {
            #[expect(clippy::cast_precision_loss, reason = "the route asks for a float")]
            Parsed::Int(v) => Some(v as f64),
            Parsed::Float(v) => Some(v),
            _ => None,
        },
    }
}

fn whole(number: f64) -> Shaped {
    #[expect(clippy::cast_possible_truncation, reason = "inside the range of i64")]
    if number.abs() < 9.2e18 { Shaped::Int(number as i64) } else { Shaped::Absent }
}
