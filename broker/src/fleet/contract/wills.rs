//! Will messages: which node publishes them.

use std::time::Duration;

use super::peer::payloads;
use super::{Fixture, PATIENCE, Peer, TENANT, append};
use crate::fleet::{Change, Claimed, DueWill, Owned, Source, StoredWill};

fn will(delay_secs: u32) -> StoredWill {
    StoredWill { delay_secs, body: format!("\0{delay_secs}").into_bytes().into() }
}

/// A client with a will message whose session lasts so many seconds, 0 for one that does not.
async fn with_will(peer: &Peer, id: &str, (lasts, delay): (u32, u32)) -> Owned {
    let Claimed { owned, keeps_will, .. } = peer.claim_with(id, true, 1, Some(&will(delay))).await;
    assert!(keeps_will);
    peer.bus.begin(&owned);
    if lasts > 0 {
        peer.apply(vec![Change::Keep(owned.clone(), lasts)]).await;
    }
    owned
}

/// True when a node is to publish it, which it does now.
async fn begins(peer: &Peer, owned: &Owned) -> bool {
    peer.store.begin_will(owned).await.expect("the store answers")
}

async fn is_kept(peer: &Peer, owned: &Owned) -> bool {
    peer.store.has_will(owned).await.expect("the store answers")
}

/// The next will messages that are due at a node, so many, by client id; it publishes them.
async fn take(peer: &Peer, count: usize) -> Vec<DueWill> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = due(peer, 1).await;
        peer.apply(some.iter().map(|due| Change::WillOver(due.owned.clone())).collect()).await;
        all.extend(some);
    }
    all.sort_by(|a: &DueWill, b| a.owned.client.cmp(&b.owned.client));
    all
}

/// The next will messages that are due at a node, so many, by client id.
async fn due(peer: &Peer, count: usize) -> Vec<DueWill> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = tokio::time::timeout(PATIENCE, peer.bus.wills(0)).await;
        all.extend(some.expect("will messages are due"));
    }
    all.sort_by(|a: &DueWill, b| a.owned.client.cmp(&b.owned.client));
    all
}

/// It is the node's of the connection, however that ends, until it says that it is over, or the
/// client connects elsewhere before.
pub async fn a_will_is_its_nodes_until_it_is_over(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let none = a.claim("none", true, 1).await;
    assert!(!none.keeps_will && none.due_will.is_none() && !begins(&a, &none.owned).await);
    let mut all = Vec::new();
    for (id, lasts) in [("short", (0, 0)), ("lasts", (3600, 0)), ("delayed", (3600, 100)), ("ended", (3600, 100))] {
        all.push(with_will(&a, id, lasts).await);
    }
    let [short, lasts, delayed, ended] = &all[..] else { unreachable!() };
    a.apply(vec![Change::Leave(short.clone()), Change::Leave(delayed.clone()), Change::End(ended.clone())]).await;
    // Its next connection, at the same node or at another one, does not change that.
    let again = a.claim("lasts", false, 2).await;
    assert!(again.due_will.is_none() && again.pending_will.is_none() && again.session.is_some());
    let short_again = b.claim("short", true, 3).await;
    // It waits for it.
    assert_eq!((short_again.due_will, &short_again.pending_will), (None, &Some(short.clone())));
    for owned in &all {
        assert!(is_kept(&b, owned).await && begins(&a, owned).await && !begins(&b, owned).await, "{owned:?}");
    }
    assert!(!begins(&a, &again.owned).await, "it has none");
    // One of another node is not over.
    b.apply(all.iter().map(|owned| Change::WillOver(owned.clone())).collect()).await;
    assert!(begins(&a, lasts).await);
    a.apply(all.iter().map(|owned| Change::WillOver(owned.clone())).collect()).await;
    for owned in &all {
        for peer in [&a, &b] {
            assert!(!is_kept(peer, owned).await && !begins(peer, owned).await, "{owned:?}");
        }
    }
}

