use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::{DeviceKey, Nanos, TimeRange, Value};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::*;
use crate::block::{Block, BlockId, Column, ColumnData, PARTITION, partition_of};
use crate::contract::{
    DeadLetters, Deadletter, History, Latest, LatestState, LatestValue, Retained, RetainedMessage, TenantData,
};
use crate::testing::load_retained;

const START: Nanos = 1_700_000_000 * model::time::SECOND;

fn open(dir: &std::path::Path) -> EmbeddedStore {
    let config = Config { dir: dir.to_owned(), max_open_partitions: 2, ..Config::default() };
    EmbeddedStore::open(config, Arc::default()).unwrap()
}

/// A file on a disk that can be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn space(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.space().and_then(|()| self.file.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.space().and_then(|()| self.file.write(offset, data))
    }

    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn open_on(dir: &std::path::Path, full: &Arc<AtomicBool>) -> EmbeddedStore {
    let full = Arc::clone(full);
    let open = move |path: &std::path::Path| {
        let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let disk = Disk { file: FileBackend::new(file)?, full: Arc::clone(&full) };
        redb::Database::builder().create_with_backend(disk)
    };
    let config = Config { dir: dir.to_owned(), ..Config::default() };
    EmbeddedStore::open_with(config, Arc::default(), Arc::new(open)).unwrap()
}

fn state(id: &str, readings: u64) -> LatestState {
    LatestState { device: device(id), first_seen: 1, last_seen: 2, readings, clock_skew: 0, values: Vec::new() }
}

#[tokio::test]
async fn a_disk_that_was_full_needs_nothing_but_space() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let store = open_on(dir.path(), &full);
    let weeks = PARTITION / model::time::SECOND;
    store.write(vec![block("a", 0, 10)]).await.unwrap();
    Latest::store(&store, vec![state("a", 1)]).await.unwrap();

    for round in 1..4_i64 {
        full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let answers = [
                store.write(vec![block("a", round * 10, 10)]).await,
                // The first of another week.
                store.write(vec![block("a", round * weeks, 10)]).await,
                Latest::store(&store, vec![state("a", 1 + round.unsigned_abs())]).await,
                store.put(Vec::new()).await.and(store.apply(Vec::new()).await),
            ];
            for answer in &answers[..3] {
                assert!(matches!(answer, Err(StoreError::Busy { .. })), "{answer:?}");
            }
        }
        full.store(false, Ordering::SeqCst);
        store.write(vec![block("a", round * 10, 10)]).await.unwrap();
        store.write(vec![block("a", round * weeks, 10)]).await.unwrap();
        Latest::store(&store, vec![state("a", 1 + round.unsigned_abs())]).await.unwrap();
        assert_eq!(Latest::load(&store, None, 100).await.unwrap(), [state("a", 1 + round.unsigned_abs())]);
    }
    assert_eq!(values(&store, "a", TimeRange::ALL).await.len(), 70);
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 70)]);
    drop(store);
    // What is on the disk is whole.
    assert_eq!(values(&open(dir.path()), "a", TimeRange::ALL).await.len(), 70);
}

fn letter(offset: u64, stage: &str) -> Deadletter {
    Deadletter {
        log: "l".into(),
        offset,
        tenant: "default".into(),
        device: Some("d".into()),
        client: "c".into(),
        topic: "t".into(),
        payload: vec![0, 255],
        received: 7,
        stage: stage.into(),
        reason: "no JSON".into(),
        replayed: None,
    }
}

fn device(id: &str) -> DeviceKey {
    DeviceKey::new("default", id).unwrap()
}

/// Rows one second apart, from `first` seconds on; value and sequence are the second.
fn block(id: &str, first: i64, rows: i64) -> Block {
    let seconds: Vec<i64> = (first..first + rows).collect();
    Block {
        id: BlockId { device: device(id), log: "l".into(), first_offset: first.unsigned_abs(), part: 0 },
        times: seconds.iter().map(|s| START + s * model::time::SECOND).collect(),
        received: seconds.iter().map(|s| START + s * model::time::SECOND).collect(),
        seqs: seconds.iter().map(|s| Some(s.unsigned_abs())).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![Column { name: "v".into(), present: Vec::new(), data: ColumnData::Int(seconds) }],
    }
}

