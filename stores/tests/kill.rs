//! kill -9 of a process that writes: blocks that it reported as written are stored, whole and once.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use model::{DeviceKey, TimeRange};
use weir_stores::contract::{History, TenantData};
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
    device_of("default", n)
}

fn device_of(tenant: &str, n: i64) -> DeviceKey {
    DeviceKey::new(tenant, &format!("d{n}")).expect("a good id")
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

/// Runs the test as a child until it has reported so many rounds, then kills it. Returns the last
/// round.
fn run_and_kill(test: &str, dir: &Path, from: i64, mut rounds: u64) -> i64 {
    let mut child = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, format!("{from}:{}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut last, output) = (-1, BufReader::new(child.stdout.take().expect("it is piped")));
    for line in output.lines() {
        let Ok(round) = line.expect("text").trim().parse::<i64>() else { continue };
        last = round;
        rounds -= 1;
        if rounds == 0 {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    last
}

/// Returns the first round and the folder of a child; `None` in the test itself.
fn of_child() -> Option<(i64, String)> {
    let what = std::env::var_os(CHILD)?.into_string().expect("text");
    let (from, dir) = what.split_once(':').expect("two parts");
    Some((from.parse().expect("a number"), dir.to_owned()))
}

#[tokio::test]
async fn blocks_synced_before_a_kill_are_stored_whole_and_once() {
    if let Some((from, dir)) = of_child() {
        return child(Path::new(&dir), from).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut random = u64::from(std::process::id()) | 1;
    let mut durable = -1;
    for _ in 0..12 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let test = "blocks_synced_before_a_kill_are_stored_whole_and_once";
        durable = durable.max(run_and_kill(test, dir.path(), durable + 1, 1 + random % 25));
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

const TENANTS: [&str; 3] = ["default", "short", "leaving"];

/// Changes the blocks of three tenants in all ways, and prints each step when it begins, so that
/// the kill comes in the middle of one.
async fn changing_child(dir: &Path, from: i64) {
    let store = open(dir);
    store.done("l", u64::MAX);
    for round in from.. {
        let step = |step: &str| {
            println!("\n{step}\n{round}");
            std::io::stdout().flush().expect("the parent listens");
        };
        let of = |tenant: &str, n| Block {
            id: BlockId { device: device_of(tenant, n), ..block(n, round).id },
            ..block(n, round)
        };
        let mut blocks: Vec<Block> = TENANTS.iter().flat_map(|tenant| (0..2).map(|n| of(tenant, n))).collect();
        // The same readings once more, from another offset: a merge finds them.
        let again = blocks.iter().map(|block| {
            let id = BlockId { first_offset: block.id.first_offset + 500, ..block.id.clone() };
            Block { id, ..block.clone() }
        });
        blocks.extend(again.collect::<Vec<_>>());
        step("write");
        store.write(blocks.clone()).await.expect("it is written");
        step("write again");
        store.write(blocks).await.expect("it is written");
        step("merge");
        store.merge().await.expect("it is merged");
        step("expire");
        store.expire_of("short", (round - 3) * ROWS * model::time::SECOND).await.expect("they are deleted");
        if round % 5 == 4 {
            step("delete");
            while store.delete_some_of("leaving", 3).await.expect("they are deleted") {
                step("delete more");
            }
        }
    }
}

#[tokio::test]
async fn the_sizes_of_tenants_are_those_of_a_recount_after_a_kill_at_any_step() {
    if let Some((from, dir)) = of_child() {
        return changing_child(Path::new(&dir), from).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut random = u64::from(std::process::id()) | 1;
    let mut from = 0;
    for kill in 0..24 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let test = "the_sizes_of_tenants_are_those_of_a_recount_after_a_kill_at_any_step";
        // The round is begun once more: its blocks may be there already.
        from = run_and_kill(test, dir.path(), from, 1 + random % 30).max(from);
        let store = open(dir.path());
        for tenant in TENANTS {
            let mut sum = 0;
            for n in 0..2 {
                let device = device_of(tenant, n);
                let metas = store.find(&device, TimeRange::ALL).await.expect("it answers");
                let blocks = store.fetch(&device, &metas, None).await.expect("it is whole");
                sum += blocks.iter().map(Block::size).sum::<u64>();
            }
            let size = store.size_of(tenant).await.expect("it answers");
            // A deletion that was interrupted has as many as before it, until it is over.
            let is_deleting = tenant == "leaving" && size > sum;
            assert!(size == sum || is_deleting, "kill {kill}, {tenant}: {size}, recounted {sum}");
            if is_deleting {
                while store.delete_some_of(tenant, 3).await.expect("they are deleted") {}
                assert_eq!(store.size_of(tenant).await.expect("it answers"), 0);
            }
        }
    }
    assert!(from > 5, "it came to round {from}");
}
