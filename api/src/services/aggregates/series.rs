//! Collects the values of one device into buckets, metric by metric.

use std::sync::Arc;

use model::{Nanos, TimeRange, Value, ValueRef};
use proto::v1::{AggregateBucket, FillMode};
use stores::query::{Accumulator, Aggregate};
use tonic::Status;

use super::fill;
use super::request::Asked;
use crate::read::Slice;
use crate::{convert, errors};

/// Buckets of one device in memory, at most.
const MAX_BUCKETS: usize = 500_000;
/// Values of one bucket that a percentile may hold.
const MAX_KEPT: u64 = 8_000_000;

/// A finished bucket.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bucket {
    pub(super) window: TimeRange,
    /// In the order of the functions; none where there is nothing to compute it from.
    pub(super) values: Vec<Option<Value>>,
    pub(super) count: u64,
    pub(super) filled: bool,
    pub(super) partial: bool,
}

impl Bucket {
    pub(super) fn to_proto(&self) -> AggregateBucket {
        let value = |v: &Option<Value>| v.as_ref().map(convert::owned_value).unwrap_or_default();
        AggregateBucket {
            start_time: Some(convert::timestamp(self.window.start)),
            end_time: Some(convert::timestamp(self.window.end)),
            values: self.values.iter().map(value).collect(),
            count: convert::count(self.count),
            filled: self.filled,
            partial: self.partial,
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
    last_time: Nanos,
    done: Vec<Done>,
}

/// A bucket whose values are all in.
struct Done {
    window: TimeRange,
    values: Accumulator,
    last_time: Nanos,
}

/// The series of one device.
pub(super) struct Collector<'a> {
    asked: &'a Asked,
    keeps: bool,
    series: Vec<Series>,
    buckets: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(asked: &'a Asked) -> Self {
        let keeps = asked.functions.iter().any(|f| matches!(f, Aggregate::Percentile(_)));
        Self { asked, keeps, series: Vec::new(), buckets: 0 }
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
            let window = self.asked.bucket_at(time)?;
            let fresh = Accumulator::new(&self.asked.functions);
            let series = &mut self.series[place];
            let values = std::mem::replace(&mut series.open, fresh);
            series.done.push(Done { window: series.window, values, last_time: series.last_time });
            series.window = window;
        }
        let series = &mut self.series[place];
        if self.keeps && series.open.count() >= MAX_KEPT {
            let hint = format!("a bucket has more than {MAX_KEPT} values, too many for percentiles: use smaller ones");
            return Err(errors::invalid("bucket", hint));
        }
        series.open.add(time, value);
        series.last_time = time;
        Ok(())
    }

    /// The place of a metric among the series. Blocks share their names, so that the pointer usually tells.
    fn place(&mut self, metric: &Arc<str>, time: Nanos) -> Result<usize, Status> {
        if let Some(place) = self.series.iter().position(|s| Arc::ptr_eq(&s.metric, metric)) {
            return Ok(place);
        }
        if let Some(place) = self.series.iter().position(|s| s.metric == *metric) {
            self.series[place].metric = Arc::clone(metric);
            return Ok(place);
        }
        self.count_bucket()?;
        self.series.push(Series {
            metric: Arc::clone(metric),
            window: self.asked.bucket_at(time)?,
            open: Accumulator::new(&self.asked.functions),
            last_time: time,
            done: Vec::new(),
        });
        Ok(self.series.len() - 1)
    }

    fn count_bucket(&mut self) -> Result<(), Status> {
        self.buckets += 1;
        if self.buckets <= MAX_BUCKETS { Ok(()) } else { Err(too_many()) }
    }

    /// The buckets of each metric, by metric; `now` is when the data ends.
    pub(super) fn finish(self, now: Nanos) -> Result<Vec<Finished>, Status> {
        let asked = self.asked;
        let mut left = MAX_BUCKETS;
        let mut all = Vec::with_capacity(self.series.len());
        for mut series in self.series {
            series.done.push(Done { window: series.window, values: series.open, last_time: series.last_time });
            let mut buckets: Vec<Bucket> = series.done.into_iter().map(|done| finish(asked, done, now)).collect();
            if asked.fill != FillMode::Unspecified {
                buckets = fill::fill(asked, buckets, now, left)?;
            }
            left = left.saturating_sub(buckets.len());
            all.push((series.metric, buckets));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

/// True when not all of a bucket was, or can have been, looked at.
pub(super) fn partial(asked: &Asked, window: TimeRange, now: Nanos) -> bool {
    window.start < asked.range.start || window.end > asked.range.end || window.end > now
}

fn finish(asked: &Asked, mut done: Done, now: Nanos) -> Bucket {
    // The last value weighs until the bucket ends, or the range, or the data.
    let end = done.window.end.min(asked.range.end).min(now.max(done.last_time));
    let values = asked.functions.iter().map(|function| done.values.value(*function, end)).collect();
    Bucket {
        window: done.window,
        values,
        count: done.values.count(),
        filled: false,
        partial: partial(asked, done.window, now),
    }
}

pub(super) fn too_many() -> Status {
    let hint = format!("makes more than {MAX_BUCKETS} buckets of one device: use larger ones or a shorter range");
    errors::invalid("bucket", hint)
}
