//! Blocks into lines, in chunks of one request each. Decides for every value which field it is
//! written to and whether it fits, before anything is sent: a pure function of the blocks, the
//! settings and the known field types.
//!
//! The field of a value has its name, as [`names`] writes it, and the type that the
//! configuration declares, else the one of the tenant's first value. Where the bucket has another
//! type for that name, from another tenant or from before the declaration, the values are in the
//! field beside it, with the type at the end of its name. An integer that no float is equal to is
//! in the field beside one of floats, and the rest of its reading is not affected.

use std::fmt::Write as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{Nanos, ValueRef};

use super::config::{Config, OnConflict};
use super::line;
use super::names;
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
    /// Types of the fields of tenants, likewise.
    pub(super) tenants: Vec<(Arc<str>, Arc<str>, FieldType)>,
}

/// The reason why blocks cannot be written as they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Refusal {
    /// Any other reason, as text.
    Plain(String),
    /// The reading is older than the bucket keeps.
    TooOld(String),
    /// The bucket has the field, and it is not known whether the tenant wrote it.
    Undecided {
        tenant: Arc<str>,
        name: Arc<str>,
        /// The type in the bucket.
        held: FieldType,
        /// The type of the tenant's value.
        natural: FieldType,
    },
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
    tenants: HashMap<(Arc<str>, Arc<str>), FieldType, RandomState>,
    chunks: Vec<Chunk>,
}

/// A column and the position in it.
struct OpenColumn<'a> {
    column: &'a Column,
    /// The field of the name.
    name: Arc<str>,
    /// Index of the next value.
    next: usize,
    /// The field of the values, once known.
    target: Option<Target>,
}

/// The field that values are written to.
struct Target {
    name: Arc<str>,
    /// The name, escaped, with the equals sign.
    key: String,
    known: KnownField,
}

impl Encoder {
    pub(super) fn new(config: Arc<Config>, catalogue: Catalogue, now: Nanos, keeps_from: Nanos) -> Self {
        Self {
            config,
            catalogue,
            now,
            keeps_from,
            learnt: HashMap::default(),
            tenants: HashMap::default(),
            chunks: vec![Chunk::default()],
        }
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
        let tenants = self.tenants.into_iter().map(|((tenant, name), field)| (tenant, name, field)).collect();
        Ok(Encoded { chunks: self.chunks, learnt: self.learnt.into_iter().collect(), tenants })
    }

