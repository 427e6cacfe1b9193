//! Messages of shared subscriptions that sessions leave over at their end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::peer::payloads;
use super::refusals::refusals;
use super::{Fixture, PATIENCE, Peer, TENANT, append, client, message, options, placed, progress, until};
use crate::fleet::{
    Arrival, Change, Forwarded, Leftover, NextTaker, Owned, Placed, Progress, Refusal, SharedMessage, Taking,
};
use crate::in_flight::MAX_IN_FLIGHT;

const SHARE: &str = "$share/g/a/+";

/// A client with a shared subscription, in a session that lasts.
async fn member(peer: &Peer, id: &str, session: u64) -> Owned {
    let owned = peer.lasting(id, session).await;
    peer.apply(vec![Change::Subscribe(owned.clone(), SHARE.into(), options(2))]).await;
    owned
}

/// A message for one session, of a shared subscription or not.
fn one(owned: &Owned, payload: impl ToString, qos: u8, share: bool) -> Change {
    let placed = Placed { qos, share: share.then(|| SHARE.into()), ..placed() };
    let takers = vec![(Arc::clone(&owned.client.id), owned.session, placed)];
    Change::Message { tenant: TENANT.into(), message: message(payload), takers, source: None }
}

fn none_sent(owned: &Owned) -> Change {
    Change::Progress(owned.clone(), Progress { exact: true, ..Progress::default() })
}

/// The next messages that a node is to hand on.
async fn leftovers(peer: &Peer) -> Vec<Leftover> {
    let next = peer.bus.leftovers(0);
    tokio::time::timeout(PATIENCE, next).await.expect("something is left over")
}

/// Returns the payloads of all that is left over, which is dropped.
async fn drain(peer: &Peer, most: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < most {
        let some = leftovers(peer).await;
        all.extend(some.iter().map(payload));
        let changes = some.into_iter().map(|leftover| hand_on(&leftover, NextTaker::Dropped)).collect();
        assert_eq!(refusals(peer, changes).await, []);
    }
    all
}

/// True when nothing is left over: a mark of another session comes first.
async fn is_empty(peer: &Peer, session: u64) -> bool {
    let marker = member(peer, "marker", session).await;
    peer.apply(vec![one(&marker, "mark", 1, true), Change::End(marker)]).await;
    drain(peer, 1).await == ["mark"]
}

fn payload(leftover: &Leftover) -> String {
    payloads(std::slice::from_ref(&leftover.message)).remove(0)
}

fn hand_on(leftover: &Leftover, to: NextTaker) -> Change {
    let Leftover { client, session, message } = leftover;
    let to = Box::new(to);
    Change::HandOn { from: client.clone(), session: *session, number: message.number, to }
}

fn to_session(owned: &Owned) -> NextTaker {
    NextTaker::Session(Arc::clone(&owned.client.id), owned.session, placed())
}

