//! Messages of sessions, and messages for other nodes.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::peer::{numbers, payloads};
use super::{Fixture, Peer, TENANT, append, append_with, message, options, placed, progress, until};
use crate::fleet::{Arrival, Change, Forwarded, Numbered, Owned, Placed, SharedMessage, StoredSession, Taking};

fn strings(payloads: impl IntoIterator<Item = u64>) -> Vec<String> {
    payloads.into_iter().map(|payload| payload.to_string()).collect()
}

/// The owner, and the next one, see the messages of all nodes under the same numbers.
pub async fn messages_get_numbers_in_one_order(fixture: &dyn Fixture) {
    const EACH: u64 = 200;
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    let owned = a.lasting("c", 1).await;
    let send = async |peer: &Peer, from: u64| {
        let mut last = 0;
        for n in from..from + EACH {
            last = peer.store.submit(vec![append(&owned, n)]);
        }
        peer.durable(last).await;
    };
    tokio::join!(send(&a, 0), send(&b, 1000), send(&c, 2000));
    assert_eq!(a.numbers(&owned, 3 * EACH as usize).await, (1..=3 * EACH).collect::<Vec<_>>());
    let seen = a.messages(&owned);
    for from in [0, 1000, 2000] {
        let mut of = payloads(&seen);
        of.retain(|payload| payload.parse().is_ok_and(|n: u64| (from..from + EACH).contains(&n)));
        assert_eq!(of, strings(from..from + EACH), "the messages of a node keep their order");
    }
    let (_, session) = b.continued("c").await;
    assert_eq!((session.messages, session.last), (seen, 3 * EACH));
}

/// A session changes hands again and again while messages are appended to it.
pub async fn messages_during_claims_are_neither_lost_nor_doubled(fixture: &dyn Fixture) {
    const CLAIMS: usize = 50;
    /// Messages that are appended during each claim, and a moment later.
    const EACH: usize = 20;
    const ALL: u64 = (CLAIMS * EACH) as u64;
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    let first = a.lasting("c", 1).await;
    let allowed = Arc::new(Semaphore::new(0));
    let publisher = tokio::spawn({
        let (store, first, allowed) = (Arc::clone(&c.store), first.clone(), Arc::clone(&allowed));
        async move {
            for n in 1..=ALL {
                allowed.acquire().await.expect("it is not closed").forget();
                store.submit(vec![append(&first, n)]);
            }
        }
    });
    let mut owners = vec![(&a, first, StoredSession::default())];
    for turn in 0..CLAIMS {
        let peer = [&b, &a][turn % 2];
        allowed.add_permits(EACH);
        let (owned, session) = peer.continued("c").await;
        let known = session.last as usize;
        until(true, || known + peer.messages(&owned).len() > turn * EACH + EACH / 2).await;
        let done_to = peer.messages(&owned).last().map_or(session.last, |message| message.number) / 2;
        if turn % 3 == 0 {
            peer.store.submit(vec![Change::Progress(owned.clone(), progress(done_to, &[], done_to))]);
        }
        owners.push((peer, owned, session));
    }
    publisher.await.expect("it ends");
    let (peer, owned, session) = &owners[CLAIMS];
    until(ALL as usize, || session.last as usize + peer.messages(owned).len()).await;
    for (peer, owned, session) in &owners {
        let mut seen: Vec<Numbered> = session.messages.clone();
        seen.extend(peer.messages(owned));
        let from = session.progress.done_to + 1;
        let expected: Vec<u64> = (from..from + seen.len() as u64).collect();
        assert_eq!(numbers(&seen), expected, "what a claim returns and what arrives after it, without a gap");
        assert_eq!(payloads(&seen), strings(expected), "under the number that it was given at first");
    }
    let (_, left) = c.continued("c").await;
    assert_eq!(payloads(&left.messages), strings(left.progress.done_to + 1..=ALL));
}

/// A message that is appended behind a claim arrives when the node is ready for it.
pub async fn messages_wait_until_a_session_begins(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let marker = a.lasting("marker", 1).await;
    let new = a.claim_only("c", true, 2).await.owned;
    a.apply(vec![Change::Keep(new.clone(), 60)]).await;
    b.apply(vec![append(&new, 1), append(&marker, 1)]).await;
    a.numbers(&marker, 1).await;
    assert_eq!(a.messages(&new), []);
    a.bus.begin(&new);
    a.numbers(&new, 1).await;
    let again = a.claim_only("c", false, 3).await;
    assert_eq!(again.session.map(|session| session.last), Some(1));
    b.apply(vec![append(&new, 2), append(&new, 3), append(&marker, 2)]).await;
    a.numbers(&marker, 2).await;
    assert_eq!(a.messages(&again.owned), []);
    a.bus.begin(&again.owned);
    assert_eq!(a.numbers(&again.owned, 2).await, [2, 3]);
    b.apply(vec![append(&new, 4)]).await;
    assert_eq!(a.numbers(&again.owned, 3).await, [2, 3, 4]);
}

