use std::sync::Arc;

use buffer::frame::{Frame, ReadingHeader, Record};
use model::time::SECOND;
use model::{Schema, ValueRef};
use stores::{Block, ColumnData};

use super::cut::{self, Cut, Names, Placed};
use super::memtable::{DeviceRows, Memtable};
use super::parts::{self, PartBounds, PartSize};
use super::recent::{self, Recent};
use crate::testing::{FakeLog, device, frame, numbers, plain, stage};

fn rows(frame: &Frame) -> Vec<Placed<'_>> {
    let reading = |(offset, record)| match record {
        Record::Reading(reading) => (offset, reading),
        _ => panic!("a reading"),
    };
    frame.records().map(reading).collect()
}

fn cuts(frame: &Frame) -> Vec<Cut> {
    let mut rows = rows(frame);
    cut::sort_and_merge(&mut rows);
    cut::cut(&"log".into(), &device(0, 1), &rows, &mut Names::default())
}

fn one(header: ReadingHeader<'_>, values: &[(&str, ValueRef<'_>)], staged: &mut buffer::frame::Staged) {
    let schema = Arc::new(Schema::new(values.iter().map(|(name, _)| name)));
    staged.reading(&Arc::new(device(0, 1)), &schema, &header, values.iter().map(|(_, value)| Some(*value)));
}

#[test]
fn only_readings_with_a_device_time_are_merged_when_equal() {
    let values = [("a", ValueRef::Int(1))];
    let timed = ReadingHeader { time: 10, received: 11, identity: 5, ..plain() };
    let resent = ReadingHeader { received: 12, ..timed };
    let other = ReadingHeader { identity: 6, ..timed };
    let untimed = ReadingHeader { time: 20, received: 20, identity: 7, device_timed: false, ..plain() };
    let claimed = ReadingHeader { time: 30, received: 30, claimed_time: Some(99), ..untimed };
    let claimed_again = ReadingHeader { time: 31, received: 31, ..claimed };
    let frame = frame(0, |staged| {
        for header in [timed, resent, other, untimed, untimed, claimed, claimed_again] {
            one(header, &values, staged);
        }
    });
    let mut rows = rows(&frame);
    // Another payload, with another identity, is the same reading when its values are.
    assert_eq!(cut::sort_and_merge(&mut rows), 3);
    assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 3, 4, 5]);
}

#[test]
fn the_order_of_names_makes_no_other_reading_and_another_value_type_time_or_sequence_does() {
    let (a, b) = (("a", ValueRef::Int(1)), ("b", ValueRef::Float(0.0)));
    let header = ReadingHeader { time: 10, ..plain() };
    let frame = frame(0, |staged| {
        one(header, &[a, b], staged);
        one(ReadingHeader { identity: 7, ..header }, &[b, a], staged);
        one(header, &[a, ("b", ValueRef::Float(-0.0))], staged);
        one(header, &[("a", ValueRef::Float(1.0)), b], staged);
        one(header, &[a], staged);
        one(ReadingHeader { seq: Some(1), ..header }, &[a, b], staged);
        one(ReadingHeader { time: 11, ..header }, &[a, b], staged);
    });
    let mut rows = rows(&frame);
    assert_eq!(cut::sort_and_merge(&mut rows), 1);
    assert_eq!(rows.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 2, 3, 4, 5, 6]);
}

#[test]
fn a_clock_that_was_never_set_makes_no_two_readings_the_same() {
    let header = ReadingHeader { time: 30, received: 30, device_timed: false, claimed_time: Some(5), ..plain() };
    let frame = frame(0, |staged| {
        one(header, &[("a", ValueRef::Int(1))], staged);
        one(ReadingHeader { time: 31, received: 31, ..header }, &[("a", ValueRef::Int(1))], staged);
    });
    assert_eq!(cut::sort_and_merge(&mut rows(&frame)), 0);
}

/// Readings of one device and time, each with a value of its own, and each sent twice.
fn of_one_time(count: usize) -> Frame {
    frame(0, |staged| {
        let (device, schema) = (Arc::new(device(0, 1)), Arc::new(Schema::new(["a"])));
        for n in 0..count as i64 {
            let header = ReadingHeader { time: 10, identity: n.unsigned_abs(), ..plain() };
            staged.reading(&device, &schema, &header, [Some(ValueRef::Int(n / 2))]);
        }
    })
}

#[test]
fn readings_of_one_time_are_merged_in_linear_time() {
    stores::testing::assert_linear(of_one_time, |frame| {
        let mut rows = rows(frame);
        assert_eq!(cut::sort_and_merge(&mut rows) as usize, rows.len());
    });
}

