//! kill -9 of a process that writes: blocks that it reported as written are stored, whole and once.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use model::{DeviceKey, TimeRange};
use weir_stores::contract::History;
use weir_stores::embedded::{Config, EmbeddedStore};
use weir_stores::{Block, BlockId, Column, ColumnData};

const CHILD: &str = "WEIR_TEST_STORE_CHILD";
const ROWS: i64 = 20;

fn open(dir: &Path) -> EmbeddedStore {
    // Sealed: a kill must not leave a value without its key.
    let keys = Some(envelope::testing::keyring(dir));
    let config = Config { dir: dir.to_owned(), keys, ..Config::default() };
    EmbeddedStore::open(config, Arc::default()).expect("the store opens after a kill")
}

fn device(n: i64) -> DeviceKey {
    DeviceKey::new("default", &format!("d{n}")).expect("a good id")
}

fn block(n: i64, round: i64) -> Block {
    let rows: Vec<i64> = (round * ROWS..(round + 1) * ROWS).collect();
    Block {
        id: BlockId { device: device(n), log: "l".into(), first_offset: round.unsigned_abs() * 1000, part: 0 },
        times: rows.iter().map(|r| r * model::time::SECOND).collect(),
        received: rows.iter().map(|r| r * model::time::SECOND).collect(),
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![Column { name: "v".into(), present: Vec::new(), data: ColumnData::Int(rows) }],
    }
}

/// Writes round after round, merging in between, and prints each round once it is durable.
async fn child(dir: &Path, from: i64) {
    let store = open(dir);
    for round in from.. {
        store.write((0..5).map(|n| block(n, round)).collect()).await.expect("it is written");
        store.sync().await.expect("it is synced");
        println!("\n{round}");
        std::io::stdout().flush().expect("the parent listens");
        store.done("l", round.unsigned_abs() * 1000);
        if round % 7 == 0 {
            store.merge().await.expect("it is merged");
        }
    }
}

#[tokio::test]
async fn blocks_synced_before_a_kill_are_stored_whole_and_once() {
    if let Some(what) = std::env::var_os(CHILD) {
        let what = what.into_string().expect("text");
        let (from, dir) = what.split_once(':').expect("two parts");
        return child(Path::new(dir), from.parse().expect("a number")).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut random = u64::from(std::process::id()) | 1;
    let mut durable = -1;
    for _ in 0..12 {
        let mut child = Command::new(std::env::current_exe().expect("our own path"))
            .args(["--exact", "blocks_synced_before_a_kill_are_stored_whole_and_once", "--nocapture"])
            .env(CHILD, format!("{}:{}", durable + 1, dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut rounds = 1 + random % 25;
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        for line in output.lines() {
            let Ok(round) = line.expect("text").trim().parse::<i64>() else { continue };
            durable = durable.max(round);
            rounds -= 1;
            if rounds == 0 {
                break;
            }
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let store = open(dir.path());
        for n in 0..5 {
            let metas = store.find(&device(n), TimeRange::ALL).await.expect("it answers");
            let blocks = store.fetch(&device(n), &metas, None).await.expect("it is whole");
            let mut found = Vec::new();
            for block in &blocks {
                let ColumnData::Int(values) = &block.columns[0].data else { panic!("integers") };
                found.extend_from_slice(values);
            }
            let last = found.len() as i64 / ROWS - 1;
            assert_eq!(found, (0..(last + 1) * ROWS).collect::<Vec<_>>(), "d{n}: in order, each once");
            assert!(last >= durable, "d{n}: round {durable} was synced, round {last} is the last one there");
        }
    }
}