/// Not when its session has ended, or its delay is over.
pub async fn a_client_that_is_back_in_time_has_no_will(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    for (id, clean, delay, leaves, is_sent) in [
        ("left", false, 100, true, false),
        ("connected", false, 100, false, false),
        ("anew", true, 100, true, true),
        ("prompt", false, 0, true, true),
    ] {
        for at in [&a, &b] {
            let id = format!("{id} {}", std::ptr::eq(at, &a));
            let owned = with_will(&a, &id, (3600, delay)).await;
            if leaves {
                a.apply(vec![Change::Leave(owned.clone())]).await;
            }
            let claimed = at.claim(&id, clean, 2).await;
            assert_eq!((claimed.due_will, begins(&a, &owned).await), (None, is_sent), "{id}");
            // The client waits for it.
            let is_pending = is_sent && std::ptr::eq(at, &b);
            assert_eq!(claimed.pending_will, is_pending.then_some(owned), "{id}");
        }
    }
    let owned = with_will(&a, "late", (3600, 1)).await;
    a.apply(vec![Change::Leave(owned.clone())]).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(b.claim("late", false, 2).await.due_will.is_none() && begins(&a, &owned).await);
}

/// Its node has it no longer, whether it hands the client over or is paused.
pub async fn a_client_that_connects_elsewhere_brings_its_will(fixture: &dyn Fixture) {
    let b = Peer::start(fixture, "b").await;
    for a in [Peer::start(fixture, "a").await, Peer::stubborn(fixture, "c").await] {
        for (id, clean, delay, is_sent) in
            [("prompt", false, 0, true), ("anew", true, 100, true), ("delayed", false, 100, false)]
        {
            let owned = with_will(&a, id, (3600, delay)).await;
            let claimed = b.claim(id, clean, 2).await;
            let expected = is_sent.then(|| DueWill { owned: owned.clone(), body: will(delay).body });
            assert_eq!((claimed.due_will, claimed.pending_will), (expected, None), "{id}");
            assert_eq!((begins(&a, &owned).await, begins(&b, &owned).await), (false, is_sent), "{id}");
            b.apply(vec![Change::WillOver(owned.clone())]).await;
            assert!(!begins(&b, &owned).await);
        }
    }
}

/// The client waits for it there: it is published once.
pub async fn a_will_that_its_node_publishes_already_stays_with_it(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    for (id, delay) in [("prompt", 0), ("delayed", 100)] {
        let owned = with_will(&a, id, (3600, delay)).await;
        assert!(begins(&a, &owned).await);
        let claimed = b.claim(id, false, 2).await;
        assert_eq!((claimed.due_will, claimed.pending_will), (None, Some(owned.clone())), "{id}");
        a.apply(vec![Change::WillOver(owned.clone())]).await;
        assert!(!is_kept(&b, &owned).await, "{id}");
    }
    // Unless that one dies.
    let owned = with_will(&a, "dead", (3600, 0)).await;
    assert!(begins(&a, &owned).await);
    drop(a);
    fixture.kill("a").await;
    assert_eq!(take(&b, 1).await[0].owned, owned);
}

/// Sessions get it in the step in which it is over, however many nodes publish it.
pub async fn sessions_get_a_will_once(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let taker = a.lasting("taker", 9).await;
    let owned = with_will(&a, "c", (3600, 0)).await;
    let publish = |payload: &str| {
        let Change::Message { tenant, message, takers, .. } = append(&taker, payload) else { unreachable!() };
        vec![Change::Message { tenant, message, takers, source: Some(Source::Will(owned.clone())) }]
    };
    b.apply(publish("not b's")).await;
    b.claim("c", false, 2).await;
    a.apply(publish("no longer a's")).await;
    b.apply(publish("once")).await;
    b.apply(publish("again")).await;
    b.apply(vec![Change::WillOver(owned.clone())]).await;
    a.numbers(&taker, 1).await;
    b.apply(vec![append(&taker, "end")]).await;
    a.numbers(&taker, 2).await;
    assert_eq!(payloads(&a.messages(&taker)), ["once", "end"]);
    assert!(!is_kept(&b, &owned).await);
}

