//! Memory for the rows of a message, reused for the next one.

use std::fmt::Write;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::ValueRef;

use super::Refusal;
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
    /// Values sent as null, or as a number that is not finite.
    pub(crate) absent: u64,
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
    /// Its time, and the name or path where the time was found.
    pub(crate) time: Option<(Slot, Span)>,
    pub(crate) seq: Option<u64>,
    pub(crate) device: Option<Span>,
}

impl Field {
    /// Returns the span of the payload's part of the name.
    pub(crate) fn own_span(&self) -> Span {
        Span { start: self.own, end: self.name.end }
    }
}

/// Elements that each buffer keeps between two messages.
const KEEP: usize = 1024;

impl Scratch {
    /// Frees most of what a large message took: a connection that is idle holds little.
    pub(crate) fn shrink(&mut self) {
        if self.text.capacity() > 64 * KEEP || self.fields.capacity() > KEEP || self.rows.capacity() > KEEP {
            self.clear();
            self.text.shrink_to(64 * KEEP);
            self.fields.shrink_to(KEEP);
            self.rows.shrink_to(KEEP);
            self.path.shrink_to(KEEP);
        }
    }

    pub(crate) fn clear(&mut self) {
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

    /// Adds a dot, if needed, before the next part of the name.
    pub(crate) fn dot(&mut self) {
        if self.path.len() > self.prefix_bytes {
            self.path.push('.');
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
        let start = self.place();
        self.text.push_str(text);
        Span { start, end: self.place() }
    }

    fn place(&self) -> u32 {
        u32::try_from(self.text.len()).expect("a message is shorter than 4 GiB")
    }

    /// Appends the text that `write` produces.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut String) -> Result<(), Refusal>) -> Result<Span, Refusal> {
        let start = self.place();
        write(&mut self.text)?;
        Ok(Span { start, end: self.place() })
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
        let start = self.place();
        self.text.extend_from_within(field.name.start as usize..field.own as usize);
        let begin = self.place();
        self.text.push_str(own);
        self.fields[at].name = Span { start, end: self.place() };
        self.fields[at].own = begin;
    }

    /// Removes the first `bytes` of the payload's part of a name.
    pub(crate) fn shorten(&mut self, at: usize, bytes: usize) {
        if self.fields[at].own == self.fields[at].name.start {
            let cut = u32::try_from(bytes).expect("a name is short");
            self.fields[at].own += cut;
            self.fields[at].name.start += cut;
        } else {
            let own = self.own_name(&self.fields[at])[bytes..].to_owned();
            self.rename(at, &own);
        }
    }

    /// Adds a value with the present name to the present row.
    pub(crate) fn add(&mut self, value: Slot, limits: &Limits) -> Result<(), Refusal> {
        if self.path.len() == self.prefix_bytes {
            return Err(Refusal::limit("a value has an empty name"));
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
        let start = self.place();
        self.text.push_str(&self.path);
        let own = start + u32::try_from(self.prefix_bytes).expect("a prefix is short");
        self.fields.push(Field { name: Span { start, end: self.place() }, own, value, live: true });
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
    pub(crate) fn keep_last(&mut self, row: ScratchRow) {
        let mut first_of = HashMap::<&str, usize, RandomState>::default();
        let mut twice = Vec::new();
        for at in (row.first..row.end).filter(|at| self.fields[*at].live) {
            let first = *first_of.entry(self.name(&self.fields[at])).or_insert(at);
            if first != at {
                twice.push((first, at));
            }
        }
        drop(first_of);
        for (first, later) in twice {
            self.fields[first].value = self.fields[later].value;
            self.fields[later].live = false;
        }
    }
}

/// Returns the refusal of a name that is too long.
pub(crate) fn long_name(name: &str, limits: &Limits) -> Refusal {
    Refusal::limit(format!("name {name:.40}… is longer than {} bytes", limits.max_name_bytes))
}