async fn values(store: &EmbeddedStore, id: &str, range: TimeRange) -> Vec<i64> {
    let metas = store.find(&device(id), range).await.unwrap();
    let blocks = store.fetch(&device(id), &metas, None).await.unwrap();
    let mut all = Vec::new();
    for block in blocks {
        let ColumnData::Int(values) = &block.columns[0].data else { panic!("integers") };
        all.extend_from_slice(values);
    }
    all
}

#[tokio::test]
async fn blocks_are_found_by_device_and_time_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        store.write((0..10).map(|i| block("a", i * 10, 10)).chain([block("b", 0, 10)]).collect()).await.unwrap();
    }
    let store = open(dir.path());
    assert_eq!(values(&store, "a", TimeRange::ALL).await, (0..100).collect::<Vec<_>>());
    let some = TimeRange { start: START + 25 * model::time::SECOND, end: START + 41 * model::time::SECOND };
    assert_eq!(values(&store, "a", some).await, (20..50).collect::<Vec<_>>(), "whole blocks that touch the range");
    assert_eq!(values(&store, "unknown", TimeRange::ALL).await.len(), 0);
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 110)]);
}

#[tokio::test]
async fn writing_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for _ in 0..3 {
        store.write(vec![block("a", 0, 10), block("a", 10, 10)]).await.unwrap();
    }
    assert_eq!(values(&store, "a", TimeRange::ALL).await, (0..20).collect::<Vec<_>>());
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 20)]);
}

#[tokio::test]
async fn only_blocks_that_the_cursor_has_passed_are_merged_and_nothing_changes_for_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write((0..50).map(|i| block("a", i * 10, 10)).collect()).await.unwrap();
    while store.merge().await.unwrap() {}
    assert_eq!(store.find(&device("a"), TimeRange::ALL).await.unwrap().len(), 50, "no cursor has passed them");
    store.done("l", 300);
    let before = store.find(&device("a"), TimeRange::ALL).await.unwrap();
    while store.merge().await.unwrap() {}
    let metas = store.find(&device("a"), TimeRange::ALL).await.unwrap();
    assert_eq!(metas.len(), 21);
    assert_eq!(values(&store, "a", TimeRange::ALL).await, (0..500).collect::<Vec<_>>());
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 500)]);
    assert!(matches!(store.fetch(&device("a"), &before, None).await, Err(StoreError::Moved)));
    // Blocks that may be written again still change nothing.
    store.write((30..50).map(|i| block("a", i * 10, 10)).collect()).await.unwrap();
    assert_eq!(values(&store, "a", TimeRange::ALL).await.len(), 500);
}

#[tokio::test]
async fn equal_readings_of_different_blocks_become_one_in_a_merge_and_still_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut again = block("a", 0, 10);
    again.id.first_offset = 1000;
    store.write((0..5).map(|i| block("a", i * 10, 10)).chain([again]).collect()).await.unwrap();
    store.done("l", 5000);
    while store.merge().await.unwrap() {}
    assert_eq!(values(&store, "a", TimeRange::ALL).await, (0..50).collect::<Vec<_>>());
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 60)]);
}

#[tokio::test]
async fn a_merged_block_has_a_bound_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Texts that take little on disk: the bound is of the memory, too.
    let text: Box<str> = "x".repeat(100_000).into();
    let wide = |at: i64| {
        let mut block = block("a", at * 10, 10);
        block.columns.push(Column {
            name: "z".into(),
            present: Vec::new(),
            data: ColumnData::Str(vec![text.clone(); 10]),
        });
        block
    };
    store.write((0..20).map(wide).collect()).await.unwrap();
    store.done("l", 5000);
    while store.merge().await.unwrap() {}
    let metas = store.find(&device("a"), TimeRange::ALL).await.unwrap();
    let blocks = store.fetch(&device("a"), &metas, None).await.unwrap();
    assert!(blocks.len() < 20, "{} blocks of 1 MB each are merged as far as they may", blocks.len());
    let largest = blocks.iter().map(Block::memory).max();
    assert!(largest <= Some(4 << 20), "{largest:?} bytes");
    assert_eq!(values(&store, "a", TimeRange::ALL).await, (0..200).collect::<Vec<_>>());
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 200)]);
}

