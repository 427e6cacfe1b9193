//! Blocks into lines, in chunks of one request each. Decides for every value which field it is
//! written to and whether it fits, before anything is sent: a pure function of the blocks, the
//! settings and the known field types.

use std::fmt::Write as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{Nanos, ValueRef};

use super::config::{Config, OnConflict};
use super::line;
use super::types::{self, Catalogue, FieldType, FieldValue, KnownField, Origin};
use crate::block::{Block, Column};

/// Bytes of lines in one request, before they are compressed.
const CHUNK_BYTES: usize = 4 << 20;

/// Lines of one request.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: String,
    pub(super) lines: usize,
}

/// Blocks as lines.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) chunks: Vec<Chunk>,
    /// Types of new fields: known when everything is written.
    pub(super) learnt: Vec<(Arc<str>, KnownField)>,
}

/// The reason why blocks cannot be written as they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// Any other reason, as text.
    Plain(String),
    /// The reading is older than the bucket keeps.
    TooOld(String),
    /// A value does not fit the type of its field.
    Conflict {
        /// The type of the field.
        name: Arc<str>,
        known: KnownField,
        /// The value and its kind, as text.
        value: String,
    },
}

/// The encoder, with everything that its decisions rest on.
#[derive(Debug)]
pub(super) struct Encoder {
    config: Arc<Config>,
    catalogue: Catalogue,
    now: Nanos,
    /// The bucket does not keep points before this time.
    keeps_from: Nanos,
    learnt: HashMap<Arc<str>, KnownField, RandomState>,
    chunks: Vec<Chunk>,
}

/// A column and the position in it.
struct OpenColumn<'a> {
    column: &'a Column,
    /// The name, escaped, with the equals sign.
    key: String,
    /// Index of the next value.
    next: usize,
    /// The type of the field, once known.
    known: Option<KnownField>,
}

impl Encoder {
    pub(super) fn new(config: Arc<Config>, catalogue: Catalogue, now: Nanos, keeps_from: Nanos) -> Self {
        Self { config, catalogue, now, keeps_from, learnt: HashMap::default(), chunks: vec![Chunk::default()] }
    }

    /// Returns the lines of `blocks`, sorted by series.
    ///
    /// # Errors
    /// [`Refusal`] of the first reading that cannot be written.
    pub(super) fn encode(mut self, blocks: &[Block]) -> Result<Encoded, Refusal> {
        let mut sorted: Vec<&Block> = blocks.iter().collect();
        sorted.sort_by_key(|block| (&block.id.device, block.times.first()));
        for block in sorted {
            self.block(block)?;
        }
        self.chunks.retain(|chunk| chunk.lines > 0);
        Ok(Encoded { chunks: self.chunks, learnt: self.learnt.into_iter().collect() })
    }

    fn block(&mut self, block: &Block) -> Result<(), Refusal> {
        let series = self.series(block)?;
        let mut columns = Vec::with_capacity(block.columns.len());
        for column in &block.columns {
            columns.push(OpenColumn { column, key: key(&column.name)?, next: 0, known: self.known(&column.name) });
        }
        for (row, time) in block.times.iter().enumerate() {
            let time = line::point_time(*time, block.seqs.get(row).copied().flatten());
            if time < self.keeps_from {
                return Err(Refusal::TooOld(format!(
                    "beyond_retention: the reading is of {}, the bucket {:?} keeps points from {} on",
                    text_of(time),
                    self.config.bucket,
                    text_of(self.keeps_from)
                )));
            }
            self.line(&series, row, time, block, &mut columns)?;
        }
        Ok(())
    }

    /// Returns measurement and tags, up to the space before the fields.
    fn series(&self, block: &Block) -> Result<String, Refusal> {
        let (tags, device) = (&self.config.tags, &block.id.device);
        let mut pairs = [(&tags.device, &device.id, "device id"), (&tags.tenant, &device.tenant, "tenant")];
        pairs.sort_unstable_by_key(|(key, ..)| key.as_str());
        let mut series = self.config.measurement.clone();
        for (key, value, what) in pairs {
            series.push(',');
            series.push_str(key);
            series.push('=');
            line::tag_value(&mut series, value)
                .map_err(|reason| Refusal::Plain(format!("the {what} {value:?} {reason}")))?;
        }
        series.push(' ');
        Ok(series)
    }

