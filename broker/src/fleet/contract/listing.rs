//! Lists of the sessions in the store, for operators.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::{Fixture, PATIENCE, Peer, TENANT, append, client, options, until};
use crate::fleet::{Change, Client, EndedAway, SessionStore, StoredSummary, Taking};

async fn page(store: &dyn SessionStore, from: Bound<&str>, most: usize) -> Vec<Arc<str>> {
    store.clients(TENANT, from, most).await.expect("the store answers")
}

async fn summary(store: &dyn SessionStore, id: &str) -> Option<StoredSummary> {
    let mut found = store.summaries(TENANT, &[id.into()]).await.expect("the store answers");
    assert!(found.len() < 2);
    found.pop()
}

/// A list continues behind each client, and has no client of another tenant.
pub async fn clients_are_listed_in_their_order(fixture: &dyn Fixture) {
    const IDS: [&str; 7] = ["-", "A", "a", "a\u{1}", "a/b", "b*", "\u{e9}"];
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    for (n, id) in (1..).zip(["b*", "a/b", "\u{e9}", "A", "a\u{1}", "-", "a"]) {
        let peer = [&a, &b][n % 2];
        peer.claim(id, true, n as u64).await;
    }
    for tenant in ["", "s", "tt", "u"] {
        let other = Client { tenant: tenant.into(), id: "other".into() };
        a.store.claim(&other, true, 100, None).await.expect("the store answers");
    }
    for most in [1, 2, 3, 100] {
        let (mut all, mut last) = (Vec::new(), None);
        loop {
            let found = page(&*b.store, last.as_deref().map_or(Bound::Unbounded, Bound::Excluded), most).await;
            assert!(found.len() <= most);
            let Some(end) = found.last() else { break };
            last = Some(end.to_string());
            all.extend(found);
        }
        assert_eq!(all.iter().map(|id| &**id).collect::<Vec<_>>(), IDS, "{most} at a time");
    }
    assert_eq!(page(&*a.store, Bound::Included("a"), 2).await, ["a".into(), "a\u{1}".into()]);
    assert_eq!(page(&*a.store, Bound::Included("a\u{0}"), 1).await, ["a\u{1}".into()]);
    assert_eq!(a.store.clients("no tenant", Bound::Unbounded, 9).await, Ok(Vec::new()));
}

/// Each node sees the same of a session, whichever has it, also when its client is away or its node
/// is dead.
pub async fn sessions_are_shown_as_the_store_has_them(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.claim("short", true, 2).await;
    let subscribe = |filter: &str| Change::Subscribe(owned.clone(), filter.to_owned(), options(1));
    a.apply(vec![subscribe("x/#"), subscribe("$share/g/y"), Change::Receipt(owned.clone(), 7)]).await;
    b.apply((0..3).map(|n| append(&owned, n)).collect()).await;
    let connected = StoredSummary {
        client: "c".into(),
        node: Some("a".into()),
        is_connected: true,
        expiry_secs: 3600,
        expires_in: None,
        messages: 3,
        receipts: 1,
        subscriptions: 2,
    };
    assert_eq!(summary(&*b.store, "c").await.as_ref(), Some(&connected));
    let three = ["c", "none", "short"].map(Arc::from);
    assert_eq!(a.store.summaries(TENANT, &three).await, Ok(vec![connected.clone()]), "of those that last only");

    a.apply(vec![Change::Leave(owned.clone())]).await;
    let mut away = summary(&*b.store, "c").await.expect("it waits for its client");
    let left = away.expires_in.take().expect("it ends");
    assert!((3000..=3600).contains(&left.as_secs()), "{left:?}");
    assert_eq!(away, StoredSummary { is_connected: false, ..connected.clone() });

    let (owned, _) = b.continued("c").await;
    let moved = StoredSummary { node: Some("b".into()), ..connected };
    assert_eq!(summary(&*a.store, "c").await, Some(moved));
    fixture.kill("b").await;
    // The others find it dead in their time.
    until_not_connected(&a, "c").await;
    a.claim("c", true, 9).await;
    assert_eq!(summary(&*a.store, "c").await, None, "the new session of {owned:?} does not last");
}

async fn until_not_connected(peer: &Peer, id: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while summary(&*peer.store, id).await.is_none_or(|of| of.is_connected) {
        assert!(tokio::time::Instant::now() < deadline, "{id} stays connected to a dead node");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session that has ended is not shown, whether or not its end was noticed.
pub async fn sessions_that_have_ended_are_not_shown(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.apply(vec![Change::Keep(owned.clone(), 1), Change::Leave(owned)]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Some(of) = summary(&*b.store, "c").await {
        assert!(!of.is_connected && of.expires_in.is_some_and(|left| left <= Duration::from_secs(1)));
        assert!(tokio::time::Instant::now() < deadline, "{of:?} does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let owned = a.lasting("d", 2).await;
    a.apply(vec![Change::End(owned)]).await;
    assert_eq!(summary(&*b.store, "d").await, None);
}

/// Any node ends the session of a client that is away, and none that of one that is connected.
pub async fn a_session_that_is_away_is_ended_by_any_node(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.apply(vec![Change::Subscribe(owned.clone(), "x".into(), options(1)), append(&owned, 1)]).await;
    let end = async |peer: &Peer, id: &str| peer.store.end_away(&client(id)).await.expect("the store answers");
    assert_eq!(end(&b, "c").await, None, "it is connected");
    assert_eq!(end(&a, "c").await, None, "also to the node that is asked");
    assert_eq!(end(&b, "none").await, None);
    a.apply(vec![Change::Leave(owned.clone())]).await;
    b.apply(vec![append(&owned, 2)]).await;
    assert_eq!(end(&b, "c").await, Some(EndedAway { node: Some("a".into()), messages: 2 }));
    assert_eq!((end(&b, "c").await, summary(&*a.store, "c").await), (None, None));
    until(vec![(owned.clone(), Taking::Ended)], || a.taken()).await;
    until(true, || b.table().sessions.is_empty() && a.table().sessions.is_empty()).await;
    assert_eq!(b.claim("c", false, 2).await.session, None, "it does not continue");
    assert_eq!(page(&*a.store, Bound::Unbounded, 9).await, ["c".into()]);
}
