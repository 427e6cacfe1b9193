//! Sessions that last, as the store of the fleet has them: one node is asked for them, and its
//! answer completes those of all nodes.

use std::sync::Arc;

use api::BrokersError;
use proto::internal::v1 as wire;
use proto::v1;

use super::merge::{Part, Row, merge_stored};
use super::nodes::Node;
use super::{Answer, Brokers};

/// In the place of a node's name, for items of the store: behind those of all nodes.
const STORE: &str = "\u{10ffff}";

impl Brokers {
    /// Asks a node about the store. None where there is no store, or no node that answers: they
    /// are named already.
    ///
    /// # Errors
    /// [`BrokersError`] when there is no node at all.
    pub(super) async fn ask_store<R, T: Send + 'static>(
        &self,
        (way, unreachable): (Option<(Arc<str>, Node)>, &mut Vec<v1::UnreachableNode>),
        request: R,
        call: fn(Node, Arc<str>, R) -> Answer<T>,
    ) -> Result<Option<T>, BrokersError> {
        if !self.0.is_fleet() {
            return Ok(None);
        }
        let Some((name, node)) = way else {
            if unreachable.is_empty() {
                return Err(BrokersError::Unavailable("none is running".to_owned()));
            }
            return Ok(None);
        };
        match super::within(super::ANSWER, call(node, Arc::clone(&name), request)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(reason) => {
                let reason = format!("sessions that no node holds are missing: {reason}");
                unreachable.push(v1::UnreachableNode { node: name.to_string(), reason });
                Ok(None)
            }
        }
    }
}

/// Merges the sessions of nodes with those of the store.
pub(super) fn sessions(
    answers: Vec<(Arc<str>, wire::SessionsResponse)>,
    stored: Option<wire::SessionsResponse>,
    limit: usize,
) -> (Vec<v1::Session>, Option<(String, String)>) {
    let part = |place: &str, answer: wire::SessionsResponse, is_stored: bool| Part {
        items: answer.sessions.into_iter().map(|item| Row { item, is_stored }).collect(),
        next: answer.next.map(|client| (client, place.to_owned())),
    };
    let of_nodes = answers.into_iter().map(|(name, answer)| part(&name, answer, false));
    let parts = of_nodes.chain(stored.map(|answer| part(STORE, answer, true))).collect();
    let key = |row: &Row<v1::Session>| (row.item.client_id.clone(), place(row, &row.item.node));
    merge_stored(parts, key, |of| of.client_id.clone(), complete, limit)
}

/// Merges the subscriptions of nodes with those of the store. Their position is a client id, a
/// filter and a node.
pub(super) fn subscriptions(
    answers: Vec<(Arc<str>, wire::SubscriptionsResponse)>,
    stored: Option<wire::SubscriptionsResponse>,
    limit: usize,
) -> (Vec<v1::Subscription>, Option<(String, String, String)>) {
    let part = |place: &str, answer: wire::SubscriptionsResponse, is_stored: bool| Part {
        items: answer.subscriptions.into_iter().map(|item| Row { item, is_stored }).collect(),
        next: answer.next.map(|at| (at.key, at.filter, place.to_owned())),
    };
    let of_nodes = answers.into_iter().map(|(name, answer)| part(&name, answer, false));
    let parts = of_nodes.chain(stored.map(|answer| part(STORE, answer, true))).collect();
    let key =
        |row: &Row<v1::Subscription>| (row.item.client_id.clone(), row.item.filter.clone(), place(row, &row.item.node));
    let identity = |of: &v1::Subscription| (of.client_id.clone(), of.filter.clone());
    merge_stored(parts, key, identity, |_, _| {}, limit)
}

fn place<T>(row: &Row<T>, node: &str) -> String {
    if row.is_stored { STORE.to_owned() } else { node.to_owned() }
}

/// Adds what only the store knows of a session whose client is away: its messages wait there.
pub(super) fn complete(session: &mut v1::Session, stored: &v1::Session) {
    if !session.connected && !stored.connected {
        session.queued_message_count = stored.queued_message_count;
        session.unreleased_count = stored.unreleased_count;
        session.expire_time = stored.expire_time;
    }
}