    fn line(
        &mut self,
        series: &str,
        row: usize,
        time: Nanos,
        block: &Block,
        columns: &mut [OpenColumn<'_>],
    ) -> Result<(), Refusal> {
        let mut out = self.open_chunk();
        out.text.push_str(series);
        let begun = out.text.len();
        for open in columns {
            if !open.column.present.is_empty() && !open.column.present[row] {
                continue;
            }
            let Some(value) = open.column.data.get(open.next) else {
                return Err(Refusal::Plain(format!("the column {:?} of the block is too short", open.column.name)));
            };
            open.next += 1;
            if out.text.len() > begun {
                out.text.push(',');
            }
            self.field(&mut out.text, open, value, block)?;
        }
        if out.text.len() == begun {
            return Err(Refusal::Plain("the reading has no value, and a point needs one".to_owned()));
        }
        writeln!(out.text, " {time}").expect("writing into a string does not fail");
        out.lines += 1;
        self.chunks.push(out);
        Ok(())
    }

    /// Removes the chunk for the next line; the caller puts it back.
    fn open_chunk(&mut self) -> Chunk {
        match self.chunks.pop() {
            Some(chunk) if chunk.lines < self.config.batch_lines && chunk.text.len() < CHUNK_BYTES => chunk,
            Some(full) => {
                self.chunks.push(full);
                Chunk::default()
            }
            None => Chunk::default(),
        }
    }

    fn known(&self, name: &str) -> Option<KnownField> {
        let here = || self.learnt.get(name).copied();
        self.catalogue.get(name).or_else(here)
    }

    /// Returns the type of a field. The first value decides it when nothing else does.
    fn decide_type(&mut self, name: &Arc<str>, natural: FieldType) -> KnownField {
        self.known(name).unwrap_or_else(|| {
            let known = KnownField { field: natural, origin: Origin::Written(self.now) };
            self.learnt.insert(Arc::clone(name), known);
            known
        })
    }

    fn field(
        &mut self,
        out: &mut String,
        open: &mut OpenColumn<'_>,
        value: ValueRef<'_>,
        block: &Block,
    ) -> Result<(), Refusal> {
        let name = &open.column.name;
        let known = match open.known {
            Some(known) => known,
            None => self.decide_type(name, FieldType::natural(value.kind())),
        };
        open.known = Some(known);
        let known = match known.origin {
            // As sent: the server knows the type at that time.
            Origin::Varies => KnownField { field: FieldType::natural(value.kind()), ..known },
            _ => known,
        };
        let wanted = known.origin == Origin::Declared;
        let fitting = types::fit(value, known.field, wanted).or_else(|| match self.config.on_conflict {
            OnConflict::Coerce => types::coerce(value, known.field),
            OnConflict::DeadLetter | OnConflict::SideField => None,
        });
        if let Some(fitting) = fitting {
            out.push_str(&open.key);
            return push(out, name, &fitting);
        }
        if self.config.on_conflict != OnConflict::SideField {
            return Err(conflict(name, known, value));
        }
        let (ending, natural) = types::side(value);
        let beside: Arc<str> = format!("{name}{ending}").into();
        let known = self.decide_type(&beside, natural);
        let taken = block.columns.iter().any(|column| column.name == beside);
        match types::fit(value, known.field, known.origin == Origin::Declared) {
            Some(fitting) if !taken => {
                out.push_str(&key(&beside)?);
                push(out, &beside, &fitting)
            }
            _ => Err(conflict(&beside, known, value)),
        }
    }
}

fn key(name: &str) -> Result<String, Refusal> {
    let mut key = String::with_capacity(name.len() + 1);
    line::field_name(&mut key, name).map_err(|reason| Refusal::Plain(format!("the value name {name:?} {reason}")))?;
    key.push('=');
    Ok(key)
}

fn push(out: &mut String, name: &str, value: &FieldValue<'_>) -> Result<(), Refusal> {
    line::field_value(out, value).map_err(|reason| Refusal::Plain(format!("the value {name:?} {reason}")))
}

fn conflict(name: &Arc<str>, known: KnownField, value: ValueRef<'_>) -> Refusal {
    let kind = match value {
        ValueRef::Float(_) => "a number",
        ValueRef::Int(_) => "an integer",
        ValueRef::Bool(_) => "a boolean",
        ValueRef::Str(_) => "a text",
    };
    let shown: String = value.to_string().chars().take(64).collect();
    Refusal::Conflict { name: Arc::clone(name), known, value: format!("{kind} ({shown})") }
}

impl Refusal {
    /// Returns the reason as text; `since` is the time of the field's first point, if it is known.
    pub(super) fn reason(&self, config: &Config, since: Option<Nanos>) -> String {
        let bucket = &config.bucket;
        let (name, known, value) = match self {
            Self::Plain(reason) | Self::TooOld(reason) => return reason.clone(),
            Self::Conflict { name, known, value } => (name, known, value),
        };
        let field = known.field;
        let held = match known.origin {
            Origin::Declared => format!("which {} declares as {field}", config.key("types")),
            Origin::Varies => format!("which is {field} for such values in bucket {bucket:?}"),
            Origin::Written(at) => format!("which is {field} since {} in bucket {bucket:?}", text_of(at)),
            Origin::Bucket(at) => match at.or(since) {
                Some(at) => format!("which is {field} since {} in bucket {bucket:?}", text_of(at)),
                None => format!("which was {field} already when Weir first read bucket {bucket:?}"),
            },
        };
        format!("{value} does not fit field {name:?}, {held}")
    }
}

/// Formats a time for an error.
pub(super) fn text_of(time: Nanos) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time)).map_or_else(|_| time.to_string(), |time| time.to_string())
}
