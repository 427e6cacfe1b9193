use std::sync::Arc;

use model::{DeviceKey, TimeRange};
use redb::{Database, ReadableDatabase, ReadableTable, TableHandle};

use super::*;
use crate::block::{Block, BlockId, Column, ColumnData, PARTITION};
use crate::contract::{History, TenantData};
use crate::embedded::{Config, EmbeddedStore};

fn open(dir: &Path) -> EmbeddedStore {
    let config = Config { dir: dir.to_owned(), max_open_partitions: 1, ..Config::default() };
    EmbeddedStore::open(config, Arc::default()).unwrap()
}

/// A number below `below` that does not compress.
fn noise(s: i64, below: i64) -> i64 {
    let mixed = s.wrapping_add(1).wrapping_mul(0x1F58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x14D0_49BB_1331_11EB);
    (mixed ^ mixed >> 31).rem_euclid(below)
}

/// Readings one second apart, each with a temperature, a counter, a state and a switch.
fn block(tenant: &str, week: i64, first: i64, rows: i64) -> Block {
    let seconds: Vec<i64> = (first..first + rows).collect();
    let column = |name: &str, data| Column { name: name.into(), present: Vec::new(), data };
    let device = DeviceKey::new(tenant, "d").unwrap();
    let times: Vec<i64> = seconds.iter().map(|s| week * PARTITION + s * model::time::SECOND).collect();
    Block {
        id: BlockId { device, log: "l".into(), first_offset: first.unsigned_abs(), part: 0 },
        received: times.iter().zip(&seconds).map(|(time, s)| time + 5_000_000 + noise(*s, 9_000_000)).collect(),
        times,
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![
            column("count", ColumnData::Int(seconds.clone())),
            column("open", ColumnData::Bool(seconds.iter().map(|s| s % 7 == 0).collect())),
            column("state", ColumnData::Str(seconds.iter().map(|_| "running".into()).collect())),
            column(
                "temperature",
                ColumnData::Float(seconds.iter().map(|s| 20.0 + noise(*s, 500) as f64 / 100.0).collect()),
            ),
        ],
    }
}

async fn recount(store: &EmbeddedStore, tenant: &str) -> u64 {
    let device = DeviceKey::new(tenant, "d").unwrap();
    let metas = store.find(&device, TimeRange::ALL).await.unwrap();
    store.fetch(&device, &metas, None).await.unwrap().iter().map(Block::size).sum()
}

fn file(dir: &Path, week: i64) -> std::path::PathBuf {
    dir.join("history").join(format!("{week}.redb"))
}

#[tokio::test]
async fn the_bytes_of_a_file_of_an_earlier_release_are_counted_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write((0..8).map(|n| block("acme", 1, n * 10, 10)).collect()).await.unwrap();
    store.write(vec![block("other", 1, 0, 10), block("acme", 2, 0, 10)]).await.unwrap();
    drop(store);
    let database = Database::open(file(dir.path(), 1)).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(SIZES).unwrap());
    write.commit().unwrap();
    drop(database);

    let store = open(dir.path());
    // A part of the bytes would be taken for all of them.
    store.write(vec![block("acme", 1, 80, 10)]).await.unwrap();
    store.done("l", 1_000);
    while store.merge().await.unwrap() {}
    store.expire_of("acme", PARTITION).await.unwrap();
    let has_table = || {
        let partition = store.0.partitions.open(1).unwrap();
        partition.run(|database| Ok(database.begin_read()?.list_tables()?.any(|t| t.name() == SIZES.name()))).unwrap()
    };
    assert!(!has_table());
    assert_eq!(store.size_of("acme").await.unwrap(), recount(&store, "acme").await);
    assert!(has_table());
    assert_eq!(store.size_of("other").await.unwrap(), recount(&store, "other").await);
    store.write(vec![block("acme", 1, 90, 10), block("new", 1, 0, 1)]).await.unwrap();
    for tenant in ["acme", "other", "new"] {
        assert_eq!(store.size_of(tenant).await.unwrap(), recount(&store, tenant).await, "{tenant}");
    }
}

#[tokio::test]
async fn a_partition_that_does_not_change_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for week in 1..6 {
        store.write(vec![block("acme", week, 0, 10)]).await.unwrap();
    }
    let all = store.size_of("acme").await.unwrap();
    // Only the last one is written to from now on.
    store.write(vec![block("acme", 5, 10, 10)]).await.unwrap();
    for week in 1..5 {
        std::fs::rename(file(dir.path(), week), dir.path().join(week.to_string())).unwrap();
    }
    assert_eq!(store.size_of("acme").await.unwrap(), all / 5 * 6);
    for week in 1..5 {
        assert!(!file(dir.path(), week).exists(), "it was opened");
    }
}

