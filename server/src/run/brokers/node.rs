//! The broker of this process, for this one and for the others of the fleet.

use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use broker::fleet::Unavailable;
use broker::{Broker, SessionQuery, SubscriptionQuery};
use model::glob::Glob;
use proto::internal::v1 as wire;
use proto::internal::v1::broker_node_service_server::BrokerNodeService;
use tonic::{Request, Response, Status};

use super::convert;
use super::nodes::{NODE, ascii};
use crate::run::placement::PooledInbox;

/// Maximum number of items of a page.
const MAX_PAGE: u32 = 1000;

/// The broker of this process. Cheap to clone.
#[derive(Clone)]
pub(in crate::run) struct LocalNode(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    /// Not there yet during the start.
    broker: OnceLock<Arc<Broker<PooledInbox>>>,
}

impl LocalNode {
    /// A node without its broker.
    pub(in crate::run) fn new(name: &str) -> Self {
        Self(Arc::new(Inner { name: name.into(), broker: OnceLock::new() }))
    }

    /// Adds the broker. The first one counts.
    pub(in crate::run) fn open(&self, broker: Arc<Broker<PooledInbox>>) {
        self.0.broker.get_or_init(|| broker);
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    fn broker(&self) -> Result<&Arc<Broker<PooledInbox>>, Status> {
        self.0.broker.get().ok_or_else(|| Status::unavailable("it is starting"))
    }

    pub(super) fn sessions(&self, asked: &wire::SessionsRequest) -> Result<wire::SessionsResponse, Status> {
        if let Some(client) = &asked.client {
            let found = self.broker()?.session(&asked.tenant, client);
            let sessions = found.into_iter().map(|of| convert::session(&asked.tenant, self.name(), of)).collect();
            return Ok(wire::SessionsResponse { sessions, next: None });
        }
        let clients = Glob::new(&asked.clients);
        let query = session_query(asked, &clients);
        let page = self.broker()?.sessions(&asked.tenant, &query, limit(asked.limit));
        let sessions = page.items.into_iter().map(|of| convert::session(&asked.tenant, self.name(), of)).collect();
        Ok(wire::SessionsResponse { sessions, next: page.next })
    }

    pub(super) async fn disconnect(&self, asked: &wire::DisconnectRequest) -> Result<wire::DisconnectResponse, Status> {
        let done = self.broker()?.disconnect(&asked.tenant, &asked.client, asked.end_session).await;
        Ok(done.map_or_else(Default::default, |done| wire::DisconnectResponse {
            found: true,
            was_connected: done.was_connected,
            discarded: i64::try_from(done.discarded).unwrap_or(i64::MAX),
            node: String::new(),
        }))
    }

    pub(super) async fn stored_sessions(
        &self,
        asked: &wire::SessionsRequest,
    ) -> Result<wire::SessionsResponse, Status> {
        let broker = self.broker()?;
        if let Some(client) = &asked.client {
            let found = broker.stored_session(&asked.tenant, client).await.map_err(|error| unavailable(&error))?;
            let sessions = found.into_iter().map(|of| convert::stored_session(&asked.tenant, of)).collect();
            return Ok(wire::SessionsResponse { sessions, next: None });
        }
        let clients = Glob::new(&asked.clients);
        let query = session_query(asked, &clients);
        let page = broker.stored_sessions(&asked.tenant, &query, limit(asked.limit)).await;
        let page = page.map_err(|error| unavailable(&error))?;
        let sessions = page.items.into_iter().map(|of| convert::stored_session(&asked.tenant, of)).collect();
        Ok(wire::SessionsResponse { sessions, next: page.next })
    }

    pub(super) async fn stored_subscriptions(
        &self,
        asked: &wire::SubscriptionsRequest,
    ) -> Result<wire::SubscriptionsResponse, Status> {
        let (clients, filters) = (Glob::new(&asked.clients), Glob::new(&asked.filters));
        let query = subscription_query(asked, &clients, &filters);
        let page = self.broker()?.stored_subscriptions(&asked.tenant, &query, limit(asked.limit)).await;
        let page = page.map_err(|error| unavailable(&error))?;
        let all = page
            .items
            .into_iter()
            .map(|of| convert::subscription(&asked.tenant, of.node.as_deref().unwrap_or_default(), of.report));
        let next = page.next.map(|(key, filter)| wire::BrokerPosition { key, filter, exclusive: true });
        Ok(wire::SubscriptionsResponse { subscriptions: all.collect(), next })
    }

    pub(super) async fn end_stored(&self, asked: &wire::DisconnectRequest) -> Result<wire::DisconnectResponse, Status> {
        let ended = self.broker()?.end_stored(&asked.tenant, &asked.client).await;
        let ended = ended.map_err(|error| unavailable(&error))?;
        Ok(ended.map_or_else(Default::default, |(done, node)| wire::DisconnectResponse {
            found: true,
            was_connected: done.was_connected,
            discarded: i64::try_from(done.discarded).unwrap_or(i64::MAX),
            node: node.as_deref().unwrap_or_else(|| self.name()).to_owned(),
        }))
    }

    pub(super) fn subscriptions(
        &self,
        asked: &wire::SubscriptionsRequest,
    ) -> Result<wire::SubscriptionsResponse, Status> {
        let (clients, filters) = (Glob::new(&asked.clients), Glob::new(&asked.filters));
        let query = subscription_query(asked, &clients, &filters);
        let page = self.broker()?.subscriptions(&asked.tenant, &query, limit(asked.limit));
        let all = page.items.into_iter().map(|of| convert::subscription(&asked.tenant, self.name(), of));
        let next = page.next.map(|(key, filter)| wire::BrokerPosition { key, filter, exclusive: true });
        Ok(wire::SubscriptionsResponse { subscriptions: all.collect(), next })
    }

    pub(super) fn retained(
        &self,
        asked: &wire::RetainedMessagesRequest,
    ) -> Result<wire::RetainedMessagesResponse, Status> {
        let page = self.broker()?.retained(&asked.tenant, &asked.filter, asked.after.as_deref(), limit(asked.limit));
        let messages = page.items.into_iter().map(|of| convert::retained(&asked.tenant, self.name(), of)).collect();
        Ok(wire::RetainedMessagesResponse { messages, next: page.next })
    }

    pub(super) fn retained_message(
        &self,
        asked: &wire::RetainedMessageRequest,
    ) -> Result<wire::RetainedMessageResponse, Status> {
        let found = self.broker()?.retained_message(&asked.tenant, &asked.topic);
        let message = found.map(|of| convert::retained_payload(&asked.tenant, self.name(), of));
        Ok(wire::RetainedMessageResponse { message })
    }

    pub(super) async fn clear_retained(
        &self,
        asked: &wire::ClearRetainedRequest,
    ) -> Result<wire::ClearRetainedResponse, Status> {
        let (tenant, most) = (Arc::from(&*asked.tenant), asked.most as usize);
        let cleared = self.broker()?.clear_retained(&tenant, &asked.filter, asked.after.as_deref(), most).await;
        let cleared = cleared.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(wire::ClearRetainedResponse { cleared: cleared.topics, next: cleared.next })
    }
}

fn unavailable(error: &Unavailable) -> Status {
    Status::unavailable(error.to_string())
}

fn bound<T>(at: T, is_exclusive: bool) -> Bound<T> {
    if is_exclusive { Bound::Excluded(at) } else { Bound::Included(at) }
}

/// The query for a page of sessions.
fn session_query<'a>(asked: &'a wire::SessionsRequest, clients: &'a Glob) -> SessionQuery<'a> {
    let from = asked.from.as_ref().map_or(Bound::Unbounded, |at| bound(&*at.key, at.exclusive));
    SessionQuery { clients, connected: asked.connected, from }
}

/// The query for a page of subscriptions.
fn subscription_query<'a>(
    asked: &'a wire::SubscriptionsRequest,
    clients: &'a Glob,
    filters: &'a Glob,
) -> SubscriptionQuery<'a> {
    let from = asked.from.as_ref().map_or(Bound::Unbounded, |at| bound((&*at.key, &*at.filter), at.exclusive));
    SubscriptionQuery { clients, filters, topic: asked.topic.as_deref(), from }
}

