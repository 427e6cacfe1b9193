//! Models of values.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use model::{Nanos, Value};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use crate::scenario::Model;

const DAY: f64 = 86_400.0;
/// Hour of the daily maximum.
const NOON: f64 = 14.0 * 3_600.0;

/// State of a value of one device.
#[derive(Debug, Clone)]
pub(super) enum Course {
    Constant(Value),
    Walk { now: f64, step: f64, min: f64, max: f64, digits: u8 },
    Daily { mean: f64, amplitude: f64, noise: f64, digits: u8 },
    Sawtooth { min: f64, max: f64, period: Duration, digits: u8 },
    Counter { next: i64, step: i64 },
    Flag(f64),
    Choice(Arc<[Value]>),
    Column { lines: Arc<[Value]>, next: usize },
}

/// The models of a group with the contents of their files, shared by its devices.
#[derive(Debug, Clone)]
pub(super) struct Source {
    model: Model,
    lines: Arc<[Value]>,
}

impl Source {
    pub(super) fn new(model: &Model, folder: &Path) -> anyhow::Result<Self> {
        let lines = match model {
            Model::Csv { file, column } => csv_column(&folder.join(file), column)?.into(),
            Model::Choice { of } => of.iter().map(scalar).collect(),
            _ => Arc::default(),
        };
        Ok(Self { model: model.clone(), lines })
    }

    /// State of the values of one device.
    pub(super) fn begin(&self, random: &mut Pcg64Mcg) -> Course {
        match &self.model {
            Model::Constant { value } => Course::Constant(scalar(value)),
            Model::RandomWalk { start, step, min, max, digits } => {
                Course::Walk { now: *start, step: *step, min: *min, max: *max, digits: *digits }
            }
            Model::Daily { mean, amplitude, noise, digits } => {
                Course::Daily { mean: *mean, amplitude: *amplitude, noise: *noise, digits: *digits }
            }
            Model::Sawtooth { min, max, period, digits } => {
                Course::Sawtooth { min: *min, max: *max, period: *period, digits: *digits }
            }
            Model::Counter { start, step } => Course::Counter { next: *start, step: *step },
            Model::Flag { probability } => Course::Flag(*probability),
            Model::Choice { .. } => Course::Choice(Arc::clone(&self.lines)),
            Model::Csv { .. } => {
                let next = index(random, self.lines.len());
                Course::Column { lines: Arc::clone(&self.lines), next }
            }
        }
    }
}

impl Course {
    /// The next value, measured `since` the start, at `time` by the true clock.
    pub(super) fn next(&mut self, since: Duration, time: Nanos, random: &mut Pcg64Mcg) -> Value {
        match self {
            Self::Constant(value) => value.clone(),
            Self::Walk { now, step, min, max, digits } => {
                *now = (*now + (unit(random) * 2.0 - 1.0) * *step).clamp(*min, *max);
                float(*now, *digits)
            }
            Self::Daily { mean, amplitude, noise, digits } => {
                #[expect(clippy::cast_precision_loss, reason = "an angle")]
                let seconds = time as f64 / 1e9;
                let angle = (seconds - NOON).rem_euclid(DAY) / DAY * std::f64::consts::TAU;
                float(*mean + *amplitude * angle.cos() + (unit(random) * 2.0 - 1.0) * *noise, *digits)
            }
            Self::Sawtooth { min, max, period, digits } => {
                let part = (since.as_secs_f64() / period.as_secs_f64()).fract();
                float(*min + (*max - *min) * part, *digits)
            }
            Self::Counter { next, step } => {
                let value = *next;
                *next = next.wrapping_add(*step);
                Value::Int(value)
            }
            Self::Flag(probability) => Value::Bool(unit(random) < *probability),
            Self::Choice(of) => of[index(random, of.len())].clone(),
            Self::Column { lines, next } => {
                let value = lines[*next % lines.len()].clone();
                *next = (*next + 1) % lines.len();
                value
            }
        }
    }
}

/// A number from 0 to 1, exclusive.
pub(super) fn unit(random: &mut Pcg64Mcg) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let bits = (random.next_u64() >> 11) as f64;
    bits / (1u64 << 53) as f64
}

/// A number from 0 to `count` - 1.
fn index(random: &mut Pcg64Mcg, count: usize) -> usize {
    let wide = u128::from(random.next_u64()) * count.max(1) as u128;
    usize::try_from(wide >> 64).expect("below the count")
}

/// Rounded to digits, never a negative zero.
fn float(value: f64, digits: u8) -> Value {
    let scale = 10f64.powi(i32::from(digits));
    let rounded = (value * scale).round() / scale;
    Value::Float(if rounded == 0.0 { 0.0 } else { rounded })
}

fn scalar(value: &toml::Value) -> Value {
    match value {
        toml::Value::Integer(v) => Value::Int(*v),
        toml::Value::Float(v) => Value::Float(*v),
        toml::Value::Boolean(v) => Value::Bool(*v),
        toml::Value::String(v) => Value::Str(v.as_str().into()),
        other => Value::Str(other.to_string().into()),
    }
}

/// The values of a column of a CSV file with a header. Whole numbers become integers, other numbers
/// floats, the rest text.
///
/// # Errors
/// The error names the file, the column and the line.
pub(crate) fn csv_column(file: &Path, column: &str) -> anyhow::Result<Vec<Value>> {
    let what = || format!("`file` {}", file.display());
    let mut reader = csv::Reader::from_path(file).with_context(what)?;
    let head = reader.headers().with_context(what)?.clone();
    let place = head.iter().position(|name| name == column).with_context(|| {
        format!("{} has no `column` {column:?}; it has {}", file.display(), head.iter().collect::<Vec<_>>().join(", "))
    })?;
    let mut values = Vec::new();
    for record in reader.records() {
        let record = record.with_context(what)?;
        values.push(parsed(record.get(place).unwrap_or_default().trim()));
    }
    ensure!(!values.is_empty(), "{} has no lines", file.display());
    Ok(values)
}

pub(crate) fn parsed(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Int(whole);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Float(number),
        _ => Value::Str(text.into()),
    }
}
