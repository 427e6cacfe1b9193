//! Sessions, subscriptions and retained messages, over brokers that the tests control.

use api::{
    Brokers, BrokersError, ClearedRetained, Disconnected, Found, Listed, SessionsQuery, SubscriptionsQuery, names,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use proto::v1::list_sessions_request::State;
use proto::v1::{
    ClearRetainedMessagesRequest, DisconnectSessionRequest, DisconnectSessionResponse, GetRetainedMessageRequest,
    GetSessionRequest, ListRetainedMessagesRequest, ListSessionsRequest, ListSubscriptionsRequest, RetainedMessage,
    Session, Subscription, UnreachableNode,
};
use tonic::{Code, Status};

use crate::world::{PARENT, World, assert_status};

/// Brokers of one node, in memory.
#[derive(Default)]
pub(crate) struct FakeBrokers {
    pub(crate) sessions: Mutex<Vec<Session>>,
    pub(crate) subscriptions: Mutex<Vec<Subscription>>,
    pub(crate) retained: Mutex<Vec<RetainedMessage>>,
    /// Nodes that do not answer.
    pub(crate) unreachable: Mutex<Vec<UnreachableNode>>,
    /// The nodes are not known.
    pub(crate) is_unknown: Mutex<bool>,
    /// All calls, in their order.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl FakeBrokers {
    fn note(&self, what: String) -> Result<Vec<UnreachableNode>, BrokersError> {
        self.asked.lock().push(what);
        if *self.is_unknown.lock() {
            return Err(BrokersError::Unavailable("Redis is away".into()));
        }
        Ok(self.unreachable.lock().clone())
    }
}

/// The items behind a position, and the position of the next page.
fn page<T: Clone, P: Ord>(
    all: &[T],
    position: impl Fn(&T) -> P,
    after: Option<P>,
    limit: usize,
) -> (Vec<T>, Option<P>) {
    let left: Vec<T> =
        all.iter().filter(|item| after.as_ref().is_none_or(|at| position(item) > *at)).cloned().collect();
    let items = left[..left.len().min(limit)].to_vec();
    let next = items.last().filter(|_| left.len() > limit).map(position);
    (items, next)
}

#[async_trait]
impl Brokers for FakeBrokers {
    async fn sessions(&self, query: SessionsQuery) -> Result<Listed<Session, (String, String)>, BrokersError> {
        let unreachable = self.note(format!("sessions {} {} {:?}", query.tenant, query.clients, query.connected))?;
        let key = |session: &Session| (session.client_id.clone(), session.node.clone());
        let (items, next) = page(&self.sessions.lock(), key, query.after, query.limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn session(&self, _tenant: &str, client: &str) -> Result<Found<Session>, BrokersError> {
        let unreachable = self.note(format!("session {client}"))?;
        let item = self.sessions.lock().iter().find(|session| session.client_id == client).cloned();
        Ok(Found { item, unreachable })
    }

    async fn disconnect(&self, tenant: &str, client: &str, end_session: bool) -> Result<Disconnected, BrokersError> {
        let unreachable = self.note(format!("disconnect {tenant} {client} {end_session}"))?;
        let held = self.sessions.lock().iter().find(|session| session.client_id == client).cloned();
        let nodes = held.iter().map(|session| session.node.clone()).collect();
        let was_connected = held.is_some_and(|session| session.connected);
        Ok(Disconnected { nodes, was_connected, discarded: if end_session { 3 } else { 0 }, unreachable })
    }

    async fn subscriptions(
        &self,
        query: SubscriptionsQuery,
    ) -> Result<Listed<Subscription, (String, String, String)>, BrokersError> {
        let asked = (&query.clients, &query.filters, &query.topic);
        let unreachable = self.note(format!("subscriptions {} {asked:?}", query.tenant))?;
        let key = |of: &Subscription| (of.client_id.clone(), of.filter.clone(), of.node.clone());
        let (items, next) = page(&self.subscriptions.lock(), key, query.after, query.limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn retained(
        &self,
        _tenant: &str,
        filter: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listed<RetainedMessage, String>, BrokersError> {
        let unreachable = self.note(format!("retained {filter}"))?;
        let (items, next) = page(&self.retained.lock(), |message| message.topic.clone(), after, limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn retained_message(&self, _tenant: &str, topic: &str) -> Result<Found<RetainedMessage>, BrokersError> {
        let unreachable = self.note(format!("retained message {topic}"))?;
        let item = self.retained.lock().iter().find(|message| message.topic == topic).cloned();
        Ok(Found { item, unreachable })
    }

    async fn clear_retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<String>,
    ) -> Result<ClearedRetained, BrokersError> {
        let unreachable = self.note(format!("clear {tenant} {filter} {after:?}"))?;
        let next = after.is_none().then(|| "t/1".to_owned());
        Ok(ClearedRetained { cleared: 2, next, unreachable })
    }
}

/// A session of a client of a device, or of none.
pub(crate) fn session(client: &str, device: &str, connected: bool) -> Session {
    let device = if device.is_empty() { String::new() } else { names::device("default", device) };
    let name = names::child("default", "sessions", client);
    Session { name, client_id: client.into(), device, node: "n1".into(), connected, ..Session::default() }
}

fn away() -> UnreachableNode {
    UnreachableNode { node: "n2".into(), reason: "no answer within 5s".into() }
}

async fn world() -> World {
    let world = World::start().await;
    *world.brokers.sessions.lock() = vec![session("a", "", true), session("b/c", "", false), session("d", "", true)];
    world
}

/// Name of the session of a client, for its own tenant.
pub(crate) fn name(client: &str) -> String {
    names::child("-", "sessions", client)
}

async fn disconnect(world: &World, client: &str, end_session: bool) -> Result<DisconnectSessionResponse, Status> {
    let request = DisconnectSessionRequest { name: name(client), end_session };
    Ok(world.broker_service().disconnect_session(request).await?.into_inner())
}

/// Client ids.
pub(crate) fn ids(sessions: &[Session]) -> Vec<&str> {
    sessions.iter().map(|session| &*session.client_id).collect()
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_with_the_nodes_that_are_missing() {
    let world = world().await;
    let list = async |page_size, page_token: &str, state| {
        let (parent, page_token) = (PARENT.to_owned(), page_token.to_owned());
        let (client_id, state) = ("*".to_owned(), i32::from(state));
        let request = ListSessionsRequest { parent, page_size, page_token, client_id, state };
        Ok::<_, Status>(world.broker_service().list_sessions(request).await?.into_inner())
    };
    let first = list(2, "", State::Unspecified).await.unwrap();
    assert_eq!((ids(&first.sessions), first.unreachable_nodes.len()), (vec!["a", "b/c"], 0));
    *world.brokers.unreachable.lock() = vec![away()];
    let second = list(2, &first.next_page_token, State::Unspecified).await.unwrap();
    assert_eq!((ids(&second.sessions), &*second.next_page_token), (vec!["d"], ""));
    assert_eq!(second.unreachable_nodes, [away()]);
    assert_status(
        &list(2, &first.next_page_token, State::Away).await.unwrap_err(),
        Code::InvalidArgument,
        "TOKEN_INVALID",
    );
    list(0, "", State::Connected).await.unwrap();
    assert_eq!(world.brokers.asked.lock().last().unwrap(), "sessions default * Some(true)");
    let wrong = ListSessionsRequest { parent: PARENT.into(), state: 7, ..Default::default() };
    let status = world.broker_service().list_sessions(wrong).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    *world.brokers.is_unknown.lock() = true;
    let status = list(0, "", State::Unspecified).await.unwrap_err();
    assert_status(&status, Code::Unavailable, "NODE_UNAVAILABLE");
    assert!(status.message().contains("Redis is away"), "{status}");
}

#[tokio::test]
async fn a_session_is_found_by_its_name_and_a_missing_node_is_not_taken_for_its_absence() {
    let world = world().await;
    let get = async |client: &str| {
        let request = GetSessionRequest { name: name(client) };
        Ok::<_, Status>(world.broker_service().get_session(request).await?.into_inner())
    };
    assert_eq!(get("b/c").await.unwrap(), session("b/c", "", false));
    assert_status(&get("x").await.unwrap_err(), Code::NotFound, "SESSION_NOT_FOUND");
    *world.brokers.unreachable.lock() = vec![away()];
    assert_eq!(get("a").await.unwrap().client_id, "a");
    let status = get("x").await.unwrap_err();
    assert_status(&status, Code::Unavailable, "NODE_UNAVAILABLE");
    assert!(status.message().contains("n2 (no answer within 5s)"), "{status}");
    let request = GetSessionRequest { name: "tenants/-/sessions".into() };
    let status = world.broker_service().get_session(request).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn a_client_is_disconnected_and_its_session_ended_when_asked_for() {
    let world = world().await;
    let done = disconnect(&world, "a", false).await.unwrap();
    assert_eq!((done.was_connected, done.discarded_message_count, done.nodes), (true, 0, vec!["n1".to_owned()]));
    let status = disconnect(&world, "b/c", false).await.unwrap_err();
    assert_status(&status, Code::FailedPrecondition, "SESSION_NOT_CONNECTED");
    assert!(status.message().contains("end_session"), "{status}");
    let done = disconnect(&world, "b/c", true).await.unwrap();
    assert_eq!((done.was_connected, done.discarded_message_count), (false, 3));
    assert_status(&disconnect(&world, "x", true).await.unwrap_err(), Code::NotFound, "SESSION_NOT_FOUND");
    let done: Vec<String> = world.brokers.asked.lock().iter().filter(|of| of.starts_with("disc")).cloned().collect();
    assert_eq!(done, ["disconnect default a false", "disconnect default b/c true"]);
    *world.brokers.unreachable.lock() = vec![away()];
    assert_status(&disconnect(&world, "a", false).await.unwrap_err(), Code::Unavailable, "NODE_UNAVAILABLE");
}

#[tokio::test]
async fn subscriptions_are_listed_by_patterns_and_topic() {
    let world = world().await;
    let of = |client: &str, filter: &str| Subscription {
        client_id: client.into(),
        filter: filter.into(),
        node: "n1".into(),
        ..Subscription::default()
    };
    *world.brokers.subscriptions.lock() = vec![of("a", "#"), of("a", "n/+"), of("b", "#")];
    let list = async |page_size, page_token: String, topic: &str| {
        let (parent, filter, topic) = (PARENT.to_owned(), "n*".to_owned(), topic.to_owned());
        let request =
            ListSubscriptionsRequest { parent, page_size, page_token, client_id: String::new(), filter, topic };
        Ok::<_, Status>(world.broker_service().list_subscriptions(request).await?.into_inner())
    };
    let first = list(2, String::new(), "n/1").await.unwrap();
    assert_eq!(first.subscriptions, [of("a", "#"), of("a", "n/+")]);
    let second = list(2, first.next_page_token, "n/1").await.unwrap();
    assert_eq!((second.subscriptions, &*second.next_page_token), (vec![of("b", "#")], ""));
    assert_eq!(world.brokers.asked.lock()[0], r#"subscriptions default ("*", "n*", Some("n/1"))"#);
    let status = list(0, String::new(), "n/+").await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("wildcard"), "{status}");
}

#[tokio::test]
async fn retained_messages_are_listed_shown_and_cleared() {
    let world = world().await;
    let message = |topic: &str| RetainedMessage { topic: topic.into(), payload: b"on".to_vec(), ..Default::default() };
    *world.brokers.retained.lock() = vec![message("t/1"), message("t/2")];
    let mut client = world.broker_service();
    let request = ListRetainedMessagesRequest { parent: PARENT.into(), page_size: 1, ..Default::default() };
    let first = client.list_retained_messages(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.retained_messages, [message("t/1")]);
    let request = ListRetainedMessagesRequest { page_token: first.next_page_token, ..request };
    let second = client.list_retained_messages(request).await.unwrap().into_inner();
    assert_eq!((second.retained_messages, &*second.next_page_token), (vec![message("t/2")], ""));
    assert_eq!(world.brokers.asked.lock()[0], "retained #");
    let get = |topic: &str| GetRetainedMessageRequest { name: names::child("-", "retainedMessages", topic) };
    assert_eq!(client.get_retained_message(get("t/2")).await.unwrap().into_inner(), message("t/2"));
    let status = client.get_retained_message(get("t/3")).await.unwrap_err();
    assert_status(&status, Code::NotFound, "RETAINED_MESSAGE_NOT_FOUND");
    let clear = |topic_filter: &str, page_token: &str| ClearRetainedMessagesRequest {
        parent: PARENT.into(),
        topic_filter: topic_filter.into(),
        page_token: page_token.into(),
    };
    let first = client.clear_retained_messages(clear("t/#", "")).await.unwrap().into_inner();
    assert_eq!(first.cleared_count, 2);
    let last = client.clear_retained_messages(clear("t/#", &first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((last.cleared_count, &*last.next_page_token), (2, ""));
    let asked = world.brokers.asked.lock().clone();
    assert_eq!(asked[asked.len() - 2..], ["clear default t/# None", r#"clear default t/# Some("t/1")"#]);
    for wrong in ["", "t/#/x", "$share/g/t"] {
        let status = client.clear_retained_messages(clear(wrong, "")).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().starts_with("topic_filter:"), "{status}");
    }
    *world.brokers.unreachable.lock() = vec![away()];
    let status = client.clear_retained_messages(clear("#", "")).await.unwrap_err();
    assert_status(&status, Code::Unavailable, "NODE_UNAVAILABLE");
}
