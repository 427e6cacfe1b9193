//! Nodes that die, sessions that expire, a store that is away, tenants that are forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use super::peer::{numbers, payloads};
use super::{Fixture, PATIENCE, Peer, TENANT, append, client, options, until};
use crate::fleet::{Change, Client, Interest, Node, Owned, Taking};

/// The sessions of a node's clients are claimed by others.
pub async fn the_death_of_a_node_ends_its_interests_and_none_of_its_sessions(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let lasting = a.lasting("lasting", 1).await;
    let short = a.lasting("short", 2).await;
    let away = a.lasting("away", 3).await;
    let gone = a.claim("gone", true, 4).await.owned;
    a.apply(vec![
        Change::Keep(short.clone(), 1),
        Change::Subscribe(short, "$share/g/x".into(), options(1)),
        Change::Subscribe(lasting.clone(), "$share/g/x".into(), options(1)),
        Change::Interest(TENANT.into(), "x".into(), Some(Interest::All)),
        append(&lasting, 1),
        Change::Leave(away.clone()),
    ])
    .await;
    b.apply(vec![append(&lasting, 2), append(&away, 3)]).await;
    until((1, 2), || (b.table().interests.len(), b.table().sessions.len())).await;
    drop(a);
    fixture.kill("a").await;
    let empty = BTreeSet::<Node>::new();
    until((0, empty), || (b.table().interests.len(), b.table().nodes)).await;
    // It is not connected, and does not last without a connection for more than a second.
    let shares = || b.table().of().into_iter().map(|(id, _, _, on)| (id.to_owned(), on)).collect::<Vec<_>>();
    until(vec![("lasting".to_owned(), false)], shares).await;
    assert_eq!(b.claim("short", false, 5).await.session, None);
    b.apply(vec![append(&lasting, 4)]).await;
    for (id, of, left) in [("lasting", &lasting, vec!["1", "2", "4"]), ("away", &away, vec!["3"])] {
        let claimed = b.claim(id, false, 6).await;
        assert!(!claimed.taken_over && claimed.owned.session == of.session, "{id}");
        assert_eq!(payloads(&claimed.session.expect("it continues").messages), left, "{id}");
    }
    let claimed = b.claim("gone", false, 7).await;
    assert!(!claimed.taken_over && claimed.session.is_none() && claimed.owned.epoch > gone.epoch);
    let again = Peer::start(fixture, "a").await;
    until([Node::from("a")].into(), || b.table().nodes).await;
    assert_eq!(again.continued("lasting").await.0.session, 1);
}

