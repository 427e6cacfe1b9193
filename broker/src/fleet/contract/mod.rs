//! The rules that every form of the [`SessionStore`] and the [`Bus`] keeps, as tests that take any.
//!
//! [`fleet_contract`](crate::fleet_contract) makes a test of each. Available with the feature
//! `testing` only.

mod claims;
mod failures;
mod leftovers;
mod listing;
mod messages;
mod peer;
mod refusals;
mod routes;
mod wills;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Bus, Change, Client, Owned, Placed, Progress, SessionStore, SharedMessage, Source, Subscription};

pub use claims::*;
pub use failures::*;
pub use leftovers::*;
pub use listing::*;
pub use messages::*;
pub use refusals::*;
pub use routes::*;
pub use wills::*;

use peer::Peer;

/// Time after which a state that a test waits for does not come.
const PATIENCE: Duration = Duration::from_secs(30);
/// The tenant of the tests.
const TENANT: &str = "t";

/// A fleet of a test: it has no node, session or message yet.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Starts a node.
    async fn node(&self, name: &str) -> (Arc<dyn SessionStore>, Arc<dyn Bus>);

    /// Ends a node that has no time to say so. Returns when the others can know.
    async fn kill(&self, name: &str);

    /// Lets the store be away for all nodes, or back.
    async fn away(&self, is_away: bool);

    /// Messages that a session has at most.
    fn most_messages(&self) -> usize;
}

/// Makes a test of each rule. `$open` is a future of the fixture; None when what it needs is not
/// installed.
#[macro_export]
macro_rules! fleet_contract {
    ($open:expr) => {
        $crate::fleet_contract! { $open;
            a_new_client_has_no_session,
            a_session_continues_with_all_that_was_kept,
            a_clean_claim_ends_the_session,
            a_session_that_does_not_last_leaves_nothing,
            an_owner_hands_over_what_has_arrived_first,
            an_owner_that_does_not_answer_loses_the_client_all_the_same,
            an_owner_whose_client_has_left_is_not_asked,
            a_former_owner_changes_nothing,
            a_change_of_a_former_owner_is_refused,
            a_change_that_waited_too_long_is_refused,
            a_receipt_is_of_the_connections_that_know_of_each_other,
            a_message_for_many_sessions_reaches_all_or_none,
            a_node_that_claims_its_own_client_again_hears_nothing,
            of_claims_at_once_the_last_one_counts,
            messages_get_numbers_in_one_order,
            messages_during_claims_are_neither_lost_nor_doubled,
            messages_wait_until_a_session_begins,
            a_session_whose_client_is_away_is_in_the_store_alone,
            progress_forgets_messages,
            a_message_that_was_released_stays_until_it_is_done,
            a_message_comes_with_its_receipt_or_not_at_all,
            a_session_that_has_ended_gets_nothing,
            a_session_with_too_many_messages_loses_the_next,
            messages_are_read_behind_a_number,
            forwarded_messages_come_behind_what_was_submitted_before,
            forwarded_messages_reach_the_nodes_that_are_named,
            a_node_is_told_that_messages_for_its_subscribers_were_dropped,
            subscriptions_are_known_at_every_node,
            the_end_of_a_session_ends_its_subscriptions,
            members_of_shared_subscriptions_are_seen_to_come_and_go,
            interests_are_known_at_the_other_nodes,
            the_death_of_a_node_ends_its_interests_and_none_of_its_sessions,
            sessions_expire_and_not_while_their_clients_are_connected,
            tickets_become_durable_in_order,
            a_store_that_is_away_gets_all_changes_afterwards,
            there_is_no_room_while_many_changes_wait,
            a_tenant_is_forgotten_alone,
            clients_are_listed_in_their_order,
            sessions_are_shown_as_the_store_has_them,
            sessions_that_have_ended_are_not_shown,
            a_session_that_is_away_is_ended_by_any_node,
            a_will_is_its_nodes_until_it_is_over,
            a_client_that_is_back_in_time_has_no_will,
            a_client_that_connects_elsewhere_brings_its_will,
            a_will_that_its_node_publishes_already_stays_with_it,
            sessions_get_a_will_once,
            a_client_of_a_dead_node_brings_its_will,
            wills_of_a_dead_node_are_for_another_one_when_they_are_due,
            a_will_that_a_dead_node_was_to_publish_is_for_the_next,
            a_node_learns_nothing_of_wills_while_the_store_is_away,
            a_session_that_ends_leaves_messages_for_other_members,
            what_a_dead_node_may_have_sent_once_is_not_left_over,
            what_is_left_over_goes_to_one_taker,
            what_a_dead_node_was_to_hand_on_is_handed_on_once,
            sessions_leave_over_side_by_side,
            a_message_for_a_member_that_is_gone_is_left_over,
            what_a_member_that_is_away_has_may_be_handed_on
        }
    };
    ($open:expr; $($rule:ident),*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            let Some(fixture) = $open.await else { return };
            $crate::fleet::contract::$rule(&fixture).await;
        })*
    };
}

fn client(id: &str) -> Client {
    Client { tenant: TENANT.into(), id: id.into() }
}

fn options(qos: u8) -> Subscription {
    Subscription { qos, no_local: true, retain_as_published: true, id: Some(268_435_455) }
}

fn message(payload: impl ToString) -> Arc<SharedMessage> {
    Arc::new(SharedMessage {
        topic: "a/\u{e9}".into(),
        payload: payload.to_string().into_bytes().into(),
        properties: [11, 1].into(),
        qos: 2,
        retain: true,
        published: 1_700_000_000_000_000_000,
    })
}

fn placed() -> Placed {
    Placed {
        qos: 2,
        retain: true,
        ids: vec![1, 268_435_455],
        share: Some("$share/g/a/+".into()),
        is_for_connected: false,
    }
}

/// A message for a session.
fn append(owned: &Owned, payload: impl ToString) -> Change {
    append_with(&[owned], payload, None)
}

fn append_with(to: &[&Owned], payload: impl ToString, receipt: Option<(&Owned, u16)>) -> Change {
    Change::Message {
        tenant: TENANT.into(),
        message: message(payload),
        takers: to.iter().map(|owned| (Arc::clone(&owned.client.id), owned.session, placed())).collect(),
        source: receipt.map(|(owned, packet_id)| Source::Publish(owned.clone(), packet_id)),
    }
}

fn progress(done_to: u64, done: &[(u64, u64)], sent_to: u64) -> Progress {
    Progress { done_to, done: done.to_vec(), sent_to, ..Progress::default() }
}

/// Waits until `look` returns what is expected.
///
/// # Panics
/// If it does not in time: with what it returned last.
pub async fn until<T: PartialEq + Debug>(expected: T, mut look: impl FnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if seen == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?} is not {expected:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
