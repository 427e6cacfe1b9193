//! Collects the values of one device into buckets, metric by metric.

use std::sync::Arc;

use hashbrown::HashMap;
use model::{Nanos, TimeRange, Value, ValueRef};
use proto::v1::{AggregateBucket, FillMode};
use stores::query::{Accumulator, Aggregate, Number};
use tonic::Status;

use super::fill;
use super::request::AggregateRequest;
use crate::memory::Meter;
use crate::read::Slice;
use crate::{convert, errors};

/// Maximum number of buckets of one device.
const MAX_BUCKETS: usize = 500_000;
/// Maximum number of values that a percentile holds for one bucket.
const MAX_KEPT: u64 = 8_000_000;

/// A finished bucket.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bucket {
    pub(super) window: TimeRange,
    /// In the order of the functions; `None` where there are no values to compute it from.
    pub(super) values: Vec<Option<Value>>,
    pub(super) count: u64,
    /// Values that are not numbers.
    pub(super) others: u64,
    pub(super) filled: bool,
    pub(super) partial: bool,
}

impl Bucket {
    /// Bytes of one with this many functions, without its texts.
    pub(super) fn bytes(functions: usize) -> usize {
        size_of::<Self>() + functions * size_of::<Option<Value>>()
    }

    /// Bytes of its texts.
    pub(super) fn text_bytes(&self) -> usize {
        let text = |value: &Option<Value>| match value {
            Some(Value::Str(text)) => text.len(),
            _ => 0,
        };
        self.values.iter().map(text).sum()
    }

    /// Bytes of it in an answer, at most.
    pub(super) fn wire_bytes(&self) -> usize {
        64 + 16 * self.values.len() + self.text_bytes()
    }

    pub(super) fn to_proto(&self) -> AggregateBucket {
        let value = |v: &Option<Value>| v.as_ref().map(convert::owned_value).unwrap_or_default();
        AggregateBucket {
            start_time: Some(convert::timestamp(self.window.start)),
            end_time: Some(convert::timestamp(self.window.end)),
            values: self.values.iter().map(value).collect(),
            count: convert::count(self.count),
            filled: self.filled,
            partial: self.partial,
            non_numeric_count: convert::count(self.others),
        }
    }
}

/// A metric and its buckets, in order of time.
pub(super) type Finished = (Arc<str>, Vec<Bucket>);

/// The series of one metric.
struct Series {
    metric: Arc<str>,
    window: TimeRange,
    open: Accumulator,
    /// Longest text in the open bucket.
    longest: usize,
    last_time: Nanos,
    done: Vec<Done>,
    /// The last number before the range.
    before: Option<Number>,
}

/// A bucket whose values are complete.
struct Done {
    window: TimeRange,
    values: Accumulator,
    last_time: Nanos,
}

/// The series of one device.
pub(super) struct Collector<'a> {
    spec: &'a AggregateRequest,
    keeps: bool,
    /// Copies of the first and the last text of a bucket.
    copies: usize,
    series: Vec<Series>,
    /// Index of each metric's series.
    places: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    buckets: usize,
    memory: Meter,
}

impl<'a> Collector<'a> {
    pub(super) fn new(spec: &'a AggregateRequest, memory: Meter) -> Self {
        // The accumulator has both; each function that returns one copies it.
        let copies = 2 + spec.functions.iter().filter(|f| matches!(f, Aggregate::First | Aggregate::Last)).count();
        let keeps = spec.functions.iter().any(|f| matches!(f, Aggregate::Percentile(_)));
        let places = HashMap::default();
        Self { spec, keeps, copies, series: Vec::new(), places, buckets: 0, memory }
    }