#[test]
fn readings_with_names_of_their_own_are_cut_in_linear_time() {
    let new_names = |count: usize| {
        frame(0, |staged| {
            for message in 0..count / 20 {
                let names: Vec<String> = (0..20).map(|n| format!("name-{message}-{n}")).collect();
                let values: Vec<(&str, ValueRef<'_>)> = names.iter().map(|n| (&**n, ValueRef::Bool(true))).collect();
                one(ReadingHeader { time: message as i64, ..plain() }, &values, staged);
            }
        })
    };
    stores::testing::assert_linear(new_names, |frame| {
        let cuts = cuts(frame);
        let rows: usize = cuts.iter().map(|cut| cut.block.times.len()).sum();
        assert_eq!(rows, frame.records().count());
        for Cut { block, .. } in &cuts {
            assert!(!stores::block::is_sparse(block.times.len(), block.columns.len(), 20 * block.times.len()));
        }
        let mut ids: Vec<_> = cuts.iter().map(|cut| &cut.block.id).collect();
        ids.sort();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "no two have the same identity");
    });
}

#[test]
fn rows_are_sorted_by_time_and_sequence_and_cut_by_partition() {
    let week = stores::block::PARTITION;
    let times = [(week + 2, 1), (5, 0), (week + 2, 0), (3, 0)];
    let frame = frame(100, |staged| {
        for (time, seq) in times {
            let header = ReadingHeader { time, seq: Some(seq), identity: 1, ..plain() };
            one(header, &[("a", ValueRef::Int(time))], staged);
        }
    });
    let cuts = cuts(&frame);
    let summary: Vec<_> =
        cuts.iter().map(|c| (c.block.id.first_offset, c.offsets.clone(), c.block.times.clone())).collect();
    assert_eq!(summary, [(101, vec![103, 101], vec![3, 5]), (100, vec![102, 100], vec![week + 2, week + 2])]);
    assert_eq!(cuts[1].block.seqs, [Some(0), Some(1)]);
}

#[test]
fn a_name_has_a_column_for_each_type_and_the_last_of_a_name_counts() {
    let frame = frame(0, |staged| {
        one(ReadingHeader { time: 1, ..plain() }, &[("a", ValueRef::Int(1)), ("a", ValueRef::Int(2))], staged);
        one(ReadingHeader { time: 2, ..plain() }, &[("a", ValueRef::Str("x"))], staged);
        one(ReadingHeader { time: 3, ..plain() }, &[("b", ValueRef::Float(0.5)), ("a", ValueRef::Int(3))], staged);
    });
    let block = cuts(&frame).remove(0).block;
    let columns: Vec<_> = block.columns.iter().map(|c| (&*c.name, c.present.clone(), c.data.clone())).collect();
    let wanted = [
        ("a", vec![true, false, true], ColumnData::Int(vec![2, 3])),
        ("a", vec![false, true, false], ColumnData::Str(vec!["x".into()])),
        ("b", vec![false, false, true], ColumnData::Float(vec![0.5])),
    ];
    assert_eq!(columns, wanted);
    assert!(block.seqs.is_empty() && block.claimed.is_empty() && block.device_timed.is_empty());
}

#[test]
fn the_halves_of_a_block_are_the_block_and_have_identities_of_their_own() {
    let frame = frame(0, |staged| (0..31).for_each(|n| stage(staged, "default", n, 1)));
    let whole = cuts(&frame).remove(0);
    let mut ids = vec![whole.block.id.clone()];
    let mut left = vec![whole];
    let mut single: Vec<Block> = Vec::new();
    while let Some(cut) = left.pop() {
        match cut::halve(&cut) {
            Some((a, b)) => {
                assert_eq!(a.block.times.len() + b.block.times.len(), cut.block.times.len());
                ids.extend([a.block.id.clone(), b.block.id.clone()]);
                left.extend([a, b]);
            }
            None => single.push(cut.block),
        }
    }
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "no two have the same identity");
    assert_eq!(numbers(&single).len(), 31);
    for block in &single {
        let even = block.times[0] / SECOND % 2 == 0;
        assert_eq!(block.columns.iter().any(|c| &*c.name == "even"), even, "values stay with their rows");
    }
}

