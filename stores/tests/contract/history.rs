//! Promises of a history.

use model::{DeviceKey, TimeRange};
use weir_stores::contract::{History, StoreError};
use weir_stores::{Block, Column, ColumnData};

use crate::data::{SECOND, START, any_block, block, device, exact, integers, some};
use crate::world::World;

pub(crate) async fn all(store: &impl History, device: &DeviceKey, range: TimeRange) -> Vec<Block> {
    let metas = store.find(device, range).await.unwrap();
    let blocks = store.fetch(device, &metas, None).await.unwrap();
    for (meta, block) in metas.iter().zip(&blocks) {
        let extent = (meta.first_time, meta.last_time, meta.rows as usize);
        assert_eq!(extent, (block.times[0], block.times[block.times.len() - 1], block.times.len()));
    }
    assert!(metas.is_sorted_by_key(|meta| meta.first_time), "by first time");
    assert_eq!(metas.len(), blocks.len());
    blocks
}

pub(crate) async fn held(store: &impl History) -> Vec<(String, u64)> {
    store.count().await.unwrap().into_iter().map(|(tenant, count)| (tenant.to_string(), count)).collect()
}

fn seconds(from: i64, to: i64) -> TimeRange {
    TimeRange { start: START + from * SECOND, end: START + to * SECOND }
}

pub(crate) async fn any_block_comes_back_as_it_was_written(mut world: impl World) {
    let store = world.open().await;
    let device = device("any/device");
    let mut blocks: Vec<Block> =
        (0..150).flat_map(|offset| some(any_block(device.clone(), 1_000 + offset), 1)).collect();
    store.write(blocks.clone()).await.unwrap();
    store.sync().await.unwrap();
    let mut read = all(store, &device, TimeRange::ALL).await;
    read.sort_by(|a, b| a.id.cmp(&b.id));
    blocks.sort_by(|a, b| a.id.cmp(&b.id));
    for (written, read) in blocks.iter().zip(&read) {
        assert_eq!(exact(written), exact(read));
    }
    assert_eq!(blocks.len(), read.len());
}

pub(crate) async fn writing_again_changes_nothing(mut world: impl World) {
    let store = world.open().await;
    let device = device("a");
    let blocks: Vec<Block> = (0..5).map(|i| block(&device, i * 10, 10)).collect();
    store.write(blocks[..3].to_vec()).await.unwrap();
    store.write(blocks.clone()).await.unwrap();
    store.write(blocks.clone()).await.unwrap();
    store.write(Vec::new()).await.unwrap();
    store.sync().await.unwrap();
    assert_eq!(all(store, &device, TimeRange::ALL).await, blocks);
    assert_eq!(held(store).await, [("default".into(), 50)]);
}

pub(crate) async fn blocks_written_by_many_at_one_time_are_there_once(mut world: impl World) {
    let store = world.open().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let store = store.clone();
        writers.spawn(async move {
            // Each pair of writers writes the same blocks.
            let device = device(&format!("d{}", writer / 2));
            for round in 0..10 {
                store.write((0..5).map(|i| block(&device, (round * 5 + i) * 10, 10)).collect()).await.unwrap();
            }
            store.sync().await.unwrap();
        });
    }
    writers.join_all().await;
    for n in 0..3 {
        let blocks = all(store, &device(&format!("d{n}")), TimeRange::ALL).await;
        let values: Vec<i64> = blocks.iter().flat_map(integers).copied().collect();
        assert_eq!(values, (0..500).collect::<Vec<_>>());
    }
    assert_eq!(held(store).await, [("default".into(), 1_500)]);
}

pub(crate) async fn blocks_are_found_by_device_and_time(mut world: impl World) {
    let store = world.open().await;
    let (one, other) = (device("one"), device("one/more"));
    store.write((0..10).map(|i| block(&one, i * 10, 10)).chain([block(&other, 0, 10)]).collect()).await.unwrap();
    store.sync().await.unwrap();
    let starts = |blocks: Vec<Block>| blocks.iter().map(|b| integers(b)[0]).collect::<Vec<_>>();
    assert_eq!(starts(all(store, &one, seconds(25, 41)).await), [20, 30, 40], "those that touch the range");
    assert_eq!(starts(all(store, &one, seconds(25, 40)).await), [20, 30], "the end is not part of it");
    assert_eq!(starts(all(store, &one, seconds(29, 30)).await), [20], "the start is");
    assert_eq!(starts(all(store, &other, TimeRange::ALL).await), [0]);
    assert_eq!(starts(all(store, &device("unknown"), TimeRange::ALL).await), Vec::<i64>::new());
    assert_eq!(starts(all(store, &one, seconds(1_000, 2_000)).await), Vec::<i64>::new());
}

pub(crate) async fn blocks_that_overlap_are_all_found(mut world: impl World) {
    let store = world.open().await;
    let device = device("late");
    // A long block below many short ones, and one that begins with another.
    let mut long = block(&device, 0, 2);
    long.times[1] = START + 100_000 * SECOND;
    let mut twin = block(&device, 50_000, 10);
    twin.id.first_offset = 7;
    let short = (0..100).map(|i| block(&device, i * 1_000, 10));
    store
        .write(
            short
                .chain([Block { id: weir_stores::BlockId { first_offset: 1, ..long.id.clone() }, ..long }, twin])
                .collect(),
        )
        .await
        .unwrap();
    store.sync().await.unwrap();
    let offsets =
        |blocks: Vec<Block>| blocks.iter().map(|b| b.id.first_offset).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(offsets(all(store, &device, seconds(50_005, 50_006)).await), [1, 7, 50_000].into());
    assert_eq!(offsets(all(store, &device, seconds(50_500, 50_600)).await), [1].into());
    assert_eq!(offsets(all(store, &device, seconds(100_000, 100_001)).await), [1].into());
    assert_eq!(all(store, &device, TimeRange::ALL).await.len(), 102, "none of them twice");
    assert_eq!(all(store, &device, seconds(0, 300)).await.len(), 2);
}