/// A session leaves over what other members are to get, whichever way it ends, and nothing when its
/// tenant is gone.
pub async fn a_session_that_ends_leaves_messages_for_other_members(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let ways = ["end", "claim", "claim away", "claim at once", "last connection", "expiry", "operator"];
    for (session, way) in (1..).zip(ways) {
        let owned = member(&a, way, session).await;
        a.apply(vec![
            one(&owned, "had", 1, true),
            one(&owned, "1", 1, true),
            one(&owned, "plain", 1, false),
            one(&owned, "sent", 2, true),
            // Two sessions have this one.
            append_to_two(&a, &owned, session, "2").await,
            one(&owned, "3", 2, true),
            Change::Progress(owned.clone(), Progress { exact: true, ..progress(1, &[], 4) }),
        ])
        .await;
        let leave = Change::Leave(owned.clone());
        match way {
            "end" => drop(a.apply(vec![Change::End(owned.clone())]).await),
            "claim" => drop(b.claim(way, true, 100 + session).await),
            "claim away" => {
                a.apply(vec![leave]).await;
                b.claim(way, true, 100 + session).await;
            }
            "claim at once" => drop(a.claim(way, true, 100 + session).await),
            "last connection" => drop(a.apply(vec![Change::Keep(owned.clone(), 0), leave]).await),
            "expiry" => drop(a.apply(vec![Change::Keep(owned.clone(), 1), leave]).await),
            _ => {
                a.apply(vec![leave]).await;
                let ended = b.store.end_away(&client(way)).await.expect("the store answers");
                assert_eq!(ended.map(|ended| ended.messages), Some(5));
            }
        }
        let mut left = Vec::new();
        while left.len() < 3 {
            let some = leftovers(&b).await;
            assert!(some.iter().all(|leftover| leftover.client == owned.client && leftover.session == session));
            left.extend(some.iter().map(|leftover| (payload(leftover), leftover.message.placed.qos)));
            let changes = some.iter().map(|leftover| hand_on(leftover, NextTaker::Dropped)).collect();
            b.apply(changes).await;
        }
        let expected = [("1", 1), ("2", 2), ("3", 2)].map(|(payload, qos)| (payload.to_owned(), qos));
        assert_eq!(left, expected, "{way}: neither what the client has, nor what it was sent at QoS 2");
    }
    let owned = member(&a, "gone", 50).await;
    a.apply(vec![one(&owned, "1", 1, true), Change::Leave(owned)]).await;
    a.store.forget(TENANT).await.expect("the store answers");
    until(true, || a.taken().iter().any(|(_, taking)| *taking == Taking::Ended)).await;
    assert!(is_empty(&b, 51).await);
}

async fn append_to_two(peer: &Peer, owned: &Owned, session: u64, payload: &str) -> Change {
    let other = peer.lasting("other", 1000 + session).await;
    super::append_with(&[owned, &other], payload, None)
}

/// Of a session whose node has died, as many messages of QoS 2 may have been sent as are in flight
/// at most; those of QoS 1 go to another member.
pub async fn what_a_dead_node_may_have_sent_once_is_not_left_over(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = member(&a, "c", 1).await;
    let last = MAX_IN_FLIGHT as u64 + 12;
    let changes = (1..=last).map(|n| one(&owned, n, if n == 5 { 1 } else { 2 }, true)).collect();
    a.apply(changes).await;
    a.apply(vec![Change::Progress(owned.clone(), progress(2, &[], 10)), Change::Keep(owned, 1)]).await;
    drop(a);
    fixture.kill("a").await;
    let expected = [5, last - 1, last].map(|n| n.to_string());
    assert_eq!(drain(&b, 3).await, expected);
    assert!(is_empty(&b, 2).await);
}

