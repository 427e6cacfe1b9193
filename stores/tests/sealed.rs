//! Encryption at rest of the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::path::Path;

use envelope::Keyring;
use model::{DeviceKey, TimeRange, Value};
use redb::ReadableTable;
use weir_stores::contract::{
    DeadLetters, Deadletter, History, Latest, LatestState, LatestValue, LetterBound, Retained, RetainedMessage,
    StoreError,
};
use weir_stores::embedded::{Config, EmbeddedStore};
use weir_stores::ports::LatestView;
use weir_stores::testing::load_retained;
use weir_stores::{Block, BlockId, Column, ColumnData};

const CANARY: &str = "canary-7f3a";

fn open(dir: &Path, keys: Option<&Keyring>) -> EmbeddedStore {
    let config = Config { dir: dir.join("store"), keys: keys.cloned(), ..Config::default() };
    EmbeddedStore::open(config, std::sync::Arc::default()).unwrap()
}

fn device(tenant: &str) -> DeviceKey {
    DeviceKey::new(tenant, "d1").unwrap()
}

fn block(tenant: &str, at: i64) -> Block {
    let texts = ColumnData::Str(vec![CANARY.into(), CANARY.into()]);
    Block {
        id: BlockId { device: device(tenant), log: "l".into(), first_offset: at.unsigned_abs(), part: 0 },
        times: vec![at, at + 1],
        received: vec![at, at + 1],
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: vec![Column { name: format!("{CANARY}-name").into(), present: Vec::new(), data: texts }],
    }
}

fn letter(tenant: &str, offset: u64) -> Deadletter {
    Deadletter {
        log: "l".into(),
        offset,
        tenant: tenant.into(),
        device: None,
        client: CANARY.into(),
        topic: CANARY.into(),
        payload: CANARY.into(),
        received: 1,
        stage: "ingest".into(),
        reason: CANARY.into(),
        replayed: None,
    }
}

async fn fill(store: &EmbeddedStore, tenant: &str, from: i64) {
    store.write((0..6).map(|n| block(tenant, from + 10 * n)).collect()).await.unwrap();
    let value = LatestValue {
        name: CANARY.into(),
        value: Value::Str(CANARY.into()),
        time: 1,
        order: 1,
        seq: None,
        received: 1,
    };
    let state = LatestState {
        device: device(tenant),
        first_seen: 1,
        last_seen: 2,
        readings: 2,
        clock_skew: 0,
        values: vec![value],
    };
    Latest::store(store, vec![state]).await.unwrap();
    store.put((0..3).map(|n| letter(tenant, from.unsigned_abs() + n)).collect()).await.unwrap();
    let message = RetainedMessage {
        tenant: tenant.into(),
        topic: "t".into(),
        qos: 1,
        payload: CANARY.into(),
        properties: CANARY.into(),
        received: 1,
    };
    store.apply(vec![message]).await.unwrap();
}

async fn rows(store: &EmbeddedStore, tenant: &str) -> usize {
    let device = device(tenant);
    let found = store.find(&device, TimeRange { start: 0, end: 1_000_000 }).await.unwrap();
    let blocks = store.fetch(&device, &found, None).await.unwrap();
    blocks.iter().map(|block| block.times.len()).sum()
}

/// All bytes of a folder.
fn bytes_in(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        all.extend(if path.is_dir() { bytes_in(&path) } else { std::fs::read(path).unwrap() });
    }
    all
}

fn holds(dir: &Path, text: &str) -> bool {
    bytes_in(dir).windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

#[tokio::test]
async fn nothing_of_a_payload_is_readable_in_the_files_and_plain_entries_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), None);
    fill(&store, "old", 0).await;
    drop(store);
    assert!(holds(&dir.path().join("store"), CANARY), "the test can see plain values");
    let store = dir.path().join("store");
    std::fs::rename(&store, dir.path().join("plain")).unwrap();

    let keys = envelope::testing::keyring(dir.path());
    let sealed = open(dir.path(), Some(&keys));
    fill(&sealed, "a", 0).await;
    sealed.done("l", 1_000);
    while sealed.merge().await.unwrap() {}
    assert_eq!(rows(&sealed, "a").await, 12);
    drop(sealed);
    assert!(!holds(&store, CANARY), "a canary is readable");

    // Encryption is turned on: what was there is readable, and merges seal it.
    std::fs::rename(&store, dir.path().join("sealed")).unwrap();
    std::fs::rename(dir.path().join("plain"), &store).unwrap();
    let sealed = open(dir.path(), Some(&keys));
    assert_eq!(rows(&sealed, "old").await, 12);
    assert_eq!(DeadLetters::list(&sealed, "old", None, 10).await.unwrap().len(), 3);
    assert_eq!(load_retained(&sealed).await.unwrap().len(), 1);
    fill(&sealed, "old", 100).await;
    assert_eq!(rows(&sealed, "old").await, 24);
}