pub(crate) async fn halves_of_a_block_are_blocks_of_their_own(mut world: impl World) {
    let store = world.open().await;
    let device = device("a");
    let whole = block(&device, 0, 10);
    let mut half = block(&device, 0, 5);
    half.id.part = 1;
    store.write(vec![whole]).await.unwrap();
    store.write(vec![half]).await.unwrap();
    store.sync().await.unwrap();
    assert_eq!(all(store, &device, TimeRange::ALL).await.len(), 2);
}

pub(crate) async fn only_named_columns_are_read(mut world: impl World) {
    let store = world.open().await;
    let device = device("a");
    let mut wide = block(&device, 0, 3);
    let texts = ColumnData::Str(vec!["$x".into(), "".into(), "z".into()]);
    let mixed = |data: ColumnData, row| {
        let present = (0..3).map(|r| r == row).collect();
        Column { name: "gps.lat".into(), present, data }
    };
    wide.columns = vec![
        mixed(ColumnData::Float(vec![1.5]), 0),
        mixed(ColumnData::Int(vec![2]), 2),
        Column { name: "text".into(), present: Vec::new(), data: texts },
        wide.columns.remove(0),
    ];
    store.write(vec![wide.clone()]).await.unwrap();
    store.sync().await.unwrap();
    let metas = store.find(&device, TimeRange::ALL).await.unwrap();
    for (names, columns) in [
        (vec!["gps.lat"], 0..2),
        (vec!["text"], 2..3),
        (vec!["text", "v", "none"], 2..4),
        (vec!["gps"], 0..0),
        (vec![], 0..0),
    ] {
        let wanted: Vec<std::sync::Arc<str>> = names.iter().map(|n| (*n).into()).collect();
        let read = store.fetch(&device, &metas, Some(&wanted)).await.unwrap();
        let expected = Block { columns: wide.columns[columns].to_vec(), ..wide.clone() };
        assert_eq!(read, [expected], "{names:?}");
    }
}

pub(crate) async fn tenants_do_not_see_each_other(mut world: impl World) {
    let store = world.open().await;
    let one = DeviceKey::new("one", "d").unwrap();
    let two = DeviceKey::new("one.$two", "d").unwrap();
    store.write(vec![block(&one, 0, 10), block(&two, 0, 20)]).await.unwrap();
    store.sync().await.unwrap();
    assert_eq!(all(store, &one, TimeRange::ALL).await, [block(&one, 0, 10)]);
    assert_eq!(all(store, &two, TimeRange::ALL).await, [block(&two, 0, 20)]);
    assert_eq!(held(store).await, [("one".into(), 10), ("one.$two".into(), 20)]);
}

/// Blocks of six weeks, one each.
async fn weeks(store: &impl History, device: &DeviceKey) -> i64 {
    let week = weir_stores::block::PARTITION / SECOND;
    store.write((0..6).map(|w| block(device, w * week, 10)).collect()).await.unwrap();
    store.sync().await.unwrap();
    store.done("l", u64::MAX);
    week
}

pub(crate) async fn old_readings_are_deleted_and_still_count(mut world: impl World) {
    let store = world.open().await;
    let (one, two) = (device("a"), DeviceKey::new("other.$", "a").unwrap());
    let week = weeks(store, &one).await;
    weeks(store, &two).await;
    let before = START + 3 * week * SECOND;
    assert_eq!(store.expire(before).await.unwrap(), 60);
    assert_eq!(store.expire(before).await.unwrap(), 0);
    let kept: Vec<Block> = (3..6).map(|w| block(&one, w * week, 10)).collect();
    assert_eq!(all(store, &one, TimeRange::ALL).await, kept);
    assert_eq!(held(store).await, [("default".into(), 60), ("other.$".into(), 60)]);
    let store = world.open_again().await;
    assert_eq!(held(store).await, [("default".into(), 60), ("other.$".into(), 60)]);
}

pub(crate) async fn a_block_that_was_deleted_has_moved(mut world: impl World) {
    let store = world.open().await;
    let device = device("a");
    let week = weeks(store, &device).await;
    let metas = store.find(&device, TimeRange::ALL).await.unwrap();
    store.expire(START + week * SECOND).await.unwrap();
    assert!(matches!(store.fetch(&device, &metas, None).await, Err(StoreError::Moved)));
    assert_eq!(store.fetch(&device, &metas[1..], None).await.unwrap().len(), 5);
}

pub(crate) async fn a_block_without_rows_is_refused(mut world: impl World) {
    let store = world.open().await;
    let device = device("a");
    let empty = block(&device, 0, 0);
    assert!(matches!(store.write(vec![empty]).await, Err(StoreError::Refused(why)) if why.contains("default/a")));
}

pub(crate) async fn synced_blocks_are_there_after_opening_again(mut world: impl World) {
    let device = device("a");
    {
        let store = world.open().await;
        store.write(vec![block(&device, 0, 10)]).await.unwrap();
        store.sync().await.unwrap();
    }
    let store = world.open_again().await;
    assert_eq!(all(store, &device, TimeRange::ALL).await, [block(&device, 0, 10)]);
    store.write(vec![block(&device, 0, 10)]).await.unwrap();
    assert_eq!(held(store).await, [("default".into(), 10)]);
}