#[tokio::test]
async fn what_was_stored_before_a_restart_is_known_from_the_log_as_far_back_as_the_window() {
    let log = FakeLog::new("log", Arc::default());
    let fill = recent::WINDOW / 1_000;
    for batch in 0..=fill {
        log.append(|staged| (batch * 1_000..(batch + 1) * 1_000).for_each(|n| stage(staged, "default", n, 7)));
    }
    let done_to = buffer::Log::end(&log);
    let recent = Recent::load(&log, done_to).await.unwrap();
    let knows = |n: u64, time: i64, device_timed: bool| {
        let frame = frame(0, |staged| {
            // Another payload: another order of the names, and another identity.
            let header = ReadingHeader { time, identity: n ^ 1, device_timed, ..plain() };
            let schema = Arc::new(Schema::new(["even", "n"]));
            let even = n.is_multiple_of(2).then_some(ValueRef::Bool(true));
            let value = ValueRef::Int(n.cast_signed());
            staged.reading(&Arc::new(device(n, 7)), &schema, &header, [even, Some(value)]);
        });
        let (_, reading) = rows(&frame)[0];
        recent.knows(recent.device(reading.device), &reading)
    };
    let time = |n: u64| i64::try_from(n).unwrap() * SECOND;
    let (last, first, before) = (done_to - 1, done_to - recent::WINDOW, done_to - recent::WINDOW - 1);
    assert!(knows(last, time(last), true) && knows(first, time(first), true));
    assert!(!knows(before, time(before), true), "beyond the window");
    assert!(!knows(last, time(last) + 1, true), "another time is another reading");
    assert!(!knows(last, time(last), false), "without a time of its own nothing is known to be the same");
    assert!(!knows(last + 7, time(last), true), "another content is another reading");
}

/// The parts of a range with a limit on bytes: the numbers of readings in the cuts of each.
fn parts(table: &Memtable, size: PartSize) -> Vec<Vec<Cut>> {
    let recent = Recent::default();
    let part = |bounds: PartBounds| -> Vec<Cut> {
        let cut = |held: &DeviceRows| {
            let settled = parts::settled(table, held, &recent);
            cut::cut(&"log".into(), &held.device, &settled[bounds.share(settled.len())], &mut Names::default())
        };
        table.devices()[bounds.devices.clone()].iter().flat_map(cut).collect()
    };
    (0..).map_while(|index| size.bounds(table, index)).map(part).collect()
}

#[test]
fn parts_have_a_bound_in_bytes_and_together_hold_each_reading_once() {
    let frame = frame(0, |staged| {
        // Devices 1 and 3 repeat their names, device 0 has new ones in each reading.
        for n in 0..400_i64 {
            let names: Vec<String> =
                (0..20).map(|at| format!("v{}", if n % 4 == 0 { 20 * n + at } else { at })).collect();
            let schema = Arc::new(Schema::new(&names));
            let header = ReadingHeader { time: n * SECOND, received: n, ..plain() };
            let owner = Arc::new(device(n.unsigned_abs(), 4));
            staged.reading(&owner, &schema, &header, (0..20).map(|at| Some(ValueRef::Int(n * 20 + at))));
        }
    });
    let mut table = Memtable::default();
    table.take(&frame, 0, 400);
    let whole = parts(&table, PartSize { readings: 1_000, bytes: u64::MAX });
    assert_eq!(whole.len(), 1);
    let bytes = 100_000;
    let sliced = parts(&table, PartSize { readings: 1_000, bytes });
    assert!((7..20).contains(&sliced.len()), "{}", sliced.len());
    let cells = |cuts: &[Cut]| cuts.iter().map(|cut| cut.block.columns.len()).sum::<usize>();
    assert!(sliced.iter().all(|cuts| cells(cuts) < 400), "columns are what takes memory");
    let offsets = |parts: &[Vec<Cut>]| {
        let mut offsets: Vec<u64> = parts.iter().flatten().flat_map(|cut| cut.offsets.clone()).collect();
        offsets.sort_unstable();
        offsets
    };
    assert_eq!(offsets(&sliced), (0..400).collect::<Vec<u64>>());
    assert_eq!(offsets(&whole), offsets(&sliced));
    // By number of readings, whole devices stay together.
    let counted = parts(&table, PartSize { readings: 150, bytes: u64::MAX });
    assert_eq!(
        counted.iter().map(|cuts| cuts.iter().map(|cut| cut.offsets.len()).sum()).collect::<Vec<usize>>(),
        [100; 4]
    );
    let empty = PartSize { readings: 1, bytes: 1 };
    assert_eq!(parts(&Memtable::default(), empty), [Vec::new()], "for records that are no readings");
}
