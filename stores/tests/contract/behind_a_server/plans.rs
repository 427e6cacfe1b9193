//! The work of the server for a request, read from its profiler.

use model::TimeRange;
use mongodb::bson::{Document, doc};
use weir_stores::contract::{History, LatestView, TenantData};

use super::{behind, own_server};
use crate::data::{SECOND, START, block, device};
use crate::server::Kind;
use crate::world::{config, connected};

/// Returns the keys and documents that the server has read since profiling began.
async fn examined(database: &mongodb::Database, collection: &str) -> Vec<(String, i64, i64)> {
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    let filter = doc! { "ns": format!("{}.{collection}", database.name()) };
    let profile = database.collection::<Document>("system.profile");
    let mut cursor = profile.find(filter).sort(doc! { "ts": 1 }).await.unwrap();
    let mut all = Vec::new();
    while cursor.advance().await.unwrap() {
        let entry = cursor.deserialize_current().unwrap();
        let number =
            |key: &str| entry.get(key).and_then(|v| v.as_i64().or(v.as_i32().map(Into::into))).unwrap_or_default();
        let plan = entry.get_str("planSummary").unwrap_or_default().to_owned();
        all.push((plan, number("keysExamined"), number("docsExamined")));
    }
    profile.drop().await.unwrap();
    all
}

async fn note(database: &mongodb::Database) {
    database.run_command(doc! { "profile": 2 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_reads_only_the_keys_and_documents_that_it_needs() {
    // The profiler cannot be used while other tests run transactions in other databases: the test
    // has a server of its own.
    let server = own_server!(Kind::ReplicaSet);
    let config = config(&server);
    let store = connected(&config).await;
    let database = behind(&config).await;
    // Two days of a device with a block every quarter of a minute, and other devices.
    let one = device("one");
    let mut blocks: Vec<_> = (0..11_520).map(|i| block(&one, i * 15, 2)).collect();
    blocks.extend((0..3_000).map(|i| block(&device(&format!("d{:02}", i % 60)), i * 15, 2)));
    let mut long = block(&one, 1, 2);
    long.times[1] += 50_000 * SECOND;
    blocks.push(long);
    store.write(blocks).await.unwrap();

    note(&database).await;
    let recent = TimeRange { start: START + 172_000 * SECOND, end: START + 172_060 * SECOND };
    assert_eq!(store.find(&one, recent).await.unwrap().len(), 4);
    let looked: i64 = examined(&database, "blocks").await.iter().map(|(_, keys, documents)| keys + documents).sum();
    assert!(looked < 200, "{looked} keys and documents for 4 blocks");

    note(&database).await;
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 29_042)]);
    let counted = examined(&database, "blocks").await;
    assert!(counted.iter().all(|(plan, _, documents)| plan.starts_with("IXSCAN") && *documents == 0), "{counted:?}");

    note(&database).await;
    assert_eq!(store.size_of("default").await.unwrap(), 29_042 * (32 + 1 + 8));
    let counted = examined(&database, "blocks").await;
    assert!(counted.iter().all(|(plan, _, documents)| plan.starts_with("IXSCAN") && *documents == 0), "{counted:?}");

    note(&database).await;
    store.expire(START).await.unwrap();
    let looked: i64 = examined(&database, "blocks").await.iter().map(|(_, keys, documents)| keys + documents).sum();
    assert!(looked < 1_000, "{looked} keys and documents to see that nothing of 61 devices is old");

    note(&database).await;
    assert_eq!(store.list("default", Some("d10"), 5).await.unwrap(), []);
    let listed = examined(&database, "devices").await;
    assert!(listed.iter().all(|(plan, _, _)| plan.starts_with("IXSCAN")), "{listed:?}");

    note(&database).await;
    let readings = database.collection::<Document>("readings");
    let some = doc! { "tenant": "default", "device": "d07", "t0": { "$gte": START + 100 * SECOND } };
    assert!(readings.find_one(some).await.unwrap().is_some());
    let viewed = examined(&database, "readings").await;
    assert!(viewed.iter().all(|(plan, keys, _)| plan.starts_with("IXSCAN") && *keys < 100), "{viewed:?}");
    assert_eq!(viewed.len(), 1);
}
