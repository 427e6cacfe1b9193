//! A fleet in memory as tests want it: held, away, and short of messages.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryFleet;
use crate::fleet::contract::Fixture;
use crate::fleet::{Arrival, Bus, Change, Client, Placed, Route, SessionStore, SharedMessage};

/// Messages of a session in the tests of the contract.
const MOST: usize = 2000;

struct InMemory(MemoryFleet);

#[async_trait]
impl Fixture for InMemory {
    async fn node(&self, name: &str) -> (Arc<dyn SessionStore>, Arc<dyn Bus>) {
        let node = self.0.node(name);
        (Arc::clone(&node) as _, node)
    }

    async fn kill(&self, name: &str) {
        self.0.kill(name);
    }

    async fn away(&self, is_away: bool) {
        self.0.away(is_away);
    }

    fn most_messages(&self) -> usize {
        MOST
    }
}

crate::fleet_contract!(std::future::ready(Some(InMemory(MemoryFleet::with_most(MOST)))));

fn client() -> Client {
    Client { tenant: "t".into(), id: "c".into() }
}

fn message() -> Change {
    let message = SharedMessage {
        topic: "a".into(),
        payload: b"1".as_slice().into(),
        properties: Box::default(),
        qos: 1,
        retain: false,
        published: 0,
    };
    let placed = Placed { qos: 1, retain: false, ids: Vec::new(), share: None, is_for_connected: false };
    Change::Message {
        tenant: "t".into(),
        message: Arc::new(message),
        takers: vec![("c".into(), 1, placed)],
        source: None,
    }
}

#[tokio::test]
async fn changes_of_a_held_node_take_effect_and_are_not_durable() {
    let fleet = MemoryFleet::new();
    let [a, b] = ["a", "b"].map(|name| fleet.node(name));
    let claimed = a.claim(&client(), true, 1, None).await.unwrap();
    a.hold();
    let ticket = a.submit(vec![Change::Keep(claimed.owned.clone(), 9), message()]);
    assert!(b.is_durable(b.submit(Vec::new())));
    assert!(!a.is_durable(ticket));
    a.begin(&claimed.owned);
    assert!(
        matches!(&a.arrivals().await[..], [Arrival::Message(owned, first)] if *owned == claimed.owned && first.number == 1)
    );
    a.release();
    assert!(a.is_durable(ticket));
}

#[tokio::test]
async fn a_node_that_is_cut_off_claims_nothing_and_its_changes_wait() {
    let fleet = MemoryFleet::new();
    let [a, b] = ["a", "b"].map(|name| fleet.node(name));
    let claimed = a.claim(&client(), true, 1, None).await.unwrap();
    a.away(true);
    let ticket = a.submit(vec![Change::Keep(claimed.owned.clone(), 9)]);
    assert!(a.claim(&client(), false, 2, None).await.is_err() && a.messages(&claimed.owned, 0).await.is_err());
    assert_eq!(fleet.session(&client()), Some((claimed.owned.clone(), None)));
    a.away(false);
    assert!(a.is_durable(ticket));
    assert!(fleet.session(&client()).unwrap().1.is_some());
    assert_eq!(fleet.owner(&client()).unwrap(), ("a".into(), true));
    drop(b);
}

#[tokio::test]
async fn dropped_arrivals_are_a_gap_and_the_messages_are_still_there() {
    let fleet = MemoryFleet::new();
    let a = fleet.node("a");
    let claimed = a.claim(&client(), true, 1, None).await.unwrap();
    a.submit(vec![Change::Keep(claimed.owned.clone(), 9), message(), message()]);
    a.begin(&claimed.owned);
    fleet.drop_arrivals("a");
    assert_eq!(a.arrivals().await, [Arrival::Gap]);
    let left = a.messages(&claimed.owned, 1).await.unwrap();
    assert_eq!(left.iter().map(|message| message.number).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn time_that_a_test_lets_pass_ends_sessions() {
    let fleet = MemoryFleet::new();
    let a = fleet.node("a");
    let claimed = a.claim(&client(), true, 1, None).await.unwrap();
    a.submit(vec![Change::Keep(claimed.owned.clone(), 3600), Change::Leave(claimed.owned)]);
    assert_eq!(a.routes().await, [Route::Reset(0)]);
    fleet.advance(Duration::from_secs(3599));
    assert_eq!(fleet.clients("t"), 1);
    fleet.advance(Duration::from_secs(1));
    assert_eq!((fleet.clients("t"), a.routes().await), (0, vec![Route::Ended(client(), 1)]));
}

#[tokio::test]
async fn a_node_that_starts_again_is_another_one() {
    let fleet = MemoryFleet::new();
    let [first, other] = ["a", "b"].map(|name| fleet.node(name));
    let claimed = first.claim(&client(), true, 1, None).await.unwrap();
    first.submit(vec![Change::Keep(claimed.owned, 9)]);
    let second = fleet.node("a");
    assert!(first.claim(&client(), false, 2, None).await.is_err());
    let again = second.claim(&client(), false, 3, None).await.unwrap();
    assert_eq!((again.taken_over, again.owned.session), (false, 1));
    let [up, down] = [Route::NodeUp("a".into()), Route::NodeDown("a".into())];
    assert_eq!(other.routes().await, [Route::Reset(0), up.clone(), down, up]);
}
