use super::*;

/// 2^53 + 1: the first integer that no float is equal to.
const BIG: i64 = (1 << 53) + 1;

fn all_of(values: &[(Nanos, Value)], wanted: Aggregate) -> Accumulator {
    let mut all = Accumulator::new(&[wanted]);
    values.iter().for_each(|(t, v)| all.add(*t, v.as_ref()));
    all
}

fn of(values: &[(Nanos, f64)], wanted: Aggregate) -> Option<f64> {
    let values: Vec<(Nanos, Value)> = values.iter().map(|(t, v)| (*t, Value::Float(*v))).collect();
    match all_of(&values, wanted).value(wanted, 100)? {
        Value::Float(v) => Some(v),
        Value::Int(v) => Some(v as f64),
        other => panic!("{other:?}"),
    }
}

fn of_integers(values: &[i64], wanted: Aggregate) -> Option<Value> {
    let values: Vec<(Nanos, Value)> = (0..).zip(values).map(|(t, v)| (t, Value::Int(*v))).collect();
    all_of(&values, wanted).value(wanted, 100)
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
fn text_and_booleans_have_a_count_a_first_and_a_last_and_are_not_numbers() {
    for [a, b] in [["a", "b"].map(|v| Value::Str(v.into())), [true, false].map(Value::Bool)] {
        let mut all = all_of(&[(0, a.clone()), (1, b.clone())], Aggregate::Percentile(50.0));
        assert_eq!((all.count(), all.numbers()), (2, 0));
        assert_eq!(all.value(Aggregate::Count, 10), Some(Value::Int(2)));
        assert_eq!(all.value(Aggregate::First, 10), Some(a));
        assert_eq!(all.value(Aggregate::Last, 10), Some(b));
        for wanted in [
            Aggregate::Mean,
            Aggregate::TimeWeightedMean,
            Aggregate::Min,
            Aggregate::Max,
            Aggregate::Sum,
            Aggregate::Stddev,
            Aggregate::Percentile(50.0),
            Aggregate::Increase,
        ] {
            assert_eq!(all.value(wanted, 10), None, "{wanted:?}");
        }
    }
}

#[test]
fn integers_keep_every_digit() {
    let values = [BIG, BIG + 2, BIG + 4];
    for (wanted, expected) in [
        (Aggregate::Min, Value::Int(BIG)),
        (Aggregate::Max, Value::Int(BIG + 4)),
        (Aggregate::First, Value::Int(BIG)),
        (Aggregate::Last, Value::Int(BIG + 4)),
        (Aggregate::Sum, Value::Int(3 * BIG + 6)),
        (Aggregate::Mean, Value::Int(BIG + 2)),
        (Aggregate::Percentile(50.0), Value::Int(BIG + 2)),
        (Aggregate::Increase, Value::Int(4)),
        (Aggregate::Stddev, Value::Float(2.0)),
    ] {
        assert_eq!(of_integers(&values, wanted), Some(expected), "{wanted:?}");
    }
    assert_eq!(of_integers(&[BIG, BIG], Aggregate::TimeWeightedMean), Some(Value::Int(BIG)));
    assert_eq!(of_integers(&[i64::MAX, 2], Aggregate::Sum), Some(Value::Str("9223372036854775809".into())));
    assert_eq!(of_integers(&[1, 2], Aggregate::Mean), Some(Value::Float(1.5)));
}

#[test]
fn integers_and_floats_of_one_series_are_compared_exactly() {
    let near = Value::Float(9_007_199_254_740_992.0);
    let values = [(0, Value::Int(BIG)), (1, near.clone()), (2, Value::Int(BIG - 2))];
    let value = |wanted| all_of(&values, wanted).value(wanted, 3);
    assert_eq!(value(Aggregate::Max), Some(Value::Int(BIG)));
    assert_eq!(value(Aggregate::Min), Some(Value::Int(BIG - 2)));
    assert_eq!(value(Aggregate::Percentile(50.0)), Some(near));
}

#[test]
fn the_step_into_a_window_belongs_to_it() {
    let mut before = Accumulator::new(&[Aggregate::Increase]);
    before.add(0, ValueRef::Int(7));
    let mut empty = before.next();
    empty.add(10, ValueRef::Str("offline"));
    assert_eq!(empty.value(Aggregate::Increase, 20), None);
    let mut window = empty.next();
    window.add(20, ValueRef::Int(9));
    window.add(21, ValueRef::Int(1));
    window.precede(Number::Int(100));
    assert_eq!(window.value(Aggregate::Increase, 30), Some(Value::Int(3)), "2 into it, then 1 after a reset");
    let mut first = Accumulator::new(&[Aggregate::Increase]);
    first.add(0, ValueRef::Float(2.5));
    assert_eq!(first.value(Aggregate::Increase, 10), Some(Value::Float(0.0)));
    first.precede(Number::Float(1.0));
    assert_eq!(first.value(Aggregate::Increase, 10), Some(Value::Float(1.5)));
}

#[test]
fn a_rank_among_integers_and_floats_is_that_of_the_sorted_whole() {
    let integers = [5_i64, -3, 8, 8, 0, 12];
    let floats = [4.5, 8.0, -7.25, 11.0, 0.0];
    let values = integers.map(Value::Int).into_iter().chain(floats.map(Value::Float));
    let values: Vec<(Nanos, Value)> = (0..).zip(values).collect();
    let mut sorted: Vec<f64> = integers.iter().map(|v| *v as f64).chain(floats).collect();
    sorted.sort_by(f64::total_cmp);
    let mut all = all_of(&values, Aggregate::Percentile(0.0));
    for (rank, expected) in sorted.iter().enumerate() {
        let percent = rank as f64 / (sorted.len() - 1) as f64 * 100.0;
        let Some(Value::Float(found)) = all.value(Aggregate::Percentile(percent), 0) else { panic!("no number") };
        assert!((found - expected).abs() < 1e-9, "{percent}: {found} {expected}");
    }
}
