//! Several processes on one database.

use super::*;
use crate::registry::server_contract::{WRITERS, are_read_in_order, do_not_pass_a_limit};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_many_writers_are_read_in_order_and_without_gaps() {
    let (_, url) = database().await;
    let mut registries = Vec::new();
    for _ in 0..WRITERS {
        registries.push(connect(&url).await);
    }
    are_read_in_order(&connect(&url).await, registries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_once_do_not_pass_a_limit() {
    let (_, url) = database().await;
    let mut registries = Vec::new();
    for _ in 0..WRITERS {
        registries.push(connect(&url).await);
    }
    do_not_pass_a_limit(registries).await;
}

#[tokio::test]
async fn a_control_log_is_trimmed_and_a_reader_that_fell_behind_learns_of_the_gap() {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let superuser = shared().superuser(&name).await;
    let fill = "INSERT INTO weir.control SELECT n, 'a', jsonb_build_object('number', n, 'tenant', 'a', 'kind', \
                'tenant_active') FROM generate_series(2, 10047) n; UPDATE weir.control_head SET newest = 10047";
    superuser.batch_execute(fill).await.unwrap();
    // The number that this one has is divisible by 64.
    registry.create_credential(key("a"), &origin()).await.unwrap();
    let changes = async |after| registry.changes(after, 1).await.unwrap();
    assert_eq!(changes(0).await.newest, 10_048);
    assert!(changes(0).await.has_gap && changes(47).await.has_gap);
    let first = changes(48).await;
    assert!(!first.has_gap && first.entries[0].number == 49);
    let kept: i64 = superuser.query_one("SELECT count(*) FROM weir.control", &[]).await.unwrap().get(0);
    assert_eq!(kept, 10_000);
}
