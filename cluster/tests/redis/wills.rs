//! Will messages: their bounds, many of them, and the orderly end of a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use broker::fleet::{Bus, Change, Claimed, DueWill, Owned, SessionStore, StoredWill};
use weir_cluster::sessions::Config;

use crate::node::{Node, client, quick, until};
use crate::server::Server;

/// A client with a will message of so many bytes, in a session that lasts.
async fn with_will(node: &Node, id: &str, delay_secs: u32, bytes: usize) -> (Owned, bool) {
    let will = StoredWill { delay_secs, body: vec![7; bytes].into() };
    let claimed = node.fleet.claim(&client(id), true, 1, Some(&will)).await.unwrap();
    let Claimed { owned, keeps_will, .. } = claimed;
    node.fleet.begin(&owned);
    node.apply(vec![Change::Keep(owned.clone(), 3600)]).await;
    (owned, keeps_will)
}

/// Publishes will messages that are due until there were so many; returns their client ids.
async fn publish(node: &Node, count: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let due: Vec<DueWill> = node.fleet.wills(0).await;
        for due in &due {
            assert!(seen.insert(due.owned.client.id.to_string()), "{} comes once", due.owned.client.id);
        }
        node.apply(due.into_iter().map(|due| Change::WillOver(due.owned)).collect()).await;
    }
    seen
}

/// Waits until nothing of a will message is left on the server.
async fn nothing_is_left(server: &Server) {
    until(0, || ["wm:", "wn:", "wc", "wills"].map(|part| server.keys(part)).iter().sum::<usize>()).await;
    assert_eq!(server.stored_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn will_messages_beyond_the_bytes_are_not_kept_and_all_leave_nothing() {
    let Some(server) = Server::start(&[]) else { return };
    let config = Config { max_stored_bytes: 10_000, ..quick() };
    let (a, b) = (server.node("a", config.clone()).await, server.node("b", config).await);
    let mut kept = Vec::new();
    for n in 0..10 {
        let (owned, is_kept) = with_will(&a, &n.to_string(), 0, 2_000).await;
        if is_kept {
            kept.push(owned);
        }
    }
    assert_eq!(kept.len(), 4, "2,000 bytes each and 128 besides");
    a.apply(vec![Change::WillOver(kept[0].clone())]).await;
    assert!(with_will(&a, "next", 100, 2_000).await.1, "there is room again");
    // Back in time, published by another node, and over at its own one.
    let claimed = b.claim("next", false, 2).await;
    assert!(claimed.due_will.is_none() && claimed.session.is_some());
    let due = b.claim("1", false, 2).await.due_will.unwrap();
    b.apply(vec![Change::WillOver(due.owned)]).await;
    a.apply(kept.iter().map(|owned| Change::WillOver(owned.clone())).collect()).await;
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_order_leaves_its_will_messages() {
    let Some(server) = Server::start(&[]) else { return };
    let (a, b) = (server.node("a", quick()).await, server.node("b", quick()).await);
    let (pending, _) = with_will(&a, "pending", 1, 10).await;
    let (waits, _) = with_will(&a, "waits", 100, 10).await;
    a.apply(vec![Change::Leave(pending), Change::Leave(waits.clone())]).await;
    a.fleet.close().await.unwrap();
    assert_eq!(publish(&b, 1).await, BTreeSet::from(["pending".to_owned()]));
    assert!(b.fleet.has_will(&waits).await.unwrap() && !b.fleet.begin_will(&waits).await.unwrap());
    b.fleet.forget("t").await.unwrap();
    nothing_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_will_messages_of_a_dead_node_are_read_piece_by_piece_and_once() {
    const ALL: usize = 10_000;
    let Some(server) = Server::start(&[]) else { return };
    let config = || Config { lease: Duration::from_secs(20), claim: Duration::from_secs(20), ..Config::default() };
    let (a, b) = (server.node("a", config()).await, server.node("b", config()).await);
    let begun = (Instant::now(), server.processor());
    for n in 0..ALL {
        let will = StoredWill { delay_secs: 0, body: vec![7; 100].into() };
        assert!(a.fleet.claim(&client(&n.to_string()), true, 1, Some(&will)).await.unwrap().keeps_will);
    }
    let claimed = (begun.0.elapsed(), server.processor() - begun.1);
    a.fleet.close().await.unwrap();
    let begun = (Instant::now(), server.processor());
    let seen = publish(&b, ALL).await;
    assert_eq!(seen.len(), ALL);
    println!(
        "{ALL} claims with a will message in {:?} ({:.1} us of redis each), read and over in {:?} ({:.1} us each)",
        claimed.0,
        claimed.1 * 1e6 / ALL as f64,
        begun.0.elapsed(),
        (server.processor() - begun.1) * 1e6 / ALL as f64,
    );
    nothing_is_left(&server).await;
}
