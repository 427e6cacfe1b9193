//! Aggregates of the values of one series in one window.
//!
//! Integers are compared, added and subtracted as integers. A result that a float would round is
//! returned as an integer, and as text beyond the integers; only means, deviations and
//! interpolations that are fractions are rounded, once.

use std::cmp::Ordering;

use model::{Nanos, Value, ValueRef};

use super::number::{Number, Sum, integer, whole};

/// A function of the values in a window. Booleans and text have a count, a first and a last; they
/// are not numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// Number of values.
    Count,
    /// Sum over count.
    Mean,
    /// Each value weighted by the time until the next one; the last until the end of the window.
    /// The time before the first value does not count.
    TimeWeightedMean,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Sum.
    Sum,
    /// First in time.
    First,
    /// Last in time.
    Last,
    /// Standard deviation of the sample (Welford, Technometrics 4 (1962) 419).
    Stddev,
    /// 0 to 100, exact, linear between neighbours (Hyndman and Fan, The American Statistician 50
    /// (1996) 361, type 7).
    Percentile(f64),
    /// Increase of a counter, with the step into the window from the number before it; a fall is a
    /// reset to 0.
    Increase,
}

/// Collects the values of a window, in time order.
#[derive(Debug, Clone)]
pub struct Accumulator {
    keep: bool,
    count: u64,
    numbers: u64,
    /// Sum of the integers and of the floats.
    integers: i128,
    floats: Sum,
    /// False once a number was a float.
    whole: bool,
    /// The first number when it is an integer; `mean`, `square` and `weighted` are of distances
    /// from it, so that large integers keep their digits.
    origin: Number,
    mean: f64,
    square: f64,
    weighted: Sum,
    /// Smallest and largest number.
    range: Option<(Number, Number)>,
    rise: Rise,
    /// The last number before the window.
    before: Option<Number>,
    first_number: Option<(Nanos, Number)>,
    last_number: Option<(Nanos, Number)>,
    first: Option<Value>,
    last: Option<Value>,
    kept_integers: Vec<i64>,
    kept_floats: Vec<f64>,
}

impl Accumulator {
    /// Returns an empty one, for these functions.
    pub fn new(wanted: &[Aggregate]) -> Self {
        Self {
            keep: wanted.iter().any(|a| matches!(a, Aggregate::Percentile(_))),
            count: 0,
            numbers: 0,
            integers: 0,
            floats: Sum::default(),
            whole: true,
            origin: Number::Int(0),
            mean: 0.0,
            square: 0.0,
            weighted: Sum::default(),
            range: None,
            rise: Rise::default(),
            before: None,
            first_number: None,
            last_number: None,
            first: None,
            last: None,
            kept_integers: Vec::new(),
            kept_floats: Vec::new(),
        }
    }

    /// Returns an empty one for the next window of the series.
    pub fn next(&self) -> Self {
        let before = self.last_number.map(|(_, number)| number).or(self.before);
        Self { keep: self.keep, before, ..Self::new(&[]) }
    }

    /// Sets the last number before the window, unless it is known.
    pub fn precede(&mut self, number: Number) {
        self.before.get_or_insert(number);
    }

    /// Returns the number of values so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns how many of the values are numbers.
    pub fn numbers(&self) -> u64 {
        self.numbers
    }

