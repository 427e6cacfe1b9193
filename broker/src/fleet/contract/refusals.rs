//! Changes that have no effect, and the submitters that must not report them as made.

use std::sync::Arc;

use parking_lot::Mutex;

use super::peer::payloads;
use super::{Fixture, Peer, TENANT, append, append_with, client, options, progress, until};
use crate::fleet::{Change, Interest, Refusal, Submitter};

/// A connection that waits for its changes.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Vec<Refusal>>);

impl Waiting {
    /// Returns the reasons of its changes that were refused.
    pub fn refused(&self) -> Vec<Refusal> {
        self.0.lock().clone()
    }
}

impl Submitter for Waiting {
    fn refused(&self, refusal: Refusal) {
        self.0.lock().push(refusal);
    }
}

/// Submits changes, and returns which of them were refused by the time that they were durable.
pub(super) async fn refusals(node: &Peer, changes: Vec<Change>) -> Vec<Refusal> {
    let waiting = Arc::<Waiting>::default();
    let ticket = node.store.submit_for(changes, Some(Arc::clone(&waiting) as _));
    node.durable(ticket).await;
    waiting.refused()
}

/// The submitter of a change under an ownership that is over knows it when the ticket is durable.
pub async fn a_change_of_a_former_owner_is_refused(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let old = a.lasting("c", 1).await;
    let other = a.lasting("d", 2).await;
    let all = |owned: &crate::fleet::Owned| {
        vec![
            Change::Keep(owned.clone(), 3600),
            Change::Subscribe(owned.clone(), "x".into(), options(1)),
            Change::Unsubscribe(owned.clone(), "x".into()),
            // One that is not there.
            Change::Unsubscribe(owned.clone(), "y".into()),
            Change::Receipt(owned.clone(), 2),
            Change::ReceiptOver(owned.clone(), 2),
            Change::Released(owned.clone(), vec![], progress(0, &[], 0)),
            Change::Progress(owned.clone(), progress(0, &[], 0)),
            append_with(&[&other], "with a receipt", Some((owned, 3))),
            Change::Leave(owned.clone()),
            Change::End(owned.clone()),
        ]
    };
    for change in all(&old).into_iter().take(9) {
        let what = format!("{change:?}");
        assert_eq!(refusals(&a, vec![change]).await, [], "{what}");
    }
    let before = a.numbers(&other, 1).await;
    b.continued("c").await;
    for change in all(&old) {
        let what = format!("{change:?}");
        assert_eq!(refusals(&a, vec![change]).await, [Refusal::NotOwned], "{what}");
    }
    assert_eq!(refusals(&a, all(&old)).await.len(), 11, "each of them");
    // Changes of a submitter that has lost one client, which are not of that client.
    let made = vec![
        append(&old, "without a receipt"),
        Change::Subscribe(other.clone(), "x".into(), options(1)),
        Change::Interest(TENANT.into(), "x".into(), Some(Interest::All)),
    ];
    assert_eq!(refusals(&a, made.clone()).await, []);
    let mixed = [made, vec![Change::Receipt(old.clone(), 1)]].concat();
    assert_eq!(refusals(&a, mixed).await, [Refusal::NotOwned]);
    assert_eq!(a.numbers(&other, 1).await, before, "a message without its receipt");
    b.store.forget(TENANT).await.expect("the store answers");
    assert_eq!(refusals(&a, vec![Change::Receipt(other, 1)]).await, [Refusal::NotOwned], "its session has ended");
}

/// A refusal of changes that waited while the store was away is not lost.
pub async fn a_change_that_waited_too_long_is_refused(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let (old, other) = (a.lasting("c", 1).await, a.lasting("d", 2).await);
    b.continued("c").await;
    fixture.away(true).await;
    let [late, kept] = [Arc::<Waiting>::default(), Arc::<Waiting>::default()];
    let mut last = 0;
    // More than a batch.
    for n in 0..1000 {
        last = a.store.submit_for(vec![Change::Receipt(old.clone(), 1)], Some(Arc::clone(&late) as _));
        let subscribe = Change::Subscribe(other.clone(), n.to_string(), options(1));
        a.store.submit_for(vec![append(&other, n), subscribe], Some(Arc::clone(&kept) as _));
    }
    assert!(!a.store.is_durable(last) && late.0.lock().is_empty());
    fixture.away(false).await;
    a.store.flush().await;
    assert_eq!((late.0.lock().len(), kept.0.lock().len()), (1000, 0));
    assert_eq!(a.continued("d").await.1.subscriptions.len(), 1000);
}

/// The receipt of a message counts after further claims by the same node, and not when the client
/// was elsewhere meanwhile: its present connection does not know of the message.
pub async fn a_receipt_is_of_the_connections_that_know_of_each_other(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let taker = b.lasting("taker", 9).await;
    let first = a.lasting("c", 1).await;
    let second = a.continued("c").await.0;
    for (packet_id, owned) in [(1, &first), (2, &second)] {
        let message = append_with(&[&taker], packet_id, Some((owned, packet_id)));
        assert_eq!(refusals(&a, vec![message]).await, []);
    }
    // Elsewhere and back; and away and back.
    b.continued("c").await;
    let third = a.continued("c").await.0;
    a.apply(vec![Change::Leave(third.clone())]).await;
    let (fourth, session) = a.continued("c").await;
    for owned in [&first, &second, &third] {
        let message = append_with(&[&taker], "late", Some((owned, 7)));
        assert_eq!(refusals(&a, vec![message]).await, [Refusal::NotOwned]);
    }
    let message = append_with(&[&taker], "3", Some((&fourth, 3)));
    assert_eq!(refusals(&a, vec![message]).await, []);
    assert_eq!((session.receipts, b.numbers(&taker, 3).await), (vec![1, 2], vec![1, 2, 3]));
    let claim = b.store.claim(&client("c"), false, 5, None).await.expect("the store answers");
    assert_eq!(claim.session.expect("it continues").receipts, [1, 2, 3]);
}

/// A message whose receipt is refused reaches none of its sessions, however many they are, and
/// wherever it is among the changes of its node; another one reaches all of them.
pub async fn a_message_for_many_sessions_reaches_all_or_none(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let mut takers = Vec::new();
    for n in 0..300 {
        takers.push(b.lasting(&format!("taker {n}"), 10 + n).await);
    }
    let to: Vec<_> = takers.iter().collect();
    let (former, other) = (a.lasting("c", 1).await, a.lasting("other", 2).await);
    let owned = b.continued("c").await.0;
    // So many that a part of it may be among the next ones that are applied together.
    let behind = |count: usize, change: Change| [vec![Change::Receipt(other.clone(), 1); count], vec![change]].concat();
    for count in [0, 253, 254, 255] {
        let refused = behind(count, append_with(&to, "refused", Some((&former, 1))));
        assert_eq!(refusals(&a, refused).await, [Refusal::NotOwned]);
    }
    // One without a receipt, and one of the present owner.
    a.apply(vec![append_with(&to, "1", None)]).await;
    for count in [0, 254] {
        assert_eq!(refusals(&b, vec![append_with(&to, "2", Some((&owned, 1)))]).await, [], "{count}");
        let of_other = behind(count, append_with(&to, "3", Some((&other, 2))));
        assert_eq!(refusals(&a, of_other).await, []);
    }
    for taker in &takers {
        until(5, || b.messages(taker).len()).await;
        assert_eq!(payloads(&b.messages(taker)), ["1", "2", "3", "2", "3"]);
    }
}