/// A session ends when its client has been away for too long.
pub async fn sessions_expire_and_not_while_their_clients_are_connected(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let mut all = Vec::new();
    for (n, id) in ["expires", "stays", "returns", "longer"].into_iter().enumerate() {
        let owned = a.lasting(id, n as u64 + 1).await;
        a.apply(vec![
            Change::Keep(owned.clone(), 2),
            Change::Subscribe(owned.clone(), "x".into(), options(1)),
            append(&owned, 1),
        ])
        .await;
        all.push(owned);
    }
    let [expires, _, returns, longer]: [Owned; 4] = all.try_into().expect("there are four");
    a.apply(vec![Change::Leave(returns), Change::Keep(longer.clone(), 3600), Change::Leave(longer)]).await;
    b.continued("returns").await;
    a.apply(vec![Change::Leave(expires.clone())]).await;
    let left = |peer: &Peer| peer.table().of().into_iter().map(|(id, ..)| id.to_owned()).collect::<Vec<_>>();
    for peer in [&a, &b] {
        until(["longer", "returns", "stays"].map(String::from).to_vec(), || left(peer)).await;
    }
    until(true, || a.taken().contains(&(expires.clone(), Taking::Ended))).await;
    a.apply(vec![append(&expires, 2)]).await;
    assert_eq!(b.claim("expires", false, 9).await.session, None);
    for id in ["longer", "returns", "stays"] {
        assert_eq!(numbers(&b.continued(id).await.1.messages), [1], "{id}");
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Tickets grow, become durable in their order, and wake.
pub async fn tickets_become_durable_in_order(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let owned = a.lasting("c", 1).await;
    fixture.away(true).await;
    let counts: Vec<Arc<Count>> = (0..10).map(|_| Arc::default()).collect();
    let mut tickets = Vec::new();
    for (n, count) in counts.iter().enumerate() {
        tickets.push(a.store.submit(vec![append(&owned, n)]));
        a.store.wake(tickets[n], &Waker::from(Arc::clone(count)));
    }
    assert!(tickets.is_sorted_by(|one, next| one < next));
    assert!(tickets.iter().all(|ticket| !a.store.is_durable(*ticket)));
    fixture.away(false).await;
    for (ticket, count) in tickets.iter().zip(&counts) {
        until(true, || count.0.load(Ordering::SeqCst) > 0).await;
        assert!(a.store.is_durable(*ticket), "it is durable when it wakes");
    }
    let count = Arc::<Count>::default();
    a.store.wake(tickets[0], &Waker::from(Arc::clone(&count)));
    until(true, || count.0.load(Ordering::SeqCst) > 0).await;
    assert_eq!(a.numbers(&owned, 10).await, (1..=10).collect::<Vec<_>>());
}

/// Changes that are submitted while the store is away have their effect once, in their order.
pub async fn a_store_that_is_away_gets_all_changes_afterwards(fixture: &dyn Fixture) {
    const ALL: u64 = 50;
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    fixture.away(true).await;
    let claim = tokio::time::timeout(PATIENCE, b.store.claim(&client("c"), false, 2, None)).await;
    assert!(claim.expect("it fails in a bounded time").is_err());
    let mut last = 0;
    for n in 1..=ALL {
        last = a.store.submit(vec![append(&owned, n)]);
    }
    a.store.submit(vec![Change::Subscribe(owned.clone(), "x".into(), options(1))]);
    let read = tokio::time::timeout(PATIENCE, a.store.messages(&owned, 0)).await;
    assert!(read.expect("it fails in a bounded time").is_err());
    assert!(!a.store.is_durable(last));
    fixture.away(false).await;
    a.store.flush().await;
    assert!(a.store.is_durable(last));
    assert_eq!(a.numbers(&owned, ALL as usize).await, (1..=ALL).collect::<Vec<_>>());
    until(1, || b.table().sessions.len()).await;
    let (_, session) = b.continued("c").await;
    let expected: Vec<String> = (1..=ALL).map(|n| n.to_string()).collect();
    assert_eq!((payloads(&session.messages), session.last), (expected, ALL));
}

/// Callers wait when more is submitted than the store takes.
pub async fn there_is_no_room_while_many_changes_wait(fixture: &dyn Fixture) {
    const FAR_TOO_MANY: usize = 1_000_000;
    let a = Peer::start(fixture, "a").await;
    let owned = a.lasting("c", 1).await;
    std::future::poll_fn(|cx| a.store.poll_room(TENANT, cx)).await;
    fixture.away(true).await;
    let count = Arc::<Count>::default();
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let mut submitted = 0;
    let mut last = 0;
    while a.store.poll_room(TENANT, &mut cx).is_ready() {
        submitted += 1;
        assert!(submitted < FAR_TOO_MANY, "there is a bound");
        last = a.store.submit(vec![Change::Receipt(owned.clone(), 1)]);
    }
    assert!(submitted > 10);
    // It is taken all the same.
    let more = a.store.submit(vec![Change::Receipt(owned.clone(), 2)]);
    assert!(more > last && count.0.load(Ordering::SeqCst) == 0);
    fixture.away(false).await;
    until(true, || count.0.load(Ordering::SeqCst) > 0).await;
    a.durable(more).await;
    until(true, || a.store.poll_room(TENANT, &mut cx).is_ready()).await;
    let (_, mut session) = a.continued("c").await;
    session.receipts.sort_unstable();
    assert_eq!(session.receipts, [1, 2]);
}

/// Nothing of a tenant is left, and everything of the others.
pub async fn a_tenant_is_forgotten_alone(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let mut owned = Vec::new();
    for (n, tenant) in [TENANT, "u", "t1", ""].into_iter().enumerate() {
        let client = Client { tenant: tenant.into(), id: "c".into() };
        let claimed = a.store.claim(&client, true, n as u64 + 1, None).await.expect("the store answers").owned;
        a.bus.begin(&claimed);
        a.apply(vec![
            Change::Keep(claimed.clone(), 60),
            Change::Subscribe(claimed.clone(), "x".into(), options(1)),
            Change::Receipt(claimed.clone(), 1),
        ])
        .await;
        owned.push(claimed);
    }
    a.apply(vec![append(&owned[0], 1)]).await;
    for peer in [&a, &b] {
        until(4, || peer.table().sessions.len()).await;
    }
    b.store.forget(TENANT).await.expect("the store answers");
    for peer in [&a, &b] {
        until(3, || peer.table().sessions.len()).await;
        assert!(peer.table().sessions.keys().all(|(client, _)| &*client.tenant != TENANT));
    }
    until(vec![(owned[0].clone(), Taking::Ended)], || a.taken()).await;
    // The connection that is still there ends late.
    a.apply(vec![Change::Receipt(owned[0].clone(), 2), Change::Leave(owned[0].clone())]).await;
    let claimed = b.claim("c", false, 9).await;
    assert!(claimed.session.is_none() && !claimed.taken_over);
    for held in &owned[1..] {
        let claimed = b.store.claim(&held.client, false, 10, None).await.expect("the store answers");
        let session = claimed.session.expect("it continues");
        assert_eq!((session.receipts, claimed.owned.session), (vec![1], held.session));
    }
}
