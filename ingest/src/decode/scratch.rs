//! Memory for the rows of a message, reused for the next one.

use std::fmt::Write;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{Nanos, ValueRef};

use super::time::Timing;
use super::{Class, Refusal};
use crate::limits::Limits;

/// Rows of fields. Names and texts lie end to end in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    text: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) rows: Vec<ScratchRow>,
    /// Name of the value being read.
    pub(crate) path: String,
    /// Bytes of `path` that are the route's prefix.
    pub(crate) prefix_bytes: usize,
    /// Hash of the bounds between the names of members in `path`: it distinguishes `"a.b"` from
    /// `b` in `a`.
    bounds: u32,
    /// Values sent as null, as a number that is not finite, or without a name.
    pub(crate) absent: u64,
    /// The first fault that left a value out: the reason of the refusal if nothing remains.
    pub(crate) missed: Option<String>,
    /// Receive time of the message.
    pub(crate) received: Nanos,
}

/// A place in a document, while names are joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    length: usize,
    bounds: u32,
}

/// A span of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

/// A named value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    name: Span,
    /// Start of the payload's part of the name, after the route's prefix.
    own: u32,
    /// Hash of the place in the payload, apart from the name.
    origin: u32,
    pub(crate) value: Slot,
    /// False when the field is not stored.
    pub(crate) live: bool,
}

/// A value; text lies in the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(Span),
}

/// The fields of one reading.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScratchRow {
    pub(crate) first: usize,
    pub(crate) end: usize,
    /// Index of its route among the candidates of the topic.
    pub(crate) candidate: usize,
    pub(crate) timing: Timing,
    pub(crate) seq: Option<u64>,
    pub(crate) device: Option<Span>,
}

/// Elements that each buffer keeps between two messages.
const KEEP: usize = 1024;

impl Scratch {
    /// Frees most of what a large message took: a connection that is idle holds little.
    pub(crate) fn shrink(&mut self) {
        if self.text.capacity() > 64 * KEEP || self.fields.capacity() > KEEP || self.rows.capacity() > KEEP {
            self.clear(0);
            self.text.shrink_to(64 * KEEP);
            self.fields.shrink_to(KEEP);
            self.rows.shrink_to(KEEP);
            self.path.shrink_to(KEEP);
        }
    }

    pub(crate) fn clear(&mut self, received: Nanos) {
        self.received = received;
        self.bounds = 0;
        self.missed = None;
        self.text.clear();
        self.fields.clear();
        self.rows.clear();
        self.path.clear();
        self.prefix_bytes = 0;
        self.absent = 0;
    }

    /// Sets the prefix of every name from now on, followed by a dot.
    pub(crate) fn set_prefix(&mut self, prefix: &str) {
        self.path.clear();
        self.bounds = 0;
        if !prefix.is_empty() {
            self.path.push_str(prefix);
            self.path.push('.');
        }
        self.prefix_bytes = self.path.len();
    }

    /// Sets the whole name of a value.
    pub(crate) fn set_name(&mut self, name: &str) {
        self.set_prefix("");
        self.path.push_str(name);
    }

    /// Distinguishes the values from now on from those of other nodes of the payload.
    pub(crate) fn enter_node(&mut self, number: usize) {
        self.bounds = u32::try_from(number).unwrap_or(u32::MAX);
    }

