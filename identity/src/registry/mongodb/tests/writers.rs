//! Several processes on one database.

use super::*;
use crate::registry::server_contract::{WRITERS, are_read_in_order, do_not_pass_a_limit};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_many_writers_are_read_in_order_and_without_gaps() {
    let at = database().await;
    let mut registries = Vec::new();
    for _ in 0..WRITERS {
        registries.push(connect(&at).await);
    }
    are_read_in_order(&connect(&at).await, registries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_once_do_not_pass_a_limit() {
    let at = database().await;
    let mut registries = Vec::new();
    for _ in 0..WRITERS {
        registries.push(connect(&at).await);
    }
    do_not_pass_a_limit(registries).await;
}

#[tokio::test]
async fn a_control_log_is_trimmed_and_a_reader_that_fell_behind_learns_of_the_gap() {
    let at = database().await;
    let registry = connect(&at).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let database = shared().client().await.database(&at.1);
    let control = database.collection::<Document>("registry_control");
    let entry = |number: i64| {
        let body = format!("{{\"number\":{number},\"tenant\":\"a\",\"kind\":\"tenant_active\"}}");
        doc! { "_id": number, "tenant": "a", "body": body }
    };
    control.insert_many((2..=10_047).map(entry)).await.unwrap();
    let state = database.collection::<Document>("registry_state");
    state.update_one(doc! { "_id": "control" }, doc! { "$set": { "newest": 10_047_i64 } }).await.unwrap();
    // The number that this one has is divisible by 64.
    registry.create_credential(key("a"), &origin()).await.unwrap();
    let changes = async |after| registry.changes(after, 1).await.unwrap();
    assert_eq!(changes(0).await.newest, 10_048);
    assert!(changes(0).await.has_gap && changes(47).await.has_gap);
    let first = changes(48).await;
    assert!(!first.has_gap && first.entries[0].number == 49);
    assert_eq!(control.count_documents(doc! {}).await.unwrap(), 10_000);
}