fn limit(asked: u32) -> usize {
    asked.clamp(1, MAX_PAGE) as usize
}

/// The broker of this process, as the other processes of the fleet call it.
pub(in crate::run) struct Served(pub(in crate::run) LocalNode);

impl Served {
    /// Refuses a call that is meant for another node: an address may have gone to this one.
    fn check<T>(&self, request: Request<T>) -> Result<T, Status> {
        let meant = request.metadata().get(NODE).map(|name| name.as_bytes());
        let own = self.0.name();
        if meant == Some(ascii(own).as_bytes()) {
            return Ok(request.into_inner());
        }
        let hint = "set `fleet.address` and `fleet.advertise` in each process to an address of its own";
        Err(Status::failed_precondition(format!("its address is that of node {own:?}: {hint}")))
    }
}

#[tonic::async_trait]
impl BrokerNodeService for Served {
    async fn sessions(
        &self,
        request: Request<wire::SessionsRequest>,
    ) -> Result<Response<wire::SessionsResponse>, Status> {
        Ok(Response::new(self.0.sessions(&self.check(request)?)?))
    }

    async fn disconnect(
        &self,
        request: Request<wire::DisconnectRequest>,
    ) -> Result<Response<wire::DisconnectResponse>, Status> {
        Ok(Response::new(self.0.disconnect(&self.check(request)?).await?))
    }

    async fn subscriptions(
        &self,
        request: Request<wire::SubscriptionsRequest>,
    ) -> Result<Response<wire::SubscriptionsResponse>, Status> {
        Ok(Response::new(self.0.subscriptions(&self.check(request)?)?))
    }

    async fn stored_sessions(
        &self,
        request: Request<wire::SessionsRequest>,
    ) -> Result<Response<wire::SessionsResponse>, Status> {
        Ok(Response::new(self.0.stored_sessions(&self.check(request)?).await?))
    }

    async fn stored_subscriptions(
        &self,
        request: Request<wire::SubscriptionsRequest>,
    ) -> Result<Response<wire::SubscriptionsResponse>, Status> {
        Ok(Response::new(self.0.stored_subscriptions(&self.check(request)?).await?))
    }

    async fn end_stored(
        &self,
        request: Request<wire::DisconnectRequest>,
    ) -> Result<Response<wire::DisconnectResponse>, Status> {
        Ok(Response::new(self.0.end_stored(&self.check(request)?).await?))
    }

    async fn retained_messages(
        &self,
        request: Request<wire::RetainedMessagesRequest>,
    ) -> Result<Response<wire::RetainedMessagesResponse>, Status> {
        Ok(Response::new(self.0.retained(&self.check(request)?)?))
    }

    async fn retained_message(
        &self,
        request: Request<wire::RetainedMessageRequest>,
    ) -> Result<Response<wire::RetainedMessageResponse>, Status> {
        Ok(Response::new(self.0.retained_message(&self.check(request)?)?))
    }

    async fn clear_retained(
        &self,
        request: Request<wire::ClearRetainedRequest>,
    ) -> Result<Response<wire::ClearRetainedResponse>, Status> {
        Ok(Response::new(self.0.clear_retained(&self.check(request)?).await?))
    }
}