/// A message goes to one taker, once, and stays while its taker is not there.
pub async fn what_is_left_over_goes_to_one_taker(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = member(&a, "c", 1).await;
    let [other, gone] = [member(&b, "d", 2).await, member(&b, "gone", 3).await];
    let mut changes: Vec<Change> = (1..=4).map(|n| one(&owned, n, 1, true)).collect();
    changes.push(super::append_with(&[&owned, &other], 5, None));
    changes.extend([none_sent(&owned), Change::Leave(owned.clone()), Change::End(owned)]);
    a.apply(changes).await;
    b.numbers(&other, 1).await;
    b.apply(vec![Change::End(gone.clone())]).await;
    let left = leftovers(&a).await;
    assert_eq!(left.iter().map(payload).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    let absent = [to_session(&gone), NextTaker::Node(Some("none".into()), forwarded(&left[0]))];
    for to in absent {
        assert_eq!(refusals(&a, vec![hand_on(&left[0], to)]).await, [Refusal::NotOwned]);
    }
    assert_eq!(leftovers(&a).await, left, "they stay");
    let changes = vec![
        hand_on(&left[0], to_session(&other)),
        hand_on(&left[1], NextTaker::Node(Some("b".into()), forwarded(&left[1]))),
        hand_on(&left[2], NextTaker::Node(None, forwarded(&left[2]))),
        hand_on(&left[3], NextTaker::Dropped),
        hand_on(&left[4], to_session(&other)),
    ];
    assert_eq!(refusals(&a, changes.clone()).await, []);
    // Those of another node that has read them, too: the one that was to be dropped is.
    assert_eq!(refusals(&b, changes).await, [Refusal::NotOwned; 4]);
    b.numbers(&other, 3).await;
    assert_eq!(payloads(&b.messages(&other)), ["5", "1", "5"]);
    for (peer, at) in [(&b, 1), (&a, 2)] {
        let expected = vec![Arrival::Forwarded(forwarded(&left[at]))];
        let seen =
            || peer.arrivals().into_iter().filter(|one| matches!(one, Arrival::Forwarded(_))).collect::<Vec<_>>();
        until(expected, seen).await;
    }
    let (_, session) = a.continued("d").await;
    assert_eq!(payloads(&session.messages), ["5", "1", "5"]);
    assert!(is_empty(&a, 4).await);
}

fn forwarded(leftover: &Leftover) -> Forwarded {
    let message = Arc::new(SharedMessage::clone(&leftover.message.message));
    let (tenant, from) = (Arc::clone(&leftover.client.tenant), Arc::clone(&leftover.client.id));
    Forwarded { tenant, from, message, share: Some(SHARE.into()), is_routed: true }
}

/// A node that dies with what it has read loses none of it: others hand it on.
pub async fn what_a_dead_node_was_to_hand_on_is_handed_on_once(fixture: &dyn Fixture) {
    const ALL: u64 = 900;
    let [a, b, c] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await, Peer::start(fixture, "c").await];
    let owned = member(&c, "c", 1).await;
    let other = member(&c, "d", 2).await;
    c.apply((1..=ALL).map(|n| one(&owned, n, 1, true)).collect()).await;
    c.apply(vec![Change::End(owned)]).await;
    let some = leftovers(&a).await;
    assert!((1..ALL as usize).contains(&some.len()), "in parts");
    // It has handed on some of them.
    a.apply(some[..some.len() / 2].iter().map(|leftover| hand_on(leftover, to_session(&other))).collect()).await;
    drop(a);
    fixture.kill("a").await;
    while has_less(&c, &other, ALL) {
        let next = tokio::time::timeout(PATIENCE, b.bus.leftovers(0)).await.expect("others get them");
        // Twice: another node may do the same.
        for peer in [&b, &c] {
            peer.apply(next.iter().map(|leftover| hand_on(leftover, to_session(&other))).collect()).await;
        }
        let handed_on: BTreeSet<u64> = next.iter().map(|leftover| leftover.message.number).collect();
        assert_eq!(handed_on.len(), next.len());
        until(true, || payloads(&c.messages(&other)).contains(&payload(&next[next.len() - 1]))).await;
    }
    c.numbers(&other, ALL as usize).await;
    assert_eq!(payloads(&c.messages(&other)), (1..=ALL).map(|n| n.to_string()).collect::<Vec<_>>(), "in order, once");
    assert!(is_empty(&b, 3).await);
}

fn has_less(peer: &Peer, owned: &Owned, all: u64) -> bool {
    (peer.messages(owned).len() as u64) < all
}

/// Several sessions that have ended are drained, whichever comes first.
pub async fn sessions_leave_over_side_by_side(fixture: &dyn Fixture) {
    let a = Peer::start(fixture, "a").await;
    let mut expected = BTreeSet::new();
    for session in 1..=5 {
        let id = format!("c{session}");
        let owned = member(&a, &id, session).await;
        a.apply(vec![
            one(&owned, session, 1, true),
            append(&owned, 10 + session),
            none_sent(&owned),
            Change::End(owned),
        ])
        .await;
        expected.extend([session, 10 + session].map(|n| n.to_string()));
    }
    let seen: BTreeSet<String> = drain(&a, 10).await.into_iter().collect();
    assert_eq!(seen, expected);
    tokio::time::timeout(Duration::from_millis(50), a.bus.leftovers(0)).await.expect_err("nothing is left over");
}

fn to_connected(owned: &Owned) -> NextTaker {
    let placed = Placed { is_for_connected: true, ..placed() };
    NextTaker::Session(Arc::clone(&owned.client.id), owned.session, placed)
}

