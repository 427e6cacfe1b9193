use model::DeviceKey;
use proptest::prelude::*;

use super::*;

fn id() -> BlockId {
    BlockId { device: DeviceKey::new("t", "d").unwrap(), log: "l".into(), first_offset: 7, part: 0 }
}

fn block(rows: usize) -> Block {
    let some = |i: usize| i % 3 != 1;
    let millis = |i: usize| 1_700_000_000_000_000_000 + i as i64 * 1_000_000_000;
    Block {
        id: id(),
        times: (0..rows).map(millis).collect(),
        received: (0..rows).map(|i| millis(i) + 5 * MILLISECOND).collect(),
        seqs: (0..rows).map(|i| some(i).then_some(i as u64)).collect(),
        claimed: (0..rows).map(|i| (i % 7 == 0).then_some(i as i64)).collect(),
        device_timed: (0..rows).map(some).collect(),
        columns: vec![
            Column {
                name: "f".into(),
                present: Vec::new(),
                data: ColumnData::Float((0..rows).map(|i| 21.5 + i as f64 / 8.0).collect()),
            },
            Column {
                name: "s".into(),
                present: (0..rows).map(some).collect(),
                data: ColumnData::Str((0..rows).filter(|i| some(*i)).map(|i| format!("m{}", i % 4).into()).collect()),
            },
            Column {
                name: "b".into(),
                present: Vec::new(),
                data: ColumnData::Bool((0..rows).map(|i| i % 5 == 0).collect()),
            },
        ],
    }
}

#[test]
fn blocks_of_all_sizes_come_back_as_they_were() {
    for rows in [1, 2, 7, 47, 48, 49, 500, 5000] {
        let block = block(rows);
        assert_eq!(decode(&encode(&block), id(), None).unwrap(), block, "{rows} rows");
    }
}

#[test]
fn receive_times_come_back_to_the_nanosecond() {
    for rows in [1, 47, 500] {
        let untimed = Block { received: block(rows).times, ..block(rows) };
        let mut jitter = block(rows);
        jitter.received.iter_mut().enumerate().for_each(|(i, t)| *t += (i as i64).pow(5) % 999_999_937);
        let ahead = Block { received: vec![i64::MIN; rows], ..block(rows) };
        for block in [&untimed, &jitter, &ahead] {
            assert_eq!(decode(&encode(block), id(), None).unwrap(), *block, "{rows} rows");
        }
    }
}

#[test]
fn blocks_of_version_1_have_receive_times_in_milliseconds() {
    let mut block = block(1);
    block.columns.clear();
    (block.seqs, block.claimed, block.device_timed) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = vec![1, 1, 2];
    let sections = [(TIMES, integers(&block.times)), (RECEIVED, integers(&[block.received[0] / MILLISECOND]))];
    sections.iter().for_each(|(kind, section)| bytes.extend_from_slice(&[*kind, 0, section.len() as u8]));
    sections.iter().for_each(|(_, section)| bytes.extend_from_slice(section));
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&bytes, id(), None).unwrap(), block);
}

#[test]
fn only_wanted_columns_are_read() {
    let read = decode(&encode(&block(100)), id(), Some(&["s".into()])).unwrap();
    assert_eq!(read.columns.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["s"]);
    assert_eq!(read.times.len(), 100);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = encode(&block(60));
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(decode(&bad, id(), None).is_err(), "byte {at}");
    }
}

#[test]
fn a_negative_zero_stays_one_among_decimals() {
    let mut bytes = Vec::new();
    write_floats(&mut bytes, &[1.5, -0.0, 0.0, 2.25]);
    let read = read_floats(&bytes, 4).unwrap();
    assert_eq!(read.iter().map(|v| v.is_sign_negative()).collect::<Vec<_>>(), [false, true, false, false]);
}

proptest! {
    #[test]
    fn any_floats_come_back_to_the_last_bit(values in prop::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 0..200)) {
        let mut bytes = Vec::new();
        write_floats(&mut bytes, &values);
        let read = read_floats(&bytes, values.len()).unwrap();
        let bits = |v: &[f64]| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&read), bits(&values));
    }

    #[test]
    fn any_integers_come_back(values in prop::collection::vec(any::<i64>(), 0..200)) {
        let mut bytes = Vec::new();
        write_integers(&mut bytes, &values);
        prop_assert_eq!(read_integers(&bytes, values.len()).unwrap(), values);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        // Any answer is right: the point is that there is one.
        prop_assert!(decode(&bytes, id(), None).is_ok_and(|b| b.times.len() < 1 << 22) || bytes.len() < 400);
    }
}
