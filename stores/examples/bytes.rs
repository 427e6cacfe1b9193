//! Bytes per stored reading, in flushed blocks and after merging: a device at 1 Hz with a counter
//! and three random walks of two decimals, received some milliseconds later.
//!
//! `cargo run --release -p weir-stores --example bytes`

use model::{DeviceKey, Nanos};
use weir_stores::{Block, BlockId, Column, ColumnData, codec};

const START: Nanos = 1_700_000_000 * model::time::SECOND;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn walk(random: &mut Random, rows: usize, start: i64, step: u64) -> Vec<f64> {
    let mut value = start;
    let next = |_| {
        value += random.below(2 * step + 1).cast_signed() - step.cast_signed();
        value as f64 / 100.0
    };
    (0..rows).map(next).collect()
}

fn block(rows: usize) -> Block {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let times: Vec<Nanos> = (0..rows).map(|i| START + i as i64 * model::time::SECOND).collect();
    let column =
        |name: &str, values| Column { name: name.into(), present: Vec::new(), data: ColumnData::Float(values) };
    Block {
        id: BlockId {
            device: DeviceKey::new("default", "d").expect("a good id"),
            log: "l".into(),
            first_offset: 0,
            part: 0,
        },
        received: times.iter().map(|t| t + random.below(20_000_000).cast_signed()).collect(),
        seqs: (0..rows).map(|i| Some(i as u64)).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![
            column("temperature", walk(&mut random, rows, 2150, 5)),
            column("humidity", walk(&mut random, rows, 4500, 5)),
            column("battery", walk(&mut random, rows, 9900, 1)),
        ],
        times,
    }
}

fn main() {
    for rows in [1, 15, 60, 1000, 4096] {
        let bytes = codec::encode(&block(rows)).len();
        println!("{rows:>5} readings a block: {:.2} bytes each", bytes as f64 / rows as f64);
    }
}