    fn block(&mut self, block: &Block) -> Result<(), Refusal> {
        let series = self.series(block)?;
        let mut columns = Vec::with_capacity(block.columns.len());
        for column in &block.columns {
            let name = names::field_of(&column.name, &self.config.tags);
            columns.push(OpenColumn { column, name, next: 0, target: None });
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

    fn own(&self, tenant: &Arc<str>, name: &Arc<str>) -> Option<FieldType> {
        let here = || self.tenants.get(&(Arc::clone(tenant), Arc::clone(name))).copied();
        self.catalogue.of_tenant(tenant, name).or_else(here)
    }

    /// Returns the type of a field, `natural` for a new one.
    fn decide_type(&mut self, name: &Arc<str>, natural: FieldType) -> KnownField {
        self.known(name).unwrap_or_else(|| {
            let known = KnownField { field: natural, origin: Origin::Written(self.now) };
            self.learnt.insert(Arc::clone(name), known);
            known
        })
    }

    /// Returns the field for the values of a tenant, of which `value` is one.
    fn target(&mut self, block: &Block, name: &Arc<str>, value: ValueRef<'_>) -> Result<Target, Refusal> {
        let (tenant, natural) = (&block.id.device.tenant, FieldType::natural(value.kind()));
        let at = |name: &Arc<str>, known| Ok(Target { name: Arc::clone(name), key: key(name)?, known });
        let held = self.known(name);
        if let Some(field) = self.catalogue.wanted(name) {
            let known = KnownField { field, origin: Origin::Declared };
            return match held {
                Some(held) if held.field != field && held.origin != Origin::Varies => self.beside(block, name, known),
                _ => {
                    self.decide_type(name, field);
                    at(name, known)
                }
            };
        }
        let Some(held) = held else {
            let field = self.own(tenant, name).unwrap_or(natural);
            self.tenants.insert((Arc::clone(tenant), Arc::clone(name)), field);
            let known = self.decide_type(name, field);
            return at(name, known);
        };
        if held.origin == Origin::Varies {
            // As sent: the server knows the type at that time.
            return at(name, KnownField { field: natural, ..held });
        }
        match self.own(tenant, name) {
            Some(field) if field == held.field => at(name, held),
            Some(field) => self.beside(block, name, KnownField { field, origin: Origin::Written(self.now) }),
            None if self.config.on_conflict != OnConflict::DeadLetter
                || (types::fit(value, held.field, false).is_some() && !self.has_fields_beside(name)) =>
            {
                self.tenants.insert((Arc::clone(tenant), Arc::clone(name)), held.field);
                at(name, held)
            }
            None => Err(Refusal::Undecided {
                tenant: Arc::clone(tenant),
                name: Arc::clone(name),
                held: held.field,
                natural,
            }),
        }
    }

    /// True when some tenant has another type for a name.
    fn has_fields_beside(&self, name: &str) -> bool {
        types::BESIDE.iter().any(|field| self.known(&types::beside(name, *field)).is_some())
    }

    /// Returns the field of a type beside the one of a name.
    fn beside(&mut self, block: &Block, name: &Arc<str>, wanted: KnownField) -> Result<Target, Refusal> {
        let beside = types::beside(name, wanted.field);
        let tags = &self.config.tags;
        if block.columns.iter().any(|column| names::field_of(&column.name, tags) == beside) {
            return Err(Refusal::Plain(format!(
                "the value {name:?} does not fit its field, and the reading has a value {beside:?} already"
            )));
        }
        let held = self.decide_type(&beside, wanted.field);
        let known = if wanted.origin == Origin::Declared && held.field == wanted.field { wanted } else { held };
        Ok(Target { key: key(&beside)?, name: beside, known })
    }

    fn field(
        &mut self,
        out: &mut String,
        open: &mut OpenColumn<'_>,
        value: ValueRef<'_>,
        block: &Block,
    ) -> Result<(), Refusal> {
        if types::is_too_long(value) && self.is_of_floats(block, &open.name) {
            let known = KnownField { field: FieldType::Integer, origin: Origin::Written(self.now) };
            let target = self.beside(block, &open.name, known)?;
            return put(out, &target, value);
        }
        if open.target.is_none() {
            open.target = Some(self.target(block, &open.name, value)?);
        }
        let target = open.target.as_ref().expect("was set before");
        let known = target.known;
        let wanted = known.origin == Origin::Declared;
        let fitting = types::fit(value, known.field, wanted).or_else(|| match self.config.on_conflict {
            OnConflict::Coerce => types::coerce(value, known.field),
            OnConflict::DeadLetter | OnConflict::SideField => None,
        });
        if let Some(fitting) = fitting {
            out.push_str(&target.key);
            return push(out, &target.name, &fitting);
        }
        if self.config.on_conflict != OnConflict::SideField {
            return Err(conflict(&target.name, known, value));
        }
        let name = Arc::clone(&target.name);
        let known = KnownField { field: types::side(value), origin: Origin::Written(self.now) };
        let target = self.beside(block, &name, known)?;
        put(out, &target, value)
    }

    /// True when a number of the tenant is written to a field of floats, and may not lose digits.
    fn is_of_floats(&self, block: &Block, name: &Arc<str>) -> bool {
        let own = self.own(&block.id.device.tenant, name).or(self.known(name).map(|known| known.field));
        self.config.on_conflict != OnConflict::Coerce
            && self.catalogue.wanted(name).is_none()
            && own.is_none_or(|field| field == FieldType::Float)
    }
}

/// Appends a value that has to fit its field.
fn put(out: &mut String, target: &Target, value: ValueRef<'_>) -> Result<(), Refusal> {
    match types::fit(value, target.known.field, target.known.origin == Origin::Declared) {
        Some(fitting) => {
            out.push_str(&target.key);
            push(out, &target.name, &fitting)
        }
        None => Err(conflict(&target.name, target.known, value)),
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
            Self::Undecided { name, held, natural, .. } => {
                return format!(
                    "a value of type {natural} does not fit field {name:?}, which is {held} in bucket {bucket:?}"
                );
            }
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