#[tokio::test]
async fn the_count_is_of_the_rows_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write((0..6).map(|i| block("a", i * 10, 10)).collect()).await.unwrap();
    let lost = store.find(&device("a"), TimeRange::ALL).await.unwrap().remove(2);
    let partition = store.0.partitions.open(partition_of(START)).unwrap();
    let lose = |database: &redb::Database| {
        let write = database.begin_write()?;
        write.open_table(partition::BLOCKS)?.remove(&lost.place[..])?;
        write.commit()?;
        Ok(())
    };
    partition.run(lose).unwrap();
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 50)]);
}

#[tokio::test]
async fn old_partitions_are_deleted_whole_and_their_readings_still_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let weeks = PARTITION / model::time::SECOND;
    store.write((0..6).map(|w| block("a", w * weeks, 10)).collect()).await.unwrap();
    let before = (partition_of(START) + 3) * PARTITION;
    assert_eq!(store.expire(before).await.unwrap(), 30);
    assert_eq!(values(&store, "a", TimeRange::ALL).await.len(), 30);
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 60)]);
}

#[tokio::test]
async fn a_file_that_is_no_longer_one_of_the_store_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let meta = dir.path().join("meta.redb");
    let mut bytes = std::fs::read(&meta).unwrap();
    bytes[..16].fill(b'x');
    std::fs::write(&meta, bytes).unwrap();
    let error = EmbeddedStore::open(Config { dir: dir.path().to_owned(), ..Config::default() }, Arc::default());
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("stored data is damaged: ") && error.contains("meta.redb"), "{error}");
}

#[tokio::test]
async fn a_damaged_value_is_named_and_not_returned() {
    let dir = tempfile::tempdir().unwrap();
    let mut block = block("a", 0, 400);
    block.columns.push(Column {
        name: "text".into(),
        present: Vec::new(),
        data: ColumnData::Str((0..400).map(|i| format!("needle-{i}").into()).collect()),
    });
    open(dir.path()).write(vec![block]).await.unwrap();
    let file = std::fs::read_dir(dir.path().join("history")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(9).position(|w| w == b"needle-77").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let store = open(dir.path());
    let metas = store.find(&device("a"), TimeRange::ALL).await.unwrap();
    let error = store.fetch(&device("a"), &metas, None).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged(what) if what.contains(".redb") && what.contains("default/a")),
        "{error}"
    );
}

#[tokio::test]
async fn latest_states_dead_letters_and_retained_messages_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let value =
        LatestValue { name: "t".into(), value: Value::Float(0.1), time: 1, order: 4, seq: Some(2), received: 3 };
    let state = LatestState {
        device: device("zigbee/kitchen"),
        first_seen: 1,
        last_seen: 2,
        readings: 3,
        clock_skew: -4,
        values: vec![value],
    };
    let kept = RetainedMessage {
        tenant: "default".into(),
        topic: "a/b".into(),
        qos: 1,
        payload: vec![1],
        properties: vec![2],
        received: 3,
    };
    {
        let store = open(dir.path());
        Latest::store(&store, vec![state.clone()]).await.unwrap();
        for _ in 0..2 {
            store.put((0..5).map(|offset| letter(offset, "ingest")).collect()).await.unwrap();
        }
        let gone = RetainedMessage { topic: "x".into(), ..kept.clone() };
        let clear = RetainedMessage { payload: vec![], ..gone.clone() };
        store.apply(vec![kept.clone(), gone, clear]).await.unwrap();
        store.mark_replayed("default", "l", 3, "ingest", 99).await.unwrap();
    }
    let store = open(dir.path());
    assert_eq!(Latest::load(&store, None, 100).await.unwrap(), [state]);
    assert_eq!(load_retained(&store).await.unwrap(), [kept]);
    assert_eq!(DeadLetters::count(&store).await.unwrap(), [("default".into(), 5)]);
    let all = store.list("default", None, 2).await.unwrap();
    assert_eq!(all, [letter(0, "ingest"), letter(1, "ingest")]);
    let rest = store.list("default", Some(("l", 1, "ingest")), 10).await.unwrap();
    assert_eq!(rest.iter().map(|l| (l.offset, l.replayed)).collect::<Vec<_>>(), [(2, None), (3, Some(99)), (4, None)]);
    assert_eq!(store.list("other", None, 10).await.unwrap(), []);
    assert_eq!(store.get("default", "l", 4, "ingest").await.unwrap(), Some(letter(4, "ingest")));
}