#[test]
fn bytes_that_were_read_before_a_change_are_not_remembered() {
    let sizes = Sizes::default();
    let before = sizes.get(1, "acme").unwrap_err();
    sizes.changed(1);
    sizes.put(1, "acme", 5, before);
    let before = sizes.get(1, "acme").unwrap_err();
    sizes.put(1, "acme", 7, before);
    assert_eq!(sizes.get(1, "acme"), Ok(7));
    sizes.changed(2);
    assert_eq!(sizes.get(1, "acme"), Ok(7));
    sizes.changed(1);
    assert!(sizes.get(1, "acme").is_err());
    for tenant in 0..=REMEMBERED {
        let changes = sizes.get(1, &tenant.to_string()).unwrap_err();
        sizes.put(1, &tenant.to_string(), 1, changes);
    }
    let known = sizes.0.lock();
    assert_eq!((known.count, known.by_partition.values().map(HashMap::len).sum()), (1, 1), "bounded");
}

#[tokio::test]
async fn a_block_that_cannot_be_read_leaves_no_bytes_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(vec![block("acme", 1, 0, 10), block("acme", 1, 10, 10)]).await.unwrap();
    let partition = store.0.partitions.open(1).unwrap();
    partition
        .run(|database| {
            let write = database.begin_write()?;
            {
                let mut blocks = write.open_table(BLOCKS)?;
                let key = blocks.iter()?.next().unwrap()?.0.value().to_vec();
                blocks.insert(&key[..], &b"damaged"[..])?;
            }
            write.commit()?;
            Ok(())
        })
        .unwrap();
    store.expire_of("acme", PARTITION + 15 * model::time::SECOND).await.unwrap();
    assert!(store.size_of("acme").await.unwrap() >= block("acme", 1, 10, 10).size());
    store.expire_of("acme", PARTITION + 60 * model::time::SECOND).await.unwrap();
    assert_eq!(store.size_of("acme").await.unwrap(), 0);
}

/// The bytes that the file has for the keys and values of the blocks.
fn stored(store: &EmbeddedStore, week: i64) -> u64 {
    let partition = store.0.partitions.open(week).unwrap();
    let count = |database: &Database| {
        let mut bytes = 0;
        for entry in database.begin_read()?.open_table(BLOCKS)?.iter()? {
            let (key, value) = entry?;
            bytes += key.value().len() + value.value().len();
        }
        Ok(bytes as u64)
    };
    partition.run(count).unwrap()
}

#[tokio::test]
async fn blocks_take_less_than_the_size_of_their_readings_and_some_bytes_each() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (week, rows) in [(1, 1), (2, 10), (3, 60), (4, 600), (5, 4096)] {
        let blocks: Vec<Block> = (0..20).map(|n| block("acme", week, n * rows, rows)).collect();
        let size: u64 = blocks.iter().map(Block::size).sum();
        store.write(blocks).await.unwrap();
        let stored = stored(&store, week);
        println!("blocks of {rows} readings: {size} bytes, stored as {stored} ({:.2})", stored as f64 / size as f64);
        assert!(stored <= size / 2 + 20 * 250, "{rows} readings: {stored} of {size}");
        assert!(stored >= size / 50, "{rows} readings: {stored} of {size}");
    }
}

/// For `docs/guides/limits.md`.
#[tokio::test]
#[ignore = "prints figures: run it in a release build"]
async fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let rows = 60;
    for n in 0..1_000_000 / rows {
        store.write(vec![block("acme", 1 + n % 52, n * rows, rows)]).await.unwrap();
    }
    for count in ["first", "second"] {
        let begun = std::time::Instant::now();
        let size = store.size_of("acme").await.unwrap();
        println!("the {count} count of {size} bytes in 52 weeks: {:?}", begun.elapsed());
    }
    let one = block("acme", 1, 0, 1_000);
    let begun = std::time::Instant::now();
    let sum: u64 = (0..10_000).map(|_| std::hint::black_box(&one).size()).sum();
    println!("the size of a block of 1,000 readings: {:?} ({sum})", begun.elapsed() / 10_000);
}
