//! Aggregates of the values of one series in one window.

use model::{Nanos, Value, ValueRef};

/// A function of the values in a window. Text has a count, a first and a last; booleans count as 0
/// and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// Number of values.
    Count,
    /// Sum over count.
    Mean,
    /// Each value weighted by the time until the next one; the last until the end of the window.
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
    /// Increase of a counter; a fall is a reset to 0.
    Increase,
}

/// Collects the values of a window, in time order.
#[derive(Debug, Clone)]
pub struct Accumulator {
    keep: bool,
    count: u64,
    numbers: u64,
    sum: f64,
    mean: f64,
    square: f64,
    min: f64,
    max: f64,
    increase: f64,
    weighted: f64,
    begun: Nanos,
    last_time: Nanos,
    last_number: f64,
    first: Option<Value>,
    last: Option<Value>,
    values: Vec<f64>,
}

impl Accumulator {
    /// Returns an empty one, for these functions.
    pub fn new(wanted: &[Aggregate]) -> Self {
        Self {
            keep: wanted.iter().any(|a| matches!(a, Aggregate::Percentile(_))),
            count: 0,
            numbers: 0,
            sum: 0.0,
            mean: 0.0,
            square: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            increase: 0.0,
            weighted: 0.0,
            begun: 0,
            last_time: 0,
            last_number: 0.0,
            first: None,
            last: None,
            values: Vec::new(),
        }
    }

    /// Returns the number of values so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a value; times are ascending.
    pub fn add(&mut self, time: Nanos, value: ValueRef<'_>) {
        self.count += 1;
        if self.first.is_none() {
            self.first = Some(value.to_owned());
        }
        self.last = Some(value.to_owned());
        let Some(number) = value.as_f64() else { return };
        if self.numbers == 0 {
            self.begun = time;
        } else {
            self.weighted += self.last_number * (time - self.last_time) as f64;
            let step = number - self.last_number;
            self.increase += if step < 0.0 { number } else { step };
        }
        self.numbers += 1;
        self.sum += number;
        let distance = number - self.mean;
        self.mean += distance / self.numbers as f64;
        self.square += distance * (number - self.mean);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.last_time = time;
        self.last_number = number;
        if self.keep {
            self.values.push(number);
        }
    }

    /// Returns the value of a function; `end` is the end of the window. `None` when there is
    /// nothing to compute it from.
    pub fn value(&mut self, wanted: Aggregate, end: Nanos) -> Option<Value> {
        let number = |v: f64| Some(Value::Float(v));
        match wanted {
            Aggregate::Count => Some(Value::Int(i64::try_from(self.count).unwrap_or(i64::MAX))),
            Aggregate::First => self.first.clone(),
            Aggregate::Last => self.last.clone(),
            _ if self.numbers == 0 => None,
            Aggregate::Mean => number(self.sum / self.numbers as f64),
            Aggregate::TimeWeightedMean => {
                let whole = (end - self.begun) as f64;
                let rest = self.last_number * (end - self.last_time) as f64;
                if whole > 0.0 { number((self.weighted + rest) / whole) } else { number(self.last_number) }
            }
            Aggregate::Min => number(self.min),
            Aggregate::Max => number(self.max),
            Aggregate::Sum => number(self.sum),
            Aggregate::Stddev if self.numbers < 2 => None,
            Aggregate::Stddev => number((self.square / (self.numbers - 1) as f64).sqrt()),
            Aggregate::Percentile(percent) => number(self.percentile(percent)),
            Aggregate::Increase => number(self.increase),
        }
    }

    fn percentile(&mut self, percent: f64) -> f64 {
        self.values.sort_unstable_by(f64::total_cmp);
        let place = percent.clamp(0.0, 100.0) / 100.0 * (self.values.len() - 1) as f64;
        let (low, high) = (place.floor(), place.ceil());
        let (below, above) = (self.values[low as usize], self.values[high as usize]);
        below + (above - below) * (place - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(Nanos, f64)], wanted: Aggregate) -> Option<f64> {
        let mut all = Accumulator::new(&[wanted]);
        values.iter().for_each(|(t, v)| all.add(*t, ValueRef::Float(*v)));
        match all.value(wanted, 100)? {
            Value::Float(v) => Some(v),
            Value::Int(v) => Some(v as f64),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_function_of_a_few_values() {
        let values = [(0, 1.0), (50, 3.0), (75, 2.0), (80, 10.0)];
        for (wanted, expected) in [
            (Aggregate::Count, 4.0),
            (Aggregate::Mean, 4.0),
            (Aggregate::TimeWeightedMean, (50.0 + 75.0 + 10.0 + 200.0) / 100.0),
            (Aggregate::Min, 1.0),
            (Aggregate::Max, 10.0),
            (Aggregate::Sum, 16.0),
            (Aggregate::First, 1.0),
            (Aggregate::Last, 10.0),
            (Aggregate::Percentile(50.0), 2.5),
            (Aggregate::Percentile(100.0), 10.0),
            (Aggregate::Increase, 2.0 + 2.0 + 8.0),
        ] {
            assert_eq!(of(&values, wanted), Some(expected), "{wanted:?}");
        }
        let deviation = of(&values, Aggregate::Stddev).unwrap();
        assert!((deviation - (50.0_f64 / 3.0).sqrt()).abs() < 1e-12, "{deviation}");
        assert_eq!(of(&values[..1], Aggregate::Stddev), None);
        assert_eq!(of(&[], Aggregate::Mean), None);
    }

    #[test]
    fn text_has_a_count_a_first_and_a_last_and_no_mean() {
        let mut all = Accumulator::new(&[Aggregate::Mean]);
        ["a", "b"].into_iter().enumerate().for_each(|(t, v)| all.add(t as i64, ValueRef::Str(v)));
        assert_eq!(all.value(Aggregate::Count, 10), Some(Value::Int(2)));
        assert_eq!(all.value(Aggregate::Last, 10), Some(Value::Str("b".into())));
        assert_eq!(all.value(Aggregate::Mean, 10), None);
    }
}
