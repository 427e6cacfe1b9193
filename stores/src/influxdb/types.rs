//! Field types: the type of each name, and whether a value fits it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{Kind, Nanos, ValueRef};
use serde::{Deserialize, Serialize};

/// The type of a field in InfluxDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// 64-bit floating point.
    Float,
    /// 64-bit signed integer.
    Integer,
    /// 64-bit unsigned integer. Weir writes it only where a bucket has it already.
    Unsigned,
    /// Boolean.
    Boolean,
    /// Text.
    String,
}

/// `types` of the configuration: texts `name=type`.
pub(super) mod declarations {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::FieldType;

    pub(in super::super) fn serialize<S: Serializer>(
        types: &BTreeMap<String, FieldType>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(types.iter().map(|(name, field)| format!("{name}={field}")))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, FieldType>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let declared = texts.iter().filter(|text| !text.is_empty()).map(|text| {
            let found =
                text.rsplit_once('=').and_then(|(name, field)| Some((name.to_owned(), FieldType::parse(field)?)));
            let wrong = || format!("{text:?}: give a name and float, integer, boolean or string, as \"count=integer\"");
            found.ok_or_else(|| D::Error::custom(wrong()))
        });
        declared.collect()
    }
}

impl FieldType {
    /// Reads a name of InfluxDB.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "float" => Self::Float,
            "integer" => Self::Integer,
            "unsigned" => Self::Unsigned,
            "boolean" => Self::Boolean,
            "string" => Self::String,
            _ => return None,
        })
    }

    /// Returns the type of a value whose name is not known yet.
    pub(super) fn natural(kind: Kind) -> Self {
        match kind {
            Kind::Float | Kind::Int => Self::Float,
            Kind::Bool => Self::Boolean,
            Kind::Str => Self::String,
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Integer => "integer",
            Self::Unsigned => "unsigned",
            Self::Boolean => "boolean",
            Self::String => "string",
        })
    }
}

/// A value as a field holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldValue<'a> {
    Float(f64),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
    String(Cow<'a, str>),
}

/// Returns the value in a field of this type, when that loses nothing. A text field whose type is
/// `declared` by the operator takes every value, as text.
pub(super) fn fit(value: ValueRef<'_>, to: FieldType, declared: bool) -> Option<FieldValue<'_>> {
    Some(match (to, value) {
        (FieldType::Float, ValueRef::Float(v)) => FieldValue::Float(v),
        (FieldType::Float, ValueRef::Int(v)) => FieldValue::Float(exact_float(v)?),
        (FieldType::Integer, ValueRef::Int(v)) => FieldValue::Integer(v),
        (FieldType::Integer, ValueRef::Float(v)) => FieldValue::Integer(exact_integer(v)?),
        (FieldType::Unsigned, ValueRef::Int(v)) => FieldValue::Unsigned(u64::try_from(v).ok()?),
        (FieldType::Unsigned, ValueRef::Float(v)) => FieldValue::Unsigned(u64::try_from(exact_integer(v)?).ok()?),
        (FieldType::Boolean, ValueRef::Bool(v)) => FieldValue::Boolean(v),
        (FieldType::String, ValueRef::Str(v)) => FieldValue::String(Cow::Borrowed(v)),
        (FieldType::String, value) if declared => FieldValue::String(Cow::Owned(value.to_string())),
        _ => return None,
    })
}

/// Converts the value, though digits may be lost; `None` when it has no meaning in that type.
pub(super) fn coerce(value: ValueRef<'_>, to: FieldType) -> Option<FieldValue<'_>> {
    if to == FieldType::String {
        return fit(value, to, true);
    }
    let number = match value {
        ValueRef::Str(text) => match (to, text.trim()) {
            (FieldType::Boolean, "true") => return Some(FieldValue::Boolean(true)),
            (FieldType::Boolean, "false") => return Some(FieldValue::Boolean(false)),
            (FieldType::Integer, text) if text.parse::<i64>().is_ok() => {
                return text.parse().ok().map(FieldValue::Integer);
            }
            (FieldType::Unsigned, text) if text.parse::<u64>().is_ok() => {
                return text.parse().ok().map(FieldValue::Unsigned);
            }
            (_, text) => text.parse().ok().filter(|number: &f64| number.is_finite())?,
        },
        value => value.as_f64()?,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked; digits may go")]
    Some(match to {
        FieldType::Float => FieldValue::Float(number),
        FieldType::Integer if number.abs() < 9.2e18 => FieldValue::Integer(number.round() as i64),
        FieldType::Unsigned if (0.0..1.8e19).contains(&number) => FieldValue::Unsigned(number.round() as u64),
        FieldType::Boolean => FieldValue::Boolean(number != 0.0),
        _ => return None,
    })
}

/// Returns the type of the other field for a value that does not fit.
pub(super) fn side(value: ValueRef<'_>) -> FieldType {
    match value {
        value if is_too_long(value) => FieldType::Integer,
        ValueRef::Float(_) | ValueRef::Int(_) => FieldType::Float,
        ValueRef::Bool(_) => FieldType::Boolean,
        ValueRef::Str(_) => FieldType::String,
    }
}

/// Types that a tenant's values may have where another's have another.
pub(super) const BESIDE: [FieldType; 3] = [FieldType::Float, FieldType::Boolean, FieldType::String];

/// Returns the name of the field for values of a type, beside that of another type.
pub(super) fn beside(name: &str, field: FieldType) -> Arc<str> {
    let ending = match field {
        FieldType::Float => "_float",
        FieldType::Integer | FieldType::Unsigned => "_int",
        FieldType::Boolean => "_bool",
        FieldType::String => "_str",
    };
    format!("{name}{ending}").into()
}

/// True for an integer that no float is equal to.
pub(super) fn is_too_long(value: ValueRef<'_>) -> bool {
    matches!(value, ValueRef::Int(v) if exact_float(v).is_none())
}

/// Returns the float of the same number, if there is one.
fn exact_float(v: i64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "compared afterwards")]
    let (float, back) = (v as f64, v as f64 as i128);
    (back == i128::from(v)).then_some(float)
}

/// Returns the integer of the same number, if there is one.
fn exact_integer(v: f64) -> Option<i64> {
    // 2^63 is a float, the largest i64 is not.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (v.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&v)).then_some(v as i64)
}

/// The origin of a field's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Declared in `influxdb.types`; not of a field in the bucket.
    Declared,
    /// Read from the bucket; the time of the first point, if it was queried.
    Bucket(Option<Nanos>),
    /// First written by this process, at this time.
    Written(Nanos),
    /// Several types in the bucket, each in its own span of time: the server decides for each
    /// point.
    Varies,
}