    /// Adds rows, in ascending order.
    pub(super) fn add(&mut self, slice: &Slice) -> Result<(), Status> {
        for &at in slice.rows() {
            let time = slice.time(at);
            for (metric, value) in slice.values(at) {
                self.value(metric, time, value)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, metric: &Arc<str>, time: Nanos, value: ValueRef<'_>) -> Result<(), Status> {
        let place = self.place(metric, time)?;
        if !self.series[place].window.contains(time) {
            self.count_bucket()?;
            let window = self.spec.bucket_at(time)?;
            let series = &mut self.series[place];
            let fresh = series.open.next();
            let values = std::mem::replace(&mut series.open, fresh);
            series.done.push(Done { window: series.window, values, last_time: series.last_time });
            series.window = window;
            series.longest = 0;
        }
        let series = &mut self.series[place];
        if let ValueRef::Str(text) = value
            && text.len() > series.longest
        {
            self.memory.take(self.copies * (text.len() - series.longest), "bucket")?;
            series.longest = text.len();
        }
        if self.keeps {
            // Twice, since a vector that grows holds up to twice its contents.
            self.memory.take(2 * size_of::<f64>(), "bucket")?;
        }
        if self.keeps && series.open.count() >= MAX_KEPT {
            let hint = format!("has more than {MAX_KEPT} values, too many for percentiles: use smaller buckets");
            return Err(errors::invalid("bucket", hint));
        }
        series.open.add(time, value);
        series.last_time = time;
        Ok(())
    }

    fn place(&mut self, metric: &Arc<str>, time: Nanos) -> Result<usize, Status> {
        if let Some(place) = self.places.get(metric) {
            return Ok(*place);
        }
        self.places.insert(Arc::clone(metric), self.series.len());
        self.count_bucket()?;
        self.series.push(Series {
            metric: Arc::clone(metric),
            window: self.spec.bucket_at(time)?,
            open: Accumulator::new(&self.spec.functions),
            longest: 0,
            last_time: time,
            done: Vec::new(),
            before: None,
        });
        Ok(self.series.len() - 1)
    }

    /// True when the steps into the first buckets are asked for.
    pub(super) fn needs_steps(&self) -> bool {
        self.spec.functions.contains(&Aggregate::Increase)
    }

    /// Takes the last number of a series before the range, newest first; true when every series
    /// has one.
    pub(super) fn precede(&mut self, slice: &Slice) -> bool {
        for &at in slice.rows() {
            for (metric, value) in slice.values(at) {
                let series = self.places.get(metric).map(|place| &mut self.series[*place]);
                if let (Some(series), Some(number)) = (series, Number::of(value)) {
                    series.before.get_or_insert(number);
                }
            }
        }
        self.series.iter().all(|series| series.before.is_some())
    }

    fn count_bucket(&mut self) -> Result<(), Status> {
        self.buckets += 1;
        self.memory.take(2 * size_of::<Done>() + Bucket::bytes(self.spec.functions.len()), "bucket")?;
        if self.buckets <= MAX_BUCKETS { Ok(()) } else { Err(too_many()) }
    }

    /// The buckets of each metric, by metric, and the memory that they hold; `now` is when the data
    /// ends.
    pub(super) fn finish(self, now: Nanos) -> Result<(Vec<Finished>, Meter), Status> {
        let (spec, mut memory) = (self.spec, self.memory);
        let mut left = MAX_BUCKETS;
        let mut all = Vec::with_capacity(self.series.len());
        for mut series in self.series {
            series.done.push(Done { window: series.window, values: series.open, last_time: series.last_time });
            if let Some(number) = series.before {
                precede(&mut series.done, number);
            }
            let mut buckets: Vec<Bucket> = series.done.into_iter().map(|done| finish(spec, done, now)).collect();
            if spec.fill != FillMode::Unspecified {
                buckets = fill::fill(spec, buckets, now, left, &mut memory)?;
            }
            left = left.saturating_sub(buckets.len());
            all.push((series.metric, buckets));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((all, memory))
    }
}

/// True when a bucket reaches beyond the range or beyond now.
pub(super) fn partial(spec: &AggregateRequest, window: TimeRange, now: Nanos) -> bool {
    window.start < spec.range.start || window.end > spec.range.end || window.end > now
}

/// Sets the number before the first number of a series.
fn precede(done: &mut [Done], number: Number) {
    for done in done {
        done.values.precede(number);
        if done.values.numbers() > 0 {
            break;
        }
    }
}

fn finish(spec: &AggregateRequest, mut done: Done, now: Nanos) -> Bucket {
    // The last value has a weight until the end of the bucket, the range or the data.
    let end = done.window.end.min(spec.range.end).min(now.max(done.last_time));
    let values = spec.functions.iter().map(|function| done.values.value(*function, end)).collect();
    Bucket {
        window: done.window,
        values,
        count: done.values.count(),
        others: done.values.count() - done.values.numbers(),
        filled: false,
        partial: partial(spec, done.window, now),
    }
}

pub(super) fn too_many() -> Status {
    let hint = format!("makes more than {MAX_BUCKETS} buckets of one device: use larger ones or a shorter range");
    errors::invalid("bucket", hint)
}
