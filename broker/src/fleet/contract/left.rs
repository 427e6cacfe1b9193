//! Sessions that were left: whether their clients have connected since.

use std::time::Duration;

use super::{Fixture, Peer, client, until};
use crate::fleet::{Change, LeftSession, Owned};

async fn left(peer: &Peer, owned: &Owned) -> LeftSession {
    peer.store.left_session(owned).await.expect("the store answers")
}

/// Waits until a session is as it is expected to be.
async fn wait_left(peer: &Peer, owned: &Owned, expected: LeftSession) {
    while left(peer, owned).await != expected {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// True when a session waits, and ends after about so many seconds.
fn waits(left: LeftSession, secs: u64) -> bool {
    let LeftSession::Waits(Some(ends)) = left else { return false };
    (secs.saturating_sub(60)..=secs).contains(&ends.as_secs())
}

/// It waits until its client has connected with it, to any node, also to its own; and whether its
/// client is connected by now does not matter.
pub async fn a_session_that_was_left_waits_for_its_client(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let first = a.lasting("c", 1).await;
    // The end of its connection may be on its way.
    assert!(waits(left(&a, &first).await, 3600));
    a.apply(vec![Change::Leave(first.clone())]).await;
    for peer in [&a, &b] {
        assert!(waits(left(peer, &first).await, 3600));
    }
    let (second, _) = b.continued("c").await;
    for peer in [&a, &b] {
        assert_eq!(left(peer, &first).await, LeftSession::Continued);
    }
    b.apply(vec![Change::Leave(second.clone())]).await;
    assert_eq!(left(&a, &first).await, LeftSession::Continued, "also when it has left again");
    assert!(waits(left(&a, &second).await, 3600));
    // A connection takes over from another one of the same node.
    let (third, _) = b.continued("c").await;
    let (fourth, _) = b.continued("c").await;
    for before in [&first, &second, &third] {
        assert_eq!(left(&b, before).await, LeftSession::Continued);
    }
    b.apply(vec![Change::Keep(fourth.clone(), u32::MAX), Change::Leave(fourth.clone())]).await;
    assert_eq!(left(&a, &fourth).await, LeftSession::Waits(None), "it does not end");
}

/// It may end in any way, with or without another one in its place.
pub async fn a_session_that_was_left_ends(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let short = a.claim("short", true, 1).await.owned;
    assert_eq!(left(&a, &short).await, LeftSession::Ended, "it does not last");
    a.apply(vec![Change::Leave(short.clone())]).await;
    assert_eq!(left(&b, &short).await, LeftSession::Ended);
    let ended = a.lasting("ended", 2).await;
    a.apply(vec![Change::End(ended.clone())]).await;
    assert_eq!(left(&b, &ended).await, LeftSession::Ended);
    let expired = a.lasting("expired", 3).await;
    a.apply(vec![Change::Keep(expired.clone(), 1), Change::Leave(expired.clone())]).await;
    wait_left(&b, &expired, LeftSession::Ended).await;
    let kicked = a.lasting("kicked", 4).await;
    a.apply(vec![Change::Leave(kicked.clone())]).await;
    assert!(b.store.end_away(&client("kicked")).await.expect("the store answers").is_some());
    assert_eq!(left(&a, &kicked).await, LeftSession::Ended);
    let replaced = a.lasting("replaced", 5).await;
    a.apply(vec![Change::Leave(replaced.clone())]).await;
    let next = b.claim("replaced", true, 6).await.owned;
    assert_eq!(left(&a, &replaced).await, LeftSession::Replaced);
    b.apply(vec![Change::Leave(next)]).await;
    assert_eq!(left(&a, &replaced).await, LeftSession::Ended, "nothing is known of the next one");
}

/// The death of its node is no connection of its client, and the next start of that node finds it.
pub async fn a_session_that_was_left_by_a_dead_node_waits_for_its_client(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let waiting = a.lasting("waits", 1).await;
    let continued = a.lasting("back", 2).await;
    let short = a.claim("short", true, 3).await.owned;
    drop(a);
    fixture.kill("a").await;
    b.continued("back").await;
    let a = Peer::start(fixture, "a").await;
    wait_left(&a, &short, LeftSession::Ended).await;
    assert_eq!(left(&a, &continued).await, LeftSession::Continued);
    for peer in [&a, &b] {
        assert!(waits(left(peer, &waiting).await, 3600));
    }
    until(true, || !b.table().nodes.is_empty()).await;
    a.continued("waits").await;
    assert_eq!(left(&b, &waiting).await, LeftSession::Continued);
}

/// There is an error while the store is away, and an answer behind it.
pub async fn a_session_that_was_left_is_not_known_while_the_store_is_away(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let owned = a.lasting("c", 1).await;
    a.apply(vec![Change::Leave(owned.clone())]).await;
    fixture.away(true).await;
    a.store.left_session(&owned).await.expect_err("it is away");
    fixture.away(false).await;
    while a.store.left_session(&owned).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(waits(left(&a, &owned).await, 3600));
}
