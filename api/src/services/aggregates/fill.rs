//! Fills buckets without values.

use model::{Nanos, TimeRange, Value};
use proto::v1::FillMode;
use stores::query::Number;
use tonic::Status;

use super::request::AggregateRequest;
use super::series::{Bucket, partial, too_many};
use crate::memory::Meter;

/// Adds the buckets of the range without values, up to now, by the mode of the request.
pub(super) fn fill(
    spec: &AggregateRequest,
    buckets: Vec<Bucket>,
    now: Nanos,
    most: usize,
    memory: &mut Meter,
) -> Result<Vec<Bucket>, Status> {
    let mut out: Vec<Bucket> = Vec::with_capacity(buckets.len());
    let mut empties = |out: &mut Vec<Bucket>, from, to| empties(spec, out, (from, to), now, most, memory);
    let end = spec.range.end.min(now);
    let mut at = spec.range.start;
    for bucket in buckets {
        empties(&mut out, at, bucket.window.start)?;
        at = bucket.window.end;
        out.push(bucket);
    }
    empties(&mut out, at, end)?;
    match spec.fill {
        FillMode::Previous => previous(&mut out, spec.max_fill, memory)?,
        FillMode::Linear => linear(&mut out, spec.max_fill),
        FillMode::Null | FillMode::Unspecified => {}
    }
    Ok(out)
}

fn empties(
    spec: &AggregateRequest,
    out: &mut Vec<Bucket>,
    (from, to): (Nanos, Nanos),
    now: Nanos,
    most: usize,
    memory: &mut Meter,
) -> Result<(), Status> {
    let mut at = from;
    while at < to {
        let window = spec.bucket_at(at)?;
        let partial = partial(spec, window, now);
        memory.take(Bucket::bytes(spec.functions.len()), "fill")?;
        out.push(Bucket {
            window,
            values: vec![None; spec.functions.len()],
            count: 0,
            others: 0,
            filled: false,
            partial,
        });
        if out.len() > most {
            return Err(too_many());
        }
        at = window.end;
    }
    Ok(())
}

/// Repeats the last bucket that has values.
fn previous(buckets: &mut [Bucket], max_fill: Nanos, memory: &mut Meter) -> Result<(), Status> {
    let mut source: Option<usize> = None;
    for i in 0..buckets.len() {
        if buckets[i].count > 0 {
            source = Some(i);
        } else if let Some(from) = source
            && buckets[i].window.end.saturating_sub(buckets[from].window.end) <= max_fill
        {
            memory.take(buckets[from].text_bytes(), "fill")?;
            buckets[i].values = buckets[from].values.clone();
            buckets[i].filled = true;
        }
    }
    Ok(())
}

/// Interpolates between the middles of the buckets on both sides of a run without values.
fn linear(buckets: &mut [Bucket], max_fill: Nanos) {
    let mut source: Option<usize> = None;
    for i in 0..buckets.len() {
        if buckets[i].count == 0 {
            continue;
        }
        if let Some(from) = source
            && i > from + 1
            && buckets[i].window.start.saturating_sub(buckets[from].window.end) <= max_fill
        {
            let (head, tail) = buckets.split_at_mut(i);
            line(&mut head[from..], &tail[0]);
        }
        source = Some(i);
    }
}

/// Fills all but the first of `stretch`, which has values, on the way to `end`.
fn line(stretch: &mut [Bucket], end: &Bucket) {
    let (begin, empty) = stretch.split_first_mut().expect("begins with a bucket that has values");
    for bucket in empty {
        let whole = middle(end.window) - middle(begin.window);
        let part = if whole > 0.0 { (middle(bucket.window) - middle(begin.window)) / whole } else { 0.0 };
        let between = |(a, b): (&Option<Value>, &Option<Value>)| {
            let (a, b) = (Number::of(a.as_ref()?.as_ref())?, Number::of(b.as_ref()?.as_ref())?);
            Some(Value::Float(a.float() + b.minus(a) * part))
        };
        bucket.values = begin.values.iter().zip(&end.values).map(between).collect();
        bucket.filled = true;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a position on a line, not a time that is returned")]
fn middle(window: TimeRange) -> f64 {
    window.start as f64 / 2.0 + window.end as f64 / 2.0
}