/// So that it is published before what the client sends next.
pub async fn a_client_of_a_dead_node_brings_its_will(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let all = [
        ("prompt", false, (3600, 0), true),
        ("short", false, (0, 100), true),
        ("anew", true, (3600, 100), true),
        ("delayed", false, (3600, 100), false),
        ("left", false, (3600, 100), false),
    ];
    let mut before = Vec::new();
    for (id, _, lasts, _) in all {
        before.push(with_will(&a, id, lasts).await);
    }
    a.apply(vec![Change::Leave(before[4].clone())]).await;
    drop(a);
    fixture.kill("a").await;
    for ((id, clean, (_, delay), is_sent), owned) in all.into_iter().zip(&before) {
        // It has a will message again, which is another one.
        let claimed = b.claim_with(id, clean, 2, Some(&will(7))).await;
        let expected = is_sent.then(|| DueWill { owned: owned.clone(), body: will(delay).body });
        assert_eq!(claimed.due_will, expected, "{id}");
        assert_eq!(begins(&b, owned).await, is_sent, "{id}");
        assert!(claimed.keeps_will && begins(&b, &claimed.owned).await);
        b.apply(vec![Change::WillOver(owned.clone())]).await;
    }
    // None is left for the next start of its node.
    let a = Peer::start(fixture, "a").await;
    let last = with_will(&b, "last", (0, 0)).await;
    drop(b);
    fixture.kill("b").await;
    let mut left = take(&a, 3).await;
    left.retain(|due| due.owned.client.id != last.client.id);
    assert!(left.iter().all(|due| due.body == will(7).body), "{left:?}");
}

/// Each once.
pub async fn wills_of_a_dead_node_are_for_another_one_when_they_are_due(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    for (id, lasts) in [
        ("1 prompt", (3600, 0)),
        ("2 short", (0, 100)),
        ("3 left", (3600, 1)),
        ("4 delayed", (3600, 1)),
        ("5 expires", (1, 100)),
        ("6 waits", (3600, 100)),
        ("7 ended", (3600, 100)),
    ] {
        let owned = with_will(&a, id, lasts).await;
        if id == "3 left" {
            a.apply(vec![Change::Leave(owned)]).await;
        }
    }
    let over = with_will(&a, "over", (0, 0)).await;
    a.apply(vec![Change::WillOver(over)]).await;
    drop(a);
    fixture.kill("a").await;
    // Others wait for the end of the session.
    let first = take(&b, 5).await;
    let ids: Vec<_> = first.iter().map(|due| &due.owned.client.id[..1]).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    let ended = b.store.end_away(&super::client("7 ended")).await.expect("the store answers");
    assert!(ended.is_some());
    assert_eq!(&*take(&b, 1).await[0].owned.client.id, "7 ended");
    // It is back in time.
    assert!(b.continued("6 waits").await.0.epoch > 0);
    b.store.forget(TENANT).await.expect("the store answers");
    let last = with_will(&b, "last", (0, 0)).await;
    drop(b);
    fixture.kill("b").await;
    let c = Peer::start(fixture, "c").await;
    let ids: Vec<_> = take(&c, 1).await.into_iter().map(|due| due.owned).collect();
    assert_eq!(ids, [last]);
}

/// It may have published it.
pub async fn a_will_that_a_dead_node_was_to_publish_is_for_the_next(fixture: &dyn Fixture) {
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    let read = with_will(&a, "read", (0, 0)).await;
    let brought = with_will(&a, "brought", (3600, 0)).await;
    drop(a);
    fixture.kill("a").await;
    assert!(b.claim("brought", false, 2).await.due_will.is_some());
    assert_eq!(due(&b, 1).await[0].owned, read);
    // Its client waits until it is published.
    assert_eq!(b.claim("read", true, 3).await.pending_will, Some(read.clone()));
    let claimed = c.claim("read", true, 4).await;
    assert_eq!(claimed.pending_will, Some(read.clone()));
    c.apply(vec![Change::WillOver(read.clone()), Change::Leave(claimed.owned)]).await;
    assert!(is_kept(&c, &read).await && !begins(&c, &read).await);
    drop(b);
    fixture.kill("b").await;
    let found: Vec<_> = take(&c, 2).await.into_iter().map(|due| due.owned).collect();
    assert_eq!(found, [brought, read]);
}

/// There is an error, and an answer behind it.
pub async fn a_node_learns_nothing_of_wills_while_the_store_is_away(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let owned = with_will(&a, "c", (3600, 100)).await;
    fixture.away(true).await;
    a.store.begin_will(&owned).await.expect_err("it is away");
    fixture.away(false).await;
    while a.store.begin_will(&owned).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
