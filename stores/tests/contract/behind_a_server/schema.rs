//! A schema that changed underneath: found at the connect, at a check and by the answers of the
//! server, and made again.

use model::TimeRange;
use mongodb::bson::{Document, doc};
use weir_stores::contract::{History, Store, TenantData};
use weir_stores::mongodb::MongoStore;

use super::{behind, shared_world};
use crate::data::{block, device};
use crate::world::{Mongo, World, connected};

async fn indexes(world: &Mongo, collection: &str) -> Vec<String> {
    let mut names =
        behind(&world.config).await.collection::<Document>(collection).list_index_names().await.unwrap_or_default();
    names.sort();
    names
}

const OF_BLOCKS: [&str; 3] = ["_id_", "by_device_time_and_size", "long_blocks"];

async fn drop_indexes(world: &Mongo, collection: &str) {
    behind(&world.config).await.collection::<Document>(collection).drop_indexes().await.unwrap();
    assert_eq!(indexes(world, collection).await, ["_id_"]);
}

async fn ids(store: &MongoStore) -> Vec<(String, String)> {
    let parts = store.parts().await.unwrap();
    parts.into_iter().map(|part| (part.name, part.id.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_dropped_is_made_again_by_the_query_or_the_count_that_needs_it() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    drop_indexes(&world, "blocks").await;
    assert_eq!(store.find(&device("a"), TimeRange::ALL).await.unwrap().len(), 1);
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    drop_indexes(&world, "blocks").await;
    assert_eq!(History::count(&store).await.unwrap(), [("default".into(), 10)]);
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    drop_indexes(&world, "blocks").await;
    assert_eq!(store.count_between(TimeRange::ALL).await.unwrap().unwrap(), [("default".into(), 10)]);
    drop_indexes(&world, "blocks").await;
    store.expire(0).await.unwrap();
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    drop_indexes(&world, "blocks").await;
    assert_eq!(store.size_of("default").await.unwrap(), 10 * (32 + 1 + 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_and_a_check_look_at_the_schema_and_not_only_at_its_version() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let database = behind(&world.config).await;
    for collection in ["blocks", "dead_letters"] {
        drop_indexes(&world, collection).await;
    }
    store.ready().await.unwrap();
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    assert_eq!(indexes(&world, "dead_letters").await, ["_id_", "by_tenant"]);
    drop_indexes(&world, "blocks").await;
    database.collection::<Document>("readings").drop().await.unwrap();
    connected(&world.config).await;
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    assert!(database.list_collection_names().await.unwrap().contains(&"readings".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_was_dropped_is_another_part_whether_weir_or_the_server_made_it_again() {
    let mut world = shared_world!();
    let store = world.open().await.clone();
    let database = behind(&world.config).await;
    let before = ids(&store).await;
    assert_eq!(before.len(), 5, "{before:?}");
    store.ready().await.unwrap();
    assert_eq!(ids(&store).await, before, "a check changes nothing");
    database.collection::<Document>("blocks").drop().await.unwrap();
    // The server makes a collection for the first document, without indexes.
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    database.collection::<Document>("devices").drop().await.unwrap();
    store.ready().await.unwrap();
    let after = ids(&store).await;
    let changed = before.iter().filter(|part| !after.contains(part)).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!(changed, ["collection `blocks`", "collection `devices`"]);
    assert_eq!(after.len(), 5, "{after:?}");
    assert_eq!(indexes(&world, "blocks").await, OF_BLOCKS);
    assert_eq!(store.find(&device("a"), TimeRange::ALL).await.unwrap().len(), 1);
    database.drop().await.unwrap();
    store.ready().await.unwrap();
    assert!(ids(&store).await.iter().all(|part| !after.contains(part)), "a database that was dropped");
    let schema = database.collection::<Document>("schema").find_one(doc! { "_id": "weir" }).await.unwrap();
    assert!(schema.is_some(), "the version is noted again");
}
