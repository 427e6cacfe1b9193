//! Ownership.

use std::collections::BTreeSet;

use super::peer::payloads;
use super::{Fixture, Peer, append, append_with, client, message, options, placed, progress, until};
use crate::fleet::{Change, Claimed, Numbered, Progress, StoredSession, Taking};

/// A client without a session gets a new one, and each claim a higher epoch.
pub async fn a_new_client_has_no_session(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let mut epoch = 0;
    for (node, new) in [(&a, 1), (&b, 2), (&b, 3)] {
        let Claimed { owned, taken_over, session, .. } = node.claim("c", false, new).await;
        assert_eq!((owned.session, taken_over, session), (new, new == 2, None));
        assert!(owned.epoch > epoch && owned.client == client("c"));
        epoch = owned.epoch;
    }
}

/// All that a session has is there after a claim by another node.
pub async fn a_session_continues_with_all_that_was_kept(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 7).await;
    let mut changes = vec![
        Change::Keep(owned.clone(), 4_294_967_295),
        Change::Subscribe(owned.clone(), "a/+".into(), options(0)),
        Change::Subscribe(owned.clone(), "gone/#".into(), options(1)),
        Change::Subscribe(owned.clone(), "a/+".into(), options(2)),
        Change::Subscribe(owned.clone(), "$share/g/a/+".into(), options(1)),
        Change::Unsubscribe(owned.clone(), "gone/#".into()),
    ];
    changes.extend((1..=6).map(|n| append(&owned, n)));
    changes.push(Change::Receipt(owned.clone(), 9));
    changes.push(Change::Receipt(owned.clone(), 65_535));
    changes.push(append_with(&[&owned], 7, Some((&owned, 10))));
    changes.push(Change::ReceiptOver(owned.clone(), 9));
    changes.push(Change::Released(owned.clone(), vec![4, 2], progress(1, &[(3, 3)], 4)));
    let exact = Progress { exact: true, ..progress(1, &[(3, 3), (6, 6)], 5) };
    changes.push(Change::Progress(owned.clone(), exact.clone()));
    let walks = vec![("$SYS/#".to_owned(), None), ("a/+".to_owned(), Some("a/é".to_owned()))];
    changes.push(Change::Walks(owned.clone(), walks.clone()));
    changes.push(Change::Leave(owned.clone()));
    a.apply(changes).await;
    let claimed = b.claim("c", false, 8).await;
    assert_eq!((claimed.owned.session, claimed.taken_over), (7, false));
    let mut session = claimed.session.expect("it continues");
    session.subscriptions.sort_by(|one, other| one.0.cmp(&other.0));
    session.receipts.sort_unstable();
    let open = [2, 4, 5, 7].map(|number| Numbered { number, placed: placed(), message: message(number) });
    let expected = StoredSession {
        expiry_secs: 4_294_967_295,
        subscriptions: vec![("$share/g/a/+".into(), options(1)), ("a/+".into(), options(2))],
        progress: exact,
        released: vec![4, 2],
        receipts: vec![10, 65_535],
        last: 7,
        messages: open.into(),
        is_lost: false,
        walks,
    };
    assert_eq!(session, expected);
    b.apply(vec![Change::Walks(claimed.owned, Vec::new())]).await;
    assert_eq!(a.continued("c").await.1.walks, []);
}

/// Nothing of a session is left after a clean claim, at the same node or another.
pub async fn a_clean_claim_ends_the_session(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    for (id, node) in [("c", &b), ("d", &a)] {
        let owned = a.lasting(id, 1).await;
        a.apply(vec![Change::Subscribe(owned.clone(), "x".into(), options(1)), append(&owned, 1)]).await;
        until(1, || b.table().sessions.len()).await;
        let clean = node.claim(id, true, 2).await;
        assert_eq!((clean.owned.session, clean.session), (2, None));
        for peer in [&a, &b] {
            until(0, || peer.table().sessions.len()).await;
        }
        if id == "c" {
            until(vec![(owned, Taking::Anew)], || a.taken()).await;
        }
        node.apply(vec![Change::Keep(clean.owned, 60)]).await;
        let (_, session) = node.continued(id).await;
        assert_eq!(session, StoredSession { expiry_secs: 60, ..StoredSession::default() });
    }
    assert_eq!(a.taken().len(), 1);
}