/// Messages that are appended while the client is away are there at the next claim, and arrive
/// nowhere. The node that it has left may still note what the client had.
pub async fn a_session_whose_client_is_away_is_in_the_store_alone(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let marker = a.lasting("marker", 1).await;
    let owned = a.lasting("c", 2).await;
    a.apply(vec![append(&owned, 1), append(&owned, 2), Change::Subscribe(owned.clone(), "x".into(), options(1))]).await;
    a.numbers(&owned, 2).await;
    a.apply(vec![Change::Leave(owned.clone())]).await;
    b.apply(vec![append(&owned, 3), append(&marker, 1)]).await;
    a.numbers(&marker, 1).await;
    assert_eq!(numbers(&a.messages(&owned)), [1, 2]);
    let late = [Change::Progress(owned.clone(), progress(1, &[], 2)), Change::Unsubscribe(owned.clone(), "x".into())];
    a.apply(late.into()).await;
    let (now, session) = a.continued("c").await;
    assert_eq!((numbers(&session.messages), session.subscriptions), (vec![2, 3], vec![]));
    b.apply(vec![append(&owned, 4), append(&marker, 2)]).await;
    assert_eq!(a.numbers(&now, 1).await, [4]);
    a.apply(vec![Change::Leave(now.clone())]).await;
    b.apply(vec![append(&owned, 5)]).await;
    let (moved, session) = b.continued("c").await;
    assert_eq!(numbers(&session.messages), [2, 3, 4, 5]);
    until(vec![(now, Taking::Continues)], || a.taken()).await;
    // One that leaves before it has begun, and one that ends what it has left.
    b.apply(vec![Change::Leave(moved)]).await;
    let unbegun = a.claim_only("c", false, 3).await.owned;
    // One of a shared subscription may arrive: the node hands it on.
    let takers = vec![(Arc::clone(&owned.client.id), owned.session, Placed { share: None, ..placed() })];
    let plain = Change::Message { tenant: TENANT.into(), message: message(6), takers, source: None };
    a.apply(vec![plain, Change::Leave(unbegun.clone()), append(&marker, 3)]).await;
    a.bus.begin(&unbegun);
    a.apply(vec![append(&marker, 4)]).await;
    a.numbers(&marker, 4).await;
    assert_eq!(a.messages(&unbegun), []);
    a.apply(vec![Change::End(unbegun)]).await;
    assert_eq!(b.claim("c", false, 4).await.session, None);
    assert_eq!(a.taken().len(), 1, "none by its own claims, and none of a session that it has ended");
}