    /// Adds a dot, if needed, before the next part of the name.
    pub(crate) fn dot(&mut self) {
        let at = u32::try_from(self.path.len()).unwrap_or_default();
        self.bounds = self.bounds.wrapping_mul(31).wrapping_add(at + 1);
        if self.path.len() > self.prefix_bytes {
            self.path.push('.');
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place { length: self.path.len(), bounds: self.bounds }
    }

    /// Returns to an earlier place.
    pub(crate) fn back_to(&mut self, place: Place) {
        self.path.truncate(place.length);
        self.bounds = place.bounds;
    }

    /// Counts a number that is not finite.
    #[cold]
    pub(crate) fn not_finite(&mut self) {
        self.absent += 1;
        if self.missed.is_none() {
            self.missed = Some(format!("no value: `{:.80}` is not a number (NaN or infinite)", self.path));
        }
    }

    /// Counts a value that is left out, with the reason.
    #[cold]
    pub(crate) fn miss(&mut self, reason: impl FnOnce() -> String) {
        self.absent += 1;
        if self.missed.is_none() {
            self.missed = Some(reason());
        }
    }

    /// Adds the index of an element to the name.
    pub(crate) fn join_index(&mut self, index: usize) {
        self.dot();
        write!(self.path, "{index}").expect("a string takes all text");
    }

    pub(crate) fn begin_row(&mut self, candidate: usize, limits: &Limits) -> Result<(), Refusal> {
        if self.rows.len() == limits.max_readings {
            return Err(Refusal::limit(format!("more than {} readings in one message", limits.max_readings)));
        }
        let at = self.fields.len();
        self.rows.push(ScratchRow { first: at, end: at, candidate, ..ScratchRow::default() });
        Ok(())
    }

    /// Appends a text to the buffer.
    pub(crate) fn put(&mut self, text: &str) -> Span {
        let start = self.end_of_text();
        self.text.push_str(text);
        Span { start, end: self.end_of_text() }
    }

    fn end_of_text(&self) -> u32 {
        u32::try_from(self.text.len()).expect("a message is shorter than 4 GiB")
    }

    /// Appends the text that `write` produces.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut String) -> Result<(), Refusal>) -> Result<Span, Refusal> {
        let start = self.end_of_text();
        write(&mut self.text)?;
        Ok(Span { start, end: self.end_of_text() })
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }

    pub(crate) fn value(&self, slot: Slot) -> ValueRef<'_> {
        match slot {
            Slot::Float(v) => ValueRef::Float(v),
            Slot::Int(v) => ValueRef::Int(v),
            Slot::Bool(v) => ValueRef::Bool(v),
            Slot::Text(span) => ValueRef::Str(self.text(span)),
        }
    }

    pub(crate) fn slot(&mut self, value: ValueRef<'_>) -> Slot {
        match value {
            ValueRef::Float(v) => Slot::Float(v),
            ValueRef::Int(v) => Slot::Int(v),
            ValueRef::Bool(v) => Slot::Bool(v),
            ValueRef::Str(v) => Slot::Text(self.put(v)),
        }
    }

    /// Returns the whole name.
    pub(crate) fn name(&self, field: &Field) -> &str {
        self.text(field.name)
    }

    /// Returns the payload's part of the name.
    pub(crate) fn own_name(&self, field: &Field) -> &str {
        &self.text[field.own as usize..field.name.end as usize]
    }

    /// Replaces the payload's part of a name.
    pub(crate) fn rename(&mut self, at: usize, own: &str) {
        let field = self.fields[at];
        let start = self.end_of_text();
        self.text.extend_from_within(field.name.start as usize..field.own as usize);
        let begin = self.end_of_text();
        self.text.push_str(own);
        self.fields[at].name = Span { start, end: self.end_of_text() };
        self.fields[at].own = begin;
        // Of two names that become one, both values count.
        self.fields[at].origin = self.text[field.own as usize..field.name.end as usize]
            .bytes()
            .fold(field.origin, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    }

    /// Removes the first `bytes` of the payload's part of a name.
    pub(crate) fn shorten(&mut self, at: usize, bytes: usize) {
        if self.fields[at].own == self.fields[at].name.start {
            let cut = u32::try_from(bytes).expect("a name is short");
            self.fields[at].own += cut;
            self.fields[at].name.start += cut;
        } else {
            let origin = self.fields[at].origin;
            let own = self.own_name(&self.fields[at])[bytes..].to_owned();
            self.rename(at, &own);
            self.fields[at].origin = origin;
        }
    }

    /// Adds a value with the present name to the present row.
    pub(crate) fn add(&mut self, value: Slot, limits: &Limits) -> Result<(), Refusal> {
        if self.path.len() == self.prefix_bytes {
            self.miss(|| "no value: a value has an empty name".into());
            return Ok(());
        }
        if self.path.len() > limits.max_name_bytes {
            return Err(long_name(&self.path, limits));
        }
        if let Slot::Text(span) = value
            && (span.end - span.start) as usize > limits.max_string_bytes
        {
            let reason = format!("text of {} is longer than {} bytes", self.path, limits.max_string_bytes);
            return Err(Refusal::limit(reason));
        }
        let start = self.end_of_text();
        self.text.push_str(&self.path);
        let own = start + u32::try_from(self.prefix_bytes).expect("a prefix is short");
        self.fields.push(Field {
            name: Span { start, end: self.end_of_text() },
            own,
            origin: self.bounds,
            value,
            live: true,
        });
        let row = self.rows.last_mut().expect("a row was begun");
        row.end = self.fields.len();
        if row.end - row.first > limits.max_values {
            return Err(Refusal::limit(format!("more than {} values in one reading", limits.max_values)));
        }
        Ok(())
    }

    /// The live fields of a row.
    pub(crate) fn live(&self, row: ScratchRow) -> impl Iterator<Item = &Field> + Clone {
        self.fields[row.first..row.end].iter().filter(|field| field.live)
    }

    /// Returns the index of the last live field whose name in the payload is `own`.
    pub(crate) fn find(&self, row: ScratchRow, own: &str) -> Option<usize> {
        (row.first..row.end).rev().find(|at| {
            let field = &self.fields[*at];
            field.live && self.own_name(field) == own
        })
    }

    /// Removes a field, and the fields before it with the same name.
    pub(crate) fn remove_like(&mut self, row: ScratchRow, field: usize) {
        let removed = self.fields[field];
        for at in row.first..=field {
            if self.own_name(&self.fields[at]) == self.own_name(&removed) {
                self.fields[at].live = false;
            }
        }
    }

    /// Of fields with the same name keeps the first, with the value of the last.
    ///
    /// # Errors
    /// When they come from different places of the payload: both values count.
    pub(crate) fn keep_last(&mut self, row: ScratchRow) -> Result<(), Refusal> {
        let mut first_of = HashMap::<&str, usize, RandomState>::default();
        let mut twice = Vec::new();
        for at in (row.first..row.end).filter(|at| self.fields[*at].live) {
            let name = self.name(&self.fields[at]);
            let first = *first_of.entry(name).or_insert(at);
            if first != at {
                if self.fields[first].origin != self.fields[at].origin {
                    return Err(Refusal::new(Class::Values, same_name(name)));
                }
                twice.push((first, at));
            }
        }
        drop(first_of);
        for (first, later) in twice {
            self.fields[first].value = self.fields[later].value;
            self.fields[later].live = false;
        }
        Ok(())
    }

    /// Refuses a lone text that is a JSON document.
    pub(crate) fn refuse_quoted_json(&self, lenient: bool, limits: &Limits) -> Result<(), Refusal> {
        match self.fields.last().map(|field| self.value(field.value)) {
            Some(ValueRef::Str(text)) => super::tree::refuse_quoted_json(text, lenient, limits),
            _ => Ok(()),
        }
    }
}

fn same_name(name: &str) -> String {
    format!(
        "two values of different places in the payload have the name `{name:.80}`: give one of them another name, \
         with `fields`, or with `value` and `field` in a route of its own"
    )
}

/// Returns the refusal of a name that is too long.
pub(crate) fn long_name(name: &str, limits: &Limits) -> Refusal {
    Refusal::limit(format!("name {name:.40}… is longer than {} bytes", limits.max_name_bytes))
}