/// The store knows the owner of a client whose session ends with its connection, and nothing after.
pub async fn a_session_that_does_not_last_leaves_nothing(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let first = a.claim("c", false, 1).await.owned;
    a.apply(vec![
        Change::Subscribe(first.clone(), "x".into(), options(1)),
        append(&first, 1),
        Change::Receipt(first.clone(), 1),
    ])
    .await;
    let second = b.claim("c", false, 2).await;
    assert_eq!((second.owned.session, second.taken_over, second.session), (2, true, None));
    until(vec![(first, Taking::Anew)], || a.taken()).await;
    b.apply(vec![Change::Leave(second.owned)]).await;
    let third = a.claim("c", false, 3).await;
    assert_eq!((third.owned.session, third.taken_over, third.session), (3, false, None));
    // One whose session is to end with the connection has lasted until then.
    a.apply(vec![Change::Keep(third.owned.clone(), 60), Change::Keep(third.owned.clone(), 0), append(&third.owned, 1)])
        .await;
    a.apply(vec![Change::Leave(third.owned)]).await;
    let fourth = b.claim("c", false, 4).await;
    assert_eq!((fourth.owned.session, fourth.taken_over, fourth.session), (4, false, None));
    assert_eq!((a.messages(&fourth.owned), b.messages(&fourth.owned)), (vec![], vec![]));
    assert!(b.taken().is_empty() && b.table().sessions.is_empty());
}