/// A claim returns the messages that the client does not have.
pub async fn progress_forgets_messages(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let mut owned = a.lasting("c", 1).await;
    a.apply((1..=12).map(|n| append(&owned, n)).collect()).await;
    let steps: [(_, &[u64]); 4] = [
        (progress(2, &[], 6), &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (progress(2, &[(4, 6), (9, 9)], 9), &[3, 7, 8, 10, 11, 12]),
        (progress(7, &[(9, 9), (12, 12)], 12), &[8, 10, 11]),
        (progress(12, &[], 12), &[]),
    ];
    for (known, left) in steps {
        a.apply(vec![Change::Progress(owned, known.clone())]).await;
        let (now, session) = a.continued("c").await;
        assert_eq!((numbers(&session.messages), session.progress, session.last), (left.to_vec(), known, 12));
        owned = now;
    }
    a.apply(vec![append(&owned, 13)]).await;
    let (_, session) = a.continued("c").await;
    assert_eq!(numbers(&session.messages), [13], "numbers go on");
}

/// A message of QoS 2 that the client has is known until its exchange is over.
pub async fn a_message_that_was_released_stays_until_it_is_done(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.apply((1..=3).map(|n| append(&owned, n)).collect()).await;
    a.apply(vec![Change::Released(owned.clone(), vec![2, 1], progress(0, &[], 3))]).await;
    let (owned, session) = b.continued("c").await;
    assert_eq!((session.released, numbers(&session.messages)), (vec![2, 1], vec![1, 2, 3]));
    // The exchange of 2 is over; that is not in a list of its own.
    b.apply(vec![Change::Progress(owned, progress(0, &[(2, 2)], 3))]).await;
    let (owned, session) = a.continued("c").await;
    assert_eq!((session.released, numbers(&session.messages)), (vec![1], vec![1, 3]));
    a.apply(vec![Change::Released(owned, vec![3], progress(2, &[], 3))]).await;
    let (owned, session) = b.continued("c").await;
    assert_eq!((session.released, numbers(&session.messages)), (vec![3], vec![3]));
    b.apply(vec![Change::Released(owned, Vec::new(), progress(3, &[], 3))]).await;
    let (_, session) = a.continued("c").await;
    assert_eq!((session.released, session.messages), (vec![], vec![]));
}

/// A message of QoS 2 that a client sends again elsewhere is there once.
pub async fn a_message_comes_with_its_receipt_or_not_at_all(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let taker = b.lasting("taker", 1).await;
    let sender = a.lasting("sender", 2).await;
    a.apply(vec![append_with(&[&taker, &sender], 1, Some((&sender, 7)))]).await;
    let (new, session) = b.continued("sender").await;
    assert_eq!((session.receipts, payloads(&session.messages)), (vec![7], strings([1])));
    // Its former node is late with a message that the client sends again at the other.
    a.apply(vec![append_with(&[&taker, &sender], 2, Some((&sender, 8)))]).await;
    b.apply(vec![append_with(&[&taker], 3, Some((&new, 8)))]).await;
    b.numbers(&taker, 2).await;
    assert_eq!(payloads(&b.messages(&taker)), strings([1, 3]));
    let (before, mut session) = a.continued("sender").await;
    session.receipts.sort_unstable();
    assert_eq!((session.receipts, payloads(&session.messages)), (vec![7, 8], strings([1])));
    // The client has connected again to the same node, which knows of the message: it is not lost.
    a.continued("sender").await;
    a.apply(vec![append_with(&[&taker], 4, Some((&before, 9)))]).await;
    b.numbers(&taker, 3).await;
    assert_eq!(payloads(&b.messages(&taker)), strings([1, 3, 4]));
    let (_, mut session) = a.continued("sender").await;
    session.receipts.sort_unstable();
    assert_eq!(session.receipts, [7, 8, 9]);
    // One that is retained goes to no session.
    let (owned, _) = a.continued("sender").await;
    a.apply(vec![append_with(&[], 5, Some((&owned, 10)))]).await;
    let (_, mut session) = b.continued("sender").await;
    session.receipts.sort_unstable();
    assert_eq!(session.receipts, [7, 8, 9, 10]);
}

/// A message for a session that has ended is for none after it, and for all others.
pub async fn a_session_that_has_ended_gets_nothing(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let old = a.lasting("c", 1).await;
    let ended = a.lasting("d", 2).await;
    let other = a.lasting("e", 3).await;
    let none = Owned { client: super::client("f"), session: 9, epoch: 1 };
    a.apply(vec![append(&old, 0), Change::End(ended.clone())]).await;
    let new = a.lasting("c", 4).await;
    a.apply(vec![append_with(&[&old, &ended, &none, &other], 1, None), append(&new, 2)]).await;
    a.numbers(&new, 1).await;
    a.numbers(&other, 1).await;
    assert_eq!(a.messages(&ended), []);
    let (_, session) = a.continued("c").await;
    assert_eq!((payloads(&session.messages), numbers(&session.messages)), (strings([2]), vec![1]));
    assert_eq!(a.claim("d", false, 5).await.session, None);
}

/// A session has a bound: what comes behind it is lost, and the session's client is to learn that.
pub async fn a_session_with_too_many_messages_loses_the_next(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    let other = a.lasting("d", 2).await;
    let most = fixture.most_messages() as u64;
    for n in 1..=most + 2 {
        b.store.submit(vec![append_with(&[&owned, &other], n, None)]);
        // The other one's client is quicker.
        a.store.submit(vec![Change::Progress(other.clone(), progress(n - 1, &[], n - 1))]);
        a.numbers(&other, n as usize).await;
    }
    assert_eq!(a.numbers(&owned, most as usize).await, (1..=most).collect::<Vec<_>>());
    let lost = || a.arrivals().iter().filter(|arrival| **arrival == Arrival::Lost(owned.clone())).count();
    until(1, lost).await;
    a.apply(vec![Change::Progress(owned.clone(), progress(most, &[], most)), append(&owned, 0)]).await;
    let (_, session) = b.continued("c").await;
    assert!(session.is_lost && session.messages.is_empty() && session.last == most);
    assert_eq!(lost(), 1);
    let (_, session) = b.continued("d").await;
    assert!(!session.is_lost && session.last == most + 2);
}

/// A node that has lost arrivals reads the messages of its sessions.
pub async fn messages_are_read_behind_a_number(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let owned = a.lasting("c", 1).await;
    a.apply((1..=5).map(|n| append(&owned, n)).collect()).await;
    for (after, left) in [(0, vec![1, 2, 3, 4, 5]), (3, vec![4, 5]), (5, vec![]), (u64::MAX, vec![])] {
        let read = a.store.messages(&owned, after).await.expect("the store answers");
        let expected = left.iter().map(|n| Numbered { number: *n, placed: placed(), message: message(n) });
        assert_eq!(read, expected.collect::<Vec<_>>(), "behind {after}");
    }
    a.apply(vec![Change::Progress(owned.clone(), progress(1, &[(3, 3)], 5))]).await;
    let read = a.store.messages(&owned, 0).await.expect("the store answers");
    assert_eq!(numbers(&read), [2, 4, 5]);
}

fn forwarded(n: u64) -> Forwarded {
    let share = (n % 2 == 1).then(|| Arc::from("$share/g/x"));
    Forwarded {
        tenant: TENANT.into(),
        from: "sender".into(),
        message: message(n),
        share,
        is_routed: !n.is_multiple_of(3),
    }
}

/// The messages of a topic keep their order, whichever way they go.
pub async fn forwarded_messages_come_behind_what_was_submitted_before(fixture: &dyn Fixture) {
    const ALL: u64 = 200;
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = b.lasting("c", 1).await;
    let mut expected = Vec::new();
    for n in 1..=ALL {
        a.store.submit(vec![append(&owned, n)]);
        expected.push(Arrival::Message(owned.clone(), Numbered { number: n, placed: placed(), message: message(n) }));
        assert!(a.bus.forward(&["b".into()], forwarded(n)));
        expected.push(Arrival::Forwarded(forwarded(n)));
    }
    until(expected.len(), || b.arrivals().len()).await;
    // Messages of sessions come in their order, and each forwarded one comes behind those that were
    // submitted before it.
    let mut next = 1;
    let mut next_forwarded = 1;
    for arrival in b.arrivals() {
        if let Arrival::Message(_, numbered) = &arrival {
            assert_eq!(numbered.number, next);
            next += 1;
        } else {
            assert_eq!(arrival, Arrival::Forwarded(forwarded(next_forwarded)));
            assert!(next > next_forwarded, "message {next_forwarded} was submitted before");
            next_forwarded += 1;
        }
    }
}

/// Messages for subscribers that are dropped while the store is away leave a mark in their place; a
/// message of QoS 0, and one that is retained only, leave none.
pub async fn a_node_is_told_that_messages_for_its_subscribers_were_dropped(fixture: &dyn Fixture) {
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    let with = |n: u64, qos: u8, is_routed: bool| {
        let payload = vec![b'x'; 4096].into();
        let message = Arc::new(SharedMessage { qos, payload, ..SharedMessage::clone(&message(n)) });
        Forwarded { message, is_routed, ..forwarded(n) }
    };
    let arrived = |peer: &Peer| {
        let of = |is_missed: bool| {
            let is =
                |arrival: &&Arrival| matches!(arrival, Arrival::Missed(tenant) if **tenant == *TENANT) == is_missed;
            peer.arrivals().iter().filter(is).count()
        };
        (of(false), of(true))
    };
    fixture.away(true).await;
    let (mut sent, many) = (0, with(0, 1, true));
    while a.bus.forward(&["b".into()], many.clone()) {
        sent += 1;
        assert!(sent < 1_000_000, "it has a bound");
    }
    for n in 0..3 {
        assert!(!a.bus.forward(&["b".into()], with(n, 2, true)), "it stays full");
        assert!(!a.bus.forward(&["c".into()], with(n, 0, true)) && !a.bus.forward(&["c".into()], with(n, 1, false)));
    }
    // What a node does not get holds up no publisher while the store is away.
    until(true, || {
        a.bus.poll_forward(TENANT, &mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    })
    .await;
    fixture.away(false).await;
    until((sent, 1), || arrived(&b)).await;
    assert!(a.bus.forward(&["b".into(), "c".into()], with(1, 1, true)));
    until((sent + 1, 1), || arrived(&b)).await;
    until((1, 0), || arrived(&c)).await;
    let last = b.arrivals().pop();
    assert!(!matches!(last, Some(Arrival::Missed(_))), "the mark is in the place of what was dropped");
}

/// A message goes to these nodes and no other.
pub async fn forwarded_messages_reach_the_nodes_that_are_named(fixture: &dyn Fixture) {
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    assert!(a.bus.forward(&["b".into(), "c".into(), "gone".into()], forwarded(1)));
    assert!(a.bus.forward(&["c".into()], forwarded(2)));
    assert!(a.bus.forward(&["b".into()], forwarded(3)));
    for (peer, numbers) in [(&b, [1, 3]), (&c, [1, 2])] {
        until(numbers.map(|n| Arrival::Forwarded(forwarded(n))).to_vec(), || peer.arrivals()).await;
    }
    assert_eq!(a.arrivals(), []);
}