/// A known field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownField {
    pub(super) field: FieldType,
    pub(super) origin: Origin,
}

/// A tenant and a field.
type TenantField = (Arc<str>, Arc<str>);

/// Field types by field, and by tenant. Cheap to clone; types are learnt from values that were
/// written, never from absent ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalogue {
    declared: Arc<HashMap<Arc<str>, FieldType, RandomState>>,
    known: Arc<HashMap<Arc<str>, KnownField, RandomState>>,
    /// The types that values of a field have for each tenant that wrote it.
    tenants: Arc<HashMap<TenantField, FieldType, RandomState>>,
}

impl Catalogue {
    /// Starts with the types that the configuration declares, by field.
    pub(super) fn declared(types: impl IntoIterator<Item = (Arc<str>, FieldType)>) -> Self {
        Self { declared: Arc::new(types.into_iter().collect()), ..Self::default() }
    }

    /// The type that the configuration declares for a field.
    pub(super) fn wanted(&self, name: &str) -> Option<FieldType> {
        self.declared.get(name).copied()
    }

    /// The type that a field has in the bucket.
    pub(super) fn get(&self, name: &str) -> Option<KnownField> {
        self.known.get(name).copied()
    }

    /// The type that a tenant's values of a field have.
    pub(super) fn of_tenant(&self, tenant: &Arc<str>, name: &Arc<str>) -> Option<FieldType> {
        self.tenants.get(&(Arc::clone(tenant), Arc::clone(name))).copied()
    }

    /// Adds fields that are not known yet.
    pub(super) fn learn(&mut self, names: impl IntoIterator<Item = (Arc<str>, KnownField)>) {
        for (name, known) in names {
            if !self.known.contains_key(&name) {
                Arc::make_mut(&mut self.known).insert(name, known);
            }
        }
    }

    /// Adds types of tenants.
    pub(super) fn learn_tenants(&mut self, types: impl IntoIterator<Item = (Arc<str>, Arc<str>, FieldType)>) {
        for (tenant, name, field) in types {
            if self.of_tenant(&tenant, &name) != Some(field) {
                Arc::make_mut(&mut self.tenants).insert((tenant, name), field);
            }
        }
    }

    /// Corrects or adds one field. An entry that holds less than is known changes nothing.
    pub(super) fn correct(&mut self, name: &str, known: KnownField) {
        let says_less = known.origin == Origin::Bucket(None);
        let is_news = |held: KnownField| match held.origin {
            Origin::Varies | Origin::Declared => held != known,
            Origin::Bucket(_) | Origin::Written(_) => held.field != known.field || !says_less,
        };
        if self.get(name).is_none_or(is_news) {
            Arc::make_mut(&mut self.known).insert(name.into(), known);
        }
    }
}