#[tokio::test]
async fn a_second_process_is_refused_because_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = EmbeddedStore::open(Config { dir: dir.path().to_owned(), ..Config::default() }, Arc::default());
    assert!(error.unwrap_err().to_string().contains("another process"));
}

/// A copy is begun when the history had passed 200 and the sink of the dead letters 5; the sinks
/// and a merge go on before it is written.
#[tokio::test]
async fn a_copy_holds_what_the_cursors_had_passed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let weeks = PARTITION / model::time::SECOND;
    store.write((0..40).map(|i| block("a", i * 10, 10)).chain([block("b", weeks, 10)]).collect()).await.unwrap();
    store.put((0..8).map(|offset| letter(offset, "ingest")).chain([letter(6, "influxdb")]).collect()).await.unwrap();
    Latest::store(&store, vec![state("a", 1)]).await.unwrap();
    let quiet = store.quiet().unwrap();
    assert!(matches!(store.quiet(), Err(StoreError::Busy { .. })), "one copy at a time");
    let held = quiet.hold().unwrap();

    Latest::store(&store, vec![state("a", 2)]).await.unwrap();
    store.put(vec![letter(4, "influxdb")]).await.unwrap();
    store.write(vec![block("a", 400, 10)]).await.unwrap();
    store.done("l", 400);
    assert!(!store.merge().await.unwrap());
    assert_eq!(store.expire(Nanos::MAX).await.unwrap(), 0);
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let letters = [("ingest".to_owned(), 5), ("influxdb".to_owned(), 7)].into();
    held.write_to(&copy, Some(Passed { log: "l", history: 200, letters: &letters })).unwrap();
    drop(held);
    store.merge().await.unwrap();
    assert!(store.find(&device("a"), TimeRange::ALL).await.unwrap().len() < 41, "the original is merged again");

    assert_eq!(verify(&copy), (3, Vec::new()));
    let copied = open(&copy);
    assert_eq!(values(&copied, "a", TimeRange::ALL).await, (0..200).collect::<Vec<_>>());
    assert_eq!(History::count(&copied).await.unwrap(), [("default".into(), 200)]);
    assert_eq!(copied.size_of("default").await.unwrap(), 200 * (32 + 1 + 8), "the bytes of those in the copy");
    assert_eq!(store.size_of("default").await.unwrap(), 420 * (32 + 1 + 8));
    assert_eq!(Latest::load(&copied, None, 100).await.unwrap(), [state("a", 1)]);
    let found = copied.list("default", None, 100).await.unwrap();
    let places: Vec<_> = found.iter().map(|letter| (letter.offset, letter.stage.as_str())).collect();
    let ingest = (0..5).map(|offset| (offset, "ingest"));
    assert_eq!(places, ingest.chain([(6, "influxdb")]).collect::<Vec<_>>());
    assert_eq!(DeadLetters::count(&copied).await.unwrap(), [("default".into(), 6)]);
    let sums = |store: &EmbeddedStore| store.0.letter_sums(super::meta::LETTER_BYTES).unwrap();
    let exact = open(&dir.path().join("exact"));
    exact.put(found).await.unwrap();
    assert_eq!(sums(&copied), sums(&exact), "the bytes of those in the copy");
}