/// A message for a member of a shared subscription that has left, and is to be connected, or has
/// ended, goes to another member; with another session that has it, too.
pub async fn a_message_for_a_member_that_is_gone_is_left_over(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let members = [member(&a, "away", 1).await, member(&a, "ended", 2).await, member(&a, "anew", 3).await];
    let other = member(&b, "other", 4).await;
    let plain = b.lasting("plain", 5).await;
    let [away, ended, _] = &members;
    a.apply(vec![Change::Leave(away.clone()), Change::End(ended.clone())]).await;
    a.claim("anew", true, 6).await;
    let message = |owned: &Owned, payload: u64, is_for_connected| {
        let placed = Placed { is_for_connected, ..placed() };
        let takers = [(owned, placed), (&plain, Placed { share: None, ..super::placed() })];
        let takers = takers.map(|(owned, placed)| (Arc::clone(&owned.client.id), owned.session, placed)).to_vec();
        Change::Message { tenant: TENANT.into(), message: super::message(payload), takers, source: None }
    };
    let mut changes: Vec<Change> = (1..).zip(&members).map(|(n, owned)| message(owned, n, true)).collect();
    // Those that wait for their member, as it was chosen when none was connected.
    changes.extend((4..).zip(&members).map(|(n, owned)| message(owned, n, false)));
    assert_eq!(refusals(&b, changes).await, []);
    let mut left = Vec::new();
    while left.len() < 5 {
        let some = leftovers(&a).await;
        left.extend(some.iter().map(|leftover| (payload(leftover), leftover.client.id.to_string())));
        assert_eq!(refusals(&a, some.iter().map(|some| hand_on(some, to_connected(&other))).collect()).await, []);
    }
    left.sort();
    let expected = [("1", "away"), ("2", "ended"), ("3", "anew"), ("5", "ended"), ("6", "anew")];
    assert_eq!(left, expected.map(|(payload, id)| (payload.to_owned(), id.to_owned())));
    b.numbers(&other, 5).await;
    b.numbers(&plain, 6).await;
    let (_, session) = b.continued("away").await;
    assert_eq!(payloads(&session.messages), ["4"]);
    b.apply(vec![none_sent(&other), Change::End(other), Change::End(plain)]).await;
    assert_eq!(drain(&a, 5).await.len(), 5);
    assert!(is_empty(&a, 7).await);
}

/// A member that is away keeps its messages until one of them is handed on: in one step, and not
/// when it is back.
pub async fn what_a_member_that_is_away_has_may_be_handed_on(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = member(&a, "c", 1).await;
    let [other, away] = [member(&b, "other", 2).await, member(&b, "away", 3).await];
    a.apply((1..=3).map(|n| one(&owned, n, 1, true)).collect()).await;
    b.apply(vec![Change::Leave(away.clone())]).await;
    let late = |number: u64, to| {
        let (from, to) = (owned.client.clone(), Box::new(to));
        vec![Change::HandOn { from, session: owned.session, number, to }]
    };
    assert_eq!(refusals(&a, late(1, to_connected(&other))).await, [Refusal::NotOwned], "it is connected");
    a.apply(vec![Change::Leave(owned.clone())]).await;
    assert_eq!(refusals(&a, late(2, to_connected(&away))).await, [Refusal::NotOwned]);
    assert_eq!(refusals(&a, late(2, to_connected(&other))).await, []);
    assert_eq!(refusals(&a, late(2, to_connected(&other))).await, [Refusal::NotOwned], "it is gone");
    b.numbers(&other, 1).await;
    let (owned, session) = b.continued("c").await;
    assert_eq!((payloads(&session.messages), session.last), (vec!["1".to_owned(), "3".to_owned()], 3));
    // All of them.
    a.apply(vec![one(&other, "plain", 1, false)]).await;
    b.apply(vec![Change::Leave(owned)]).await;
    for number in [1, 3] {
        assert_eq!(refusals(&a, late(number, to_connected(&other))).await, []);
    }
    b.numbers(&other, 4).await;
    assert_eq!(payloads(&b.messages(&other)), ["2", "plain", "1", "3"]);
    let (owned, session) = a.continued("c").await;
    assert_eq!((session.messages.len(), session.last), (0, 3));
    a.apply(vec![one(&owned, "next", 1, false)]).await;
    a.numbers(&owned, 1).await;
}