/// The owner is asked before it loses the client, and its last changes count.
pub async fn an_owner_hands_over_what_has_arrived_first(fixture: &dyn Fixture) {
    let [a, b] = [Peer::stubborn(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    let hand_over = async {
        until(1, || a.asked().len()).await;
        assert!(a.taken().is_empty());
        a.store.submit(vec![append(&owned, "last"), Change::Receipt(owned.clone(), 5)]);
        let (of, hand_over) = a.asked().remove(0);
        assert_eq!((of, &*hand_over.node), (client("c"), "b"));
        a.bus.handed_over(&hand_over);
    };
    let (claimed, ()) = tokio::join!(b.claim("c", false, 2), hand_over);
    assert!(claimed.taken_over);
    let session = claimed.session.expect("it continues");
    assert_eq!((payloads(&session.messages), session.receipts), (vec!["last".to_owned()], vec![5]));
    until(vec![(owned, Taking::Continues)], || a.taken()).await;
}

/// An owner that is stuck keeps a client out for a moment only.
pub async fn an_owner_that_does_not_answer_loses_the_client_all_the_same(fixture: &dyn Fixture) {
    let [a, b] = [Peer::stubborn(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    let claimed = b.claim("c", false, 2).await;
    assert!(claimed.taken_over && claimed.session.is_some());
    until(vec![(owned.clone(), Taking::Continues)], || a.taken()).await;
    assert_eq!(a.asked().len(), 1);
    // Its answer is late.
    a.bus.handed_over(&a.asked()[0].1);
    a.apply(vec![Change::End(owned)]).await;
    assert_eq!(b.continued("c").await.0.session, 1);
}

/// The former owner of a client that has left learns of the claim, and is not waited for.
pub async fn an_owner_whose_client_has_left_is_not_asked(fixture: &dyn Fixture) {
    let [a, b] = [Peer::stubborn(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.apply(vec![Change::Leave(owned.clone())]).await;
    let claimed = b.claim("c", false, 2).await;
    assert!(!claimed.taken_over && claimed.session.is_some());
    until(vec![(owned, Taking::Continues)], || a.taken()).await;
    assert!(a.asked().is_empty());
}

/// No change of a node that no longer owns the client has an effect.
pub async fn a_former_owner_changes_nothing(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let old = a.lasting("c", 1).await;
    let filter = || "x".to_owned();
    a.apply(vec![
        Change::Subscribe(old.clone(), filter(), options(1)),
        append_with(&[&old], 1, Some((&old, 1))),
        append(&old, 2),
        Change::Released(old.clone(), vec![1], progress(0, &[], 1)),
    ])
    .await;
    let (present, before) = b.continued("c").await;
    let changes = [
        Change::Keep(old.clone(), 1),
        Change::Subscribe(old.clone(), "y".into(), options(1)),
        Change::Subscribe(old.clone(), filter(), options(2)),
        Change::Unsubscribe(old.clone(), filter()),
        Change::Receipt(old.clone(), 2),
        Change::ReceiptOver(old.clone(), 1),
        Change::Released(old.clone(), vec![2], progress(1, &[], 2)),
        Change::Progress(old.clone(), progress(2, &[], 2)),
        append_with(&[&old], 3, Some((&old, 3))),
        Change::Leave(old.clone()),
        Change::End(old.clone()),
    ];
    for change in changes {
        let what = format!("{change:?}");
        a.apply(vec![change]).await;
        let (_, after) = b.continued("c").await;
        assert_eq!(after, before, "{what}");
    }
    // The change of a session that continues is known by its id alone: any node appends to it.
    a.apply(vec![append(&old, 4)]).await;
    let (now, after) = b.continued("c").await;
    assert_eq!((payloads(&after.messages), now.session), (["1", "2", "4"].map(String::from).to_vec(), present.session));
    let table = b.table();
    assert_eq!(table.of(), [("c", "x", 1, true)]);
    assert!(table.sessions.values().all(|(_, held, _)| *held == options(1)));
}

/// A client that connects to the same node again is of no other one's concern.
pub async fn a_node_that_claims_its_own_client_again_hears_nothing(fixture: &dyn Fixture) {
    let a = Peer::stubborn(fixture, "a").await;
    let first = a.lasting("c", 1).await;
    let again = a.claim("c", false, 2).await;
    assert!(!again.taken_over && again.owned.session == 1 && again.owned.epoch > first.epoch);
    assert_eq!(again.since, first.epoch, "no other node knows more of it");
    a.apply(vec![Change::End(first), append(&again.owned, 1)]).await;
    assert_eq!(a.numbers(&again.owned, 1).await, [1]);
    assert!(a.asked().is_empty() && a.taken().is_empty());
    let moved = Peer::start(fixture, "b").await.claim("c", false, 3).await;
    let back = a.claim("c", false, 4).await;
    assert_eq!([moved.since, back.since], [moved.owned.epoch, back.owned.epoch]);
}

/// Each of several claims has an epoch of its own, and the highest one owns the client.
pub async fn of_claims_at_once_the_last_one_counts(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    a.lasting("c", 1).await;
    let of = async |peer: &Peer| {
        let mut claims = Vec::new();
        for _ in 0..10 {
            claims.push(peer.claim("c", false, 2).await.owned);
        }
        claims
    };
    let (mut claims, more) = tokio::join!(of(&a), of(&b));
    claims.extend(more);
    let epochs: BTreeSet<u64> = claims.iter().map(|owned| owned.epoch).collect();
    assert_eq!(epochs.len(), 20);
    claims.sort_by_key(|owned| owned.epoch);
    let mut receipts = Vec::new();
    for (packet_id, owned) in (1..).zip(claims) {
        receipts.push(packet_id);
        a.apply(vec![Change::Receipt(owned, packet_id)]).await;
    }
    let (_, session) = a.continued("c").await;
    assert_eq!(session.receipts, receipts[19..], "only the last owner changes something");
}
