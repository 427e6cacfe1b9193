//! The content of the documents.

use model::TimeRange;
use mongodb::bson::{Bson, Document, doc};
use weir_stores::contract::{History, TenantData};
use weir_stores::{Block, Column, ColumnData};

use super::{behind, shared_world};
use crate::data::{START, block, device, exact};
use crate::history::all;
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bit_of_a_float_and_every_nanosecond_comes_back() {
    let mut world = shared_world!();
    let store = world.open().await;
    let floats = [f64::NAN, -f64::NAN, f64::from_bits(0x7FF0_0000_0000_0001), f64::INFINITY, -0.0, 5e-324, f64::MAX];
    let rows = floats.len();
    let written = Block {
        times: (0..rows).map(|i| START + i as i64).collect(),
        received: (0..rows).map(|i| i64::MIN + i as i64).collect(),
        columns: vec![
            Column { name: "f".into(), present: Vec::new(), data: ColumnData::Float(floats.to_vec()) },
            Column { name: "none".into(), present: vec![false; rows], data: ColumnData::Bool(Vec::new()) },
            Column { name: "none".into(), present: vec![false; rows], data: ColumnData::Str(Vec::new()) },
        ],
        ..block(&device("a"), 0, rows as i64)
    };
    store.write(vec![written.clone()]).await.unwrap();
    let read = all(store, &device("a"), TimeRange::ALL).await;
    assert_eq!(exact(&read[0]), exact(&written));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_one_document_for_each_reading() {
    let mut world = shared_world!();
    let store = world.open().await;
    let mut shown = block(&device("oven.$1"), 0, 3);
    shown.columns = vec![
        Column { name: "door.open".into(), present: vec![false, true, false], data: ColumnData::Bool(vec![true]) },
        Column { name: "t".into(), present: vec![true, false, false], data: ColumnData::Float(vec![21.5]) },
        Column { name: "t".into(), present: vec![false, false, true], data: ColumnData::Int(vec![22]) },
    ];
    store.write(vec![shown, block(&device("other"), 0, 4)]).await.unwrap();
    let readings = behind(&world.config).await.collection::<Document>("readings");
    let mut cursor = readings.find(doc! { "device": "oven.$1" }).sort(doc! { "time": 1 }).await.unwrap();
    let mut seen = Vec::new();
    while cursor.advance().await.unwrap() {
        seen.push(cursor.deserialize_current().unwrap());
    }
    let values: Vec<&Document> = seen.iter().map(|r| r.get_document("values").unwrap()).collect();
    assert_eq!(values, [&doc! { "t": 21.5 }, &doc! { "door．open": true }, &doc! { "t": 22_i64 }]);
    assert_eq!(seen[1].get_i64("time_ns").unwrap(), START + 1_000_000_000);
    assert_eq!(seen[1].get_datetime("time").unwrap().timestamp_millis(), START / 1_000_000 + 1_000);
    assert_eq!(seen[1].get_datetime("received").unwrap().timestamp_millis(), START / 1_000_000 + 1_005);
    assert_eq!(seen[2].get("sequence"), Some(&Bson::Int64(2)));
    assert_eq!(seen[0].get_str("tenant").unwrap(), "default");
    assert_eq!(readings.count_documents(doc! {}).await.unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_document_is_named() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let device = device("a");
    store.write(vec![block(&device, 0, 10)]).await.unwrap();
    let metas = store.find(&device, TimeRange::ALL).await.unwrap();
    let blocks = behind(&world.config).await.collection::<Document>("blocks");
    for change in [doc! { "$pop": { "v.v": 1 } }, doc! { "$set": { "t.3": "x" } }, doc! { "$unset": { "t0": 1 } }] {
        blocks.update_one(doc! {}, change.clone()).await.unwrap();
        let error = match store.fetch(&device, &metas, None).await {
            Ok(_) => store.find(&device, TimeRange::ALL).await.map(drop),
            Err(error) => Err(error),
        };
        let said = error.unwrap_err().to_string();
        assert!(said.contains("damaged") && said.contains("#a of collection blocks"), "{change}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_count_new_blocks_and_blocks_stored_already() {
    let world = shared_world!();
    let metrics: std::sync::Arc<weir_stores::mongodb::Metrics> = Default::default();
    let store = weir_stores::mongodb::MongoStore::new(world.config.clone(), metrics.clone());
    let blocks: Vec<Block> = (0..2_500).map(|d| block(&device(&format!("d{d}")), 0, 2)).collect();
    store.write(blocks[..2_100].to_vec()).await.unwrap();
    store.write(blocks).await.unwrap();
    assert_eq!((metrics.blocks.get(), metrics.readings.get(), metrics.repeated.get()), (2_500, 5_000, 2_100));
    let inserts = weir_stores::mongodb::CommandLabel { command: "insert" };
    assert_eq!(metrics.commands.get_or_create(&inserts).get(), 4, "two for each write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_between_two_times_are_counted_by_tenant_also_where_a_block_reaches_beyond() {
    let mut world = shared_world!();
    let store = world.open().await;
    let other = model::DeviceKey::new("acme", "a").unwrap();
    let blocks = vec![block(&device("a"), 0, 100), block(&device("b"), 50, 100), block(&other, 90, 20)];
    store.write(blocks).await.unwrap();
    let second = |n: i64| START + n * model::time::SECOND;
    let counts = async |from: i64, to: i64| {
        let mut found = store.count_between(TimeRange { start: second(from), end: second(to) }).await.unwrap().unwrap();
        found.retain(|(_, count)| *count > 0);
        found.sort();
        found.into_iter().map(|(tenant, count)| (tenant.to_string(), count)).collect::<Vec<_>>()
    };
    assert_eq!(counts(0, 1_000).await, [("acme".into(), 20), ("default".into(), 200)]);
    assert_eq!(counts(60, 100).await, [("acme".into(), 10), ("default".into(), 80)]);
    assert_eq!(counts(0, 50).await, [("default".into(), 50)]);
    assert_eq!(counts(150, 1_000).await, []);
}

/// Bytes of all documents of blocks, as the server counts them.
async fn stored(database: &mongodb::Database) -> u64 {
    let pipeline = [doc! { "$group": { "_id": null, "n": { "$sum": { "$bsonSize": "$$ROOT" } } } }];
    let mut cursor = database.collection::<Document>("blocks").aggregate(pipeline).await.unwrap();
    assert!(cursor.advance().await.unwrap());
    let sum = cursor.deserialize_current().unwrap();
    sum.get("n").and_then(|n| n.as_i64().or(n.as_i32().map(Into::into))).unwrap().unsigned_abs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_take_about_the_size_of_their_readings_and_some_hundred_bytes_each() {
    for rows in [1, 10, 60, 600, 4096] {
        let mut world = shared_world!();
        let store = world.open().await;
        let blocks: Vec<Block> = (0..20)
            .map(|n| {
                let mut block = block(&device("pump-7"), n * rows, rows);
                let seconds = n * rows..(n + 1) * rows;
                let column = |name: &str, data| Column { name: name.into(), present: Vec::new(), data };
                let float = |s| 20.0 + (s % 50) as f64 / 10.0;
                block.seqs = Vec::new();
                block.columns = vec![
                    column("count", ColumnData::Int(seconds.clone().collect())),
                    column("open", ColumnData::Bool(seconds.clone().map(|s| s % 7 == 0).collect())),
                    column("state", ColumnData::Str(seconds.clone().map(|_| "running".into()).collect())),
                    column("temperature", ColumnData::Float(seconds.map(float).collect())),
                ];
                block
            })
            .collect();
        store.write(blocks).await.unwrap();
        let size = store.size_of("default").await.unwrap();
        let stored = stored(&behind(&world.config).await).await;
        println!("blocks of {rows} readings: {size} bytes, documents of {stored} ({:.2})", stored as f64 / size as f64);
        assert!(stored <= size + 20 * 400, "{rows} readings: {stored} of {size}");
        assert!(stored >= size / 2, "{rows} readings: {stored} of {size}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_earlier_releases_count_as_readings_of_48_bytes() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    store.write(vec![block(&device("a"), 0, 10), block(&device("b"), 0, 10)]).await.unwrap();
    let blocks = behind(&world.config).await.collection::<Document>("blocks");
    blocks.update_one(doc! { "d": "a" }, doc! { "$unset": { "b": 1 } }).await.unwrap();
    assert_eq!(store.size_of("default").await.unwrap(), 10 * 48 + 10 * (32 + 1 + 8));
    assert_eq!(all(&store, &device("a"), TimeRange::ALL).await.len(), 1);
}

/// For the decision record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures() {
    for rows in [60, 10, 2] {
        let mut world = shared_world!();
        let store = world.open().await;
        let blocks = 1_000_000 / rows;
        for first in (0..blocks).step_by(5_000) {
            let some =
                (first..blocks.min(first + 5_000)).map(|n| block(&device(&format!("d{}", n % 1_000)), n * rows, rows));
            store.write(some.collect()).await.unwrap();
        }
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            let size = store.size_of("default").await.unwrap();
            println!("the count of {size} bytes in {blocks} blocks of {rows} readings: {:?}", begun.elapsed());
        }
    }
}