    /// Adds a value; times are ascending.
    pub fn add(&mut self, time: Nanos, value: ValueRef<'_>) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(value.to_owned());
        }
        self.last = Some(value.to_owned());
        if let Some(number) = Number::of(value) {
            self.add_number(time, number);
        }
    }

    fn add_number(&mut self, time: Nanos, number: Number) {
        match self.last_number {
            None => {
                self.first_number = Some((time, number));
                if let Number::Int(_) = number {
                    self.origin = number;
                }
            }
            Some((then, last)) => {
                self.weighted.add(last.minus(self.origin) * (time - then) as f64);
                self.rise.step(last, number);
            }
        }
        self.last_number = Some((time, number));
        self.numbers += 1;
        match number {
            Number::Int(v) => self.integers += i128::from(v),
            Number::Float(v) => {
                self.whole = false;
                self.floats.add(v);
            }
        }
        let from_origin = number.minus(self.origin);
        let distance = from_origin - self.mean;
        self.mean += distance / self.numbers as f64;
        self.square += distance * (from_origin - self.mean);
        let (min, max) = self.range.unwrap_or((number, number));
        let lower = if number.compare(min) == Ordering::Less { number } else { min };
        let upper = if number.compare(max) == Ordering::Greater { number } else { max };
        self.range = Some((lower, upper));
        match number {
            Number::Int(v) if self.keep => self.kept_integers.push(v),
            Number::Float(v) if self.keep => self.kept_floats.push(v),
            _ => {}
        }
    }

    /// Returns the value of a function; `end` is the end of the window. `None` when there is
    /// nothing to compute it from.
    pub fn value(&mut self, wanted: Aggregate, end: Nanos) -> Option<Value> {
        match wanted {
            Aggregate::Count => Some(Value::Int(i64::try_from(self.count).unwrap_or(i64::MAX))),
            Aggregate::First => self.first.clone(),
            Aggregate::Last => self.last.clone(),
            Aggregate::Mean => (self.numbers > 0).then(|| self.mean()),
            Aggregate::TimeWeightedMean => self.time_weighted_mean(end),
            Aggregate::Min => Some(self.range?.0.value()),
            Aggregate::Max => Some(self.range?.1.value()),
            Aggregate::Sum => (self.numbers > 0).then(|| self.sum()),
            Aggregate::Stddev if self.numbers < 2 => None,
            Aggregate::Stddev => Some(Value::Float((self.square / (self.numbers - 1) as f64).sqrt())),
            Aggregate::Percentile(percent) => (self.numbers > 0).then(|| self.percentile(percent)),
            Aggregate::Increase => {
                let (_, first) = self.first_number?;
                let mut rise = self.rise;
                rise.step(self.before.unwrap_or(first), first);
                Some(rise.value())
            }
        }
    }

    fn sum(&self) -> Value {
        if self.whole { whole(self.integers) } else { Value::Float(self.integers as f64 + self.floats.value()) }
    }

    fn mean(&self) -> Value {
        let count = i128::from(self.numbers);
        if self.whole {
            let (quotient, rest) = (self.integers.div_euclid(count), self.integers.rem_euclid(count));
            return match rest {
                0 => integer(quotient),
                rest => Value::Float(quotient as f64 + rest as f64 / count as f64),
            };
        }
        let sum = self.integers as f64 + self.floats.value();
        // The sum of numbers may be beyond the largest float; their mean is not.
        let mean = if sum.is_finite() { sum / count as f64 } else { self.origin.float() + self.mean };
        Value::Float(mean)
    }

    fn time_weighted_mean(&self, end: Nanos) -> Option<Value> {
        let ((begun, _), (then, last)) = (self.first_number?, self.last_number?);
        let length = (end - begun) as f64;
        if length <= 0.0 {
            return Some(last.as_float());
        }
        let mut weighted = self.weighted;
        weighted.add(last.minus(self.origin) * (end - then) as f64);
        let from_origin = weighted.value() / length;
        Some(match self.origin {
            Number::Int(origin) if from_origin.fract() == 0.0 => integer(i128::from(origin) + from_origin as i128),
            origin => Value::Float(origin.float() + from_origin),
        })
    }

    fn percentile(&mut self, percent: f64) -> Value {
        self.kept_integers.sort_unstable();
        self.kept_floats.sort_unstable_by(f64::total_cmp);
        let numbers = self.kept_integers.len() + self.kept_floats.len();
        let place = percent.clamp(0.0, 100.0) / 100.0 * (numbers - 1) as f64;
        let (below, above) = (self.ranked(place.floor() as usize), self.ranked(place.ceil() as usize));
        if below.compare(above) == Ordering::Equal {
            return below.as_float();
        }
        let part = place - place.floor();
        let between = below.float() + above.minus(below) * part;
        Value::Float(if between.is_finite() { between } else { below.float() * (1.0 - part) + above.float() * part })
    }

    /// The number of a rank among the kept ones, which are sorted.
    fn ranked(&self, rank: usize) -> Number {
        let (integers, floats) = (&self.kept_integers, &self.kept_floats);
        // The number of integers among those below the rank, found by halving.
        let (mut low, mut high) = (rank.saturating_sub(floats.len()), rank.min(integers.len()));
        while low < high {
            let taken = (low + high) / 2;
            let float_is_first = match floats.get((rank - taken).wrapping_sub(1)) {
                Some(float) => Number::Float(*float).compare(Number::Int(integers[taken])) == Ordering::Less,
                None => true,
            };
            if float_is_first { high = taken } else { low = taken + 1 }
        }
        match (integers.get(low), floats.get(rank - low)) {
            (Some(int), Some(float)) => {
                let (int, float) = (Number::Int(*int), Number::Float(*float));
                if float.compare(int) == Ordering::Less { float } else { int }
            }
            (Some(int), None) => Number::Int(*int),
            (None, Some(float)) => Number::Float(*float),
            (None, None) => unreachable!("a rank is below the number of kept ones"),
        }
    }
}

/// The sum of the steps of a counter.
#[derive(Debug, Clone, Copy, Default)]
struct Rise {
    integers: i128,
    floats: Sum,
    /// True once a step was of floats.
    fractions: bool,
}

impl Rise {
    fn step(&mut self, from: Number, to: Number) {
        let fell = to.compare(from) == Ordering::Less;
        match (from, to) {
            (Number::Int(from), Number::Int(to)) => {
                self.integers += if fell { i128::from(to) } else { i128::from(to) - i128::from(from) };
            }
            (from, to) => {
                self.fractions = true;
                self.floats.add(if fell { to.float() } else { to.minus(from) });
            }
        }
    }

    fn value(self) -> Value {
        if self.fractions { Value::Float(self.integers as f64 + self.floats.value()) } else { whole(self.integers) }
    }
}

#[cfg(test)]
mod tests;