#[tokio::test]
async fn a_destroyed_tenant_is_unreadable_its_counts_stay_and_others_are_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let mut store = open(dir.path(), Some(&keys));
    fill(&store, "a", 0).await;
    fill(&store, "b", 0).await;
    let before = (History::count(&store).await.unwrap(), DeadLetters::count(&store).await.unwrap());
    keys.destroy("a").unwrap();
    for keys in [keys, envelope::testing::keyring(dir.path())] {
        drop(store);
        store = open(dir.path(), Some(&keys));
        assert_eq!(rows(&store, "a").await, 0);
        assert_eq!(rows(&store, "b").await, 12);
        assert_eq!(DeadLetters::list(&store, "a", None, 10).await.unwrap().len(), 0);
        assert_eq!(DeadLetters::list(&store, "b", None, 10).await.unwrap().len(), 3);
        assert_eq!(LatestView::get(&store, &[device("a"), device("b")]).await.unwrap().iter().flatten().count(), 1);
        assert_eq!(Latest::load(&store, None, 1).await.unwrap()[0].device, device("b"), "no page is short");
        assert_eq!(load_retained(&store).await.unwrap().len(), 1);
        assert_eq!((History::count(&store).await.unwrap(), DeadLetters::count(&store).await.unwrap()), before);
    }
    let keys = envelope::testing::keyring(dir.path());
    drop(store);
    let store = open(dir.path(), Some(&keys));
    // Contents that still arrive are discarded, and count.
    fill(&store, "a", 200).await;
    assert_eq!(rows(&store, "a").await, 0);
    assert!(keys.status().discarded > 0);
    assert_eq!(History::count(&store).await.unwrap()[0].1, 24);
    store.done("l", 1_000);
    while store.merge().await.unwrap() {}
    assert_eq!(rows(&store, "b").await, 12);
    // Letters that cannot be read are in no one's way.
    let bound = LetterBound { count: 6, bytes: u64::MAX };
    assert_eq!(store.trim(bound).await.unwrap(), 3);
    assert_eq!(DeadLetters::list(&store, "b", None, 10).await.unwrap().len(), 3);
    // A new tenant of the same name.
    keys.allow("a").unwrap();
    fill(&store, "a", 400).await;
    assert_eq!(rows(&store, "a").await, 12);
    // One that had no key to be destroyed.
    assert_eq!(keys.destroy("c").unwrap(), 0);
    fill(&store, "c", 0).await;
    keys.allow("c").unwrap();
    assert_eq!(rows(&store, "c").await, 0);
    fill(&store, "c", 400).await;
    assert_eq!(rows(&store, "c").await, 12);
}

#[tokio::test]
async fn a_flipped_bit_is_damage_and_a_keyring_of_other_data_needs_an_operator() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let store = open(dir.path(), Some(&keys));
    fill(&store, "a", 0).await;
    drop(store);
    let other = tempfile::tempdir().unwrap();
    let others = envelope::testing::keyring(other.path());
    let store = open(dir.path(), Some(&others));
    let error = Latest::load(&store, None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::NeedsOperator(reason) if reason.contains("put the keyring")), "{error}");
    drop(store);
    let store = open(dir.path(), None);
    let error = Latest::load(&store, None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::NeedsOperator(reason) if reason.contains("encryption.key_file")), "{error}");
    drop(store);
    let path = dir.path().join("store/meta.redb");
    let database = redb::Database::create(&path).unwrap();
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("latest");
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(table).unwrap();
        let key = b"a\0d1\0";
        let mut value = table.get(&key[..]).unwrap().unwrap().value().to_vec();
        *value.last_mut().unwrap() ^= 4;
        table.insert(&key[..], &value[..]).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let store = open(dir.path(), Some(&keys));
    let error = Latest::load(&store, None, 10).await.unwrap_err();
    assert!(matches!(&error, StoreError::Damaged(_)), "{error}");
}

#[tokio::test]
async fn the_keys_of_all_new_tenants_of_a_write_are_made_with_one_append() {
    let dir = tempfile::tempdir().unwrap();
    let keys = envelope::testing::keyring(dir.path());
    let store = open(dir.path(), Some(&keys));
    let names = |prefix: &str| (0..50).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    store.write(names("h").iter().map(|tenant| block(tenant, 1)).collect()).await.unwrap();
    assert_eq!(keys.appends(), 1);
    store.put(names("d").iter().map(|tenant| letter(tenant, 1)).collect()).await.unwrap();
    assert_eq!(keys.appends(), 2);
    let state = |tenant: &String| LatestState {
        device: device(tenant),
        first_seen: 1,
        last_seen: 2,
        readings: 2,
        clock_skew: 0,
        values: Vec::new(),
    };
    Latest::store(&store, names("l").iter().map(state).collect()).await.unwrap();
    assert_eq!(keys.appends(), 3);
    let message = |tenant: &String| RetainedMessage {
        tenant: tenant.as_str().into(),
        topic: "t".into(),
        qos: 1,
        payload: b"x".to_vec(),
        properties: Vec::new(),
        received: 1,
    };
    store.apply(names("r").iter().map(message).collect()).await.unwrap();
    assert_eq!((keys.appends(), keys.status().tenants.len()), (4, 200));
}
