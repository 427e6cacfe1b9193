use std::sync::Arc;

use model::{DeviceKey, Nanos, TimeRange, Value};

use super::*;
use crate::block::{Block, BlockId, Column, ColumnData, PARTITION, partition_of};
use crate::contract::{DeadLetters, Deadletter, History, Latest, LatestState, LatestValue, Retained, RetainedMessage};

const START: Nanos = 1_700_000_000 * model::time::SECOND;

fn open(dir: &std::path::Path) -> EmbeddedStore {
    let config = Config { dir: dir.to_owned(), max_open_partitions: 2, ..Config::default() };
    EmbeddedStore::open(config, Arc::default()).unwrap()
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
    let letter = |offset: u64| Deadletter {
        log: "l".into(),
        offset,
        tenant: "default".into(),
        device: Some("d".into()),
        client: "c".into(),
        topic: "t".into(),
        payload: vec![0, 255],
        received: 7,
        stage: "ingest".into(),
        reason: "no JSON".into(),
        replayed: None,
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
            store.put((0..5).map(letter).collect()).await.unwrap();
        }
        let gone = RetainedMessage { topic: "x".into(), ..kept.clone() };
        let clear = RetainedMessage { payload: vec![], ..gone.clone() };
        store.apply(vec![kept.clone(), gone, clear]).await.unwrap();
        store.mark_replayed("default", "l", 3, "ingest", 99).await.unwrap();
    }
    let store = open(dir.path());
    assert_eq!(Latest::load(&store).await.unwrap(), [state]);
    assert_eq!(Retained::load(&store).await.unwrap(), [kept]);
    assert_eq!(DeadLetters::count(&store).await.unwrap(), [("default".into(), 5)]);
    let all = store.list("default", None, 2).await.unwrap();
    assert_eq!(all, [letter(0), letter(1)]);
    let rest = store.list("default", Some(("l", 1, "ingest")), 10).await.unwrap();
    assert_eq!(rest.iter().map(|l| (l.offset, l.replayed)).collect::<Vec<_>>(), [(2, None), (3, Some(99)), (4, None)]);
    assert_eq!(store.list("other", None, 10).await.unwrap(), []);
    assert_eq!(store.get("default", "l", 4, "ingest").await.unwrap(), Some(letter(4)));
}

#[tokio::test]
async fn a_second_process_is_refused_because_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = EmbeddedStore::open(Config { dir: dir.path().to_owned(), ..Config::default() }, Arc::default());
    assert!(error.unwrap_err().to_string().contains("another process"));
}
