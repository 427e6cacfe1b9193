//! The brokers of all processes that accept devices, for the api: each answers for its own
//! sessions, subscriptions and retained messages, and the answers are merged. A process that does
//! not answer is named in the answer.

mod convert;
mod merge;
mod node;
mod nodes;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use api::{BrokersError, ClearedRetained, Disconnected, Found, Listed, SessionsQuery, SubscriptionsQuery};
use async_trait::async_trait;
use flusher::fleet::Pools;
use futures::future::{BoxFuture, join_all};
use proto::internal::v1 as wire;
use proto::internal::v1::broker_node_service_server::BrokerNodeServiceServer;
use proto::v1;
use tonic::Status;
use tonic::service::{Routes, RoutesBuilder};

use merge::Part;
pub(super) use node::LocalNode;
use node::Served;
pub(super) use nodes::{Fellows, Nodes};
use nodes::{Node, Place};

/// Time for a node to answer from memory.
const ANSWER: Duration = Duration::from_secs(5);
/// Time for a node to end a connection, or to clear messages: it may wait for its log.
const ACT: Duration = Duration::from_secs(20);
/// Topics after which a call to clear messages ends.
const CLEARED: u32 = 10_000;

/// The answers of this process to the others of its fleet: about the logs that it holds, and about
/// its broker.
pub(super) fn services(logs: Pools, own: Option<LocalNode>) -> Routes {
    let mut services = RoutesBuilder::default();
    if !logs.is_empty() {
        services.add_service(flusher::fleet::answers(logs));
    }
    if let Some(own) = own {
        services.add_service(BrokerNodeServiceServer::new(Served(own)));
    }
    services.routes()
}

/// The brokers of the installation. Cheap to clone.
#[derive(Clone)]
pub(super) struct Brokers(Arc<Nodes>);

/// The answer of a node to come.
type Answer<T> = BoxFuture<'static, Result<T, Status>>;

/// The answers of nodes that have answered, and the others.
struct Answers<T> {
    answers: Vec<(Arc<str>, T)>,
    unreachable: Vec<v1::UnreachableNode>,
    /// A node that has answered: this one, if it is one.
    way: Option<(Arc<str>, Node)>,
}

/// The answer of a node, or the reason why there is none.
async fn within<T>(most: Duration, answer: Answer<T>) -> Result<T, String> {
    match tokio::time::timeout(most, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(nodes::explain(&status)),
        Err(_) => Err(format!("no answer within {most:?}")),
    }
}

impl Brokers {
    pub(super) fn new(nodes: Nodes) -> Self {
        Self(Arc::new(nodes))
    }

    /// Asks every node at the same time, each with the request for its name.
    async fn ask<R, T: Send + 'static>(
        &self,
        most: Duration,
        request: impl Fn(&str) -> R + Send,
        call: fn(Node, Arc<str>, R) -> Answer<T>,
    ) -> Result<Answers<T>, BrokersError> {
        let places = self.0.list().await.map_err(BrokersError::Unavailable)?;
        let asked = places.into_iter().map(|Place { name, node }| {
            let answer = node.map(|node| (node.clone(), call(node, Arc::clone(&name), request(&name))));
            async move {
                let answer = match answer {
                    Err(reason) => Err(reason),
                    Ok((node, answer)) => within(most, answer).await.map(|answer| (node, answer)),
                };
                (name, answer)
            }
        });
        let asked: Vec<_> = asked.collect();
        let mut all = Answers { answers: Vec::new(), unreachable: Vec::new(), way: None };
        for (name, answer) in join_all(asked).await {
            match answer {
                Ok((node, answer)) => {
                    if all.way.is_none() || matches!(node, Node::Here(_)) {
                        all.way = Some((Arc::clone(&name), node));
                    }
                    all.answers.push((name, answer));
                }
                Err(reason) => all.unreachable.push(v1::UnreachableNode { node: name.to_string(), reason }),
            }
        }
        Ok(all)
    }
}

/// A position that a node's list begins with, or behind.
fn from(key: &str, filter: &str, node: &str, last_node: &str) -> wire::BrokerPosition {
    wire::BrokerPosition { key: key.to_owned(), filter: filter.to_owned(), exclusive: node <= last_node }
}

/// The time of a timestamp, for the choice of the newest.
fn time(message: &v1::RetainedMessage) -> (i64, i32) {
    message.publish_time.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos))
}

/// Calls of a node, as [`Brokers::ask`] makes them.
macro_rules! call {
    ($method:ident) => {
        |node, name, request| Box::pin(async move { node.$method(&name, request).await })
    };
}

#[async_trait]
impl api::Brokers for Brokers {
    async fn sessions(&self, query: SessionsQuery) -> Result<Listed<v1::Session, (String, String)>, BrokersError> {
        let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
        let request = |name: &str| wire::SessionsRequest {
            tenant: query.tenant.clone(),
            clients: query.clients.clone(),
            connected: query.connected,
            from: query.after.as_ref().map(|(client, last)| from(client, "", name, last)),
            limit,
            client: None,
        };
        let Answers { answers, mut unreachable, way } = self.ask(ANSWER, &request, call!(sessions)).await?;
        // Under no name: behind the client, whichever node the page before has ended with.
        let asked = (way, &mut unreachable);
        let stored = self.ask_store(asked, request(""), call!(stored_sessions)).await?;
        let (items, next) = stored::sessions(answers, stored, query.limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn session(&self, tenant: &str, client: &str) -> Result<Found<v1::Session>, BrokersError> {
        let (tenant, client) = (tenant.to_owned(), client.to_owned());
        let request = |_: &str| wire::SessionsRequest {
            tenant: tenant.clone(),
            client: Some(client.clone()),
            ..wire::SessionsRequest::default()
        };
        let Answers { answers, mut unreachable, way } = self.ask(ANSWER, request, call!(sessions)).await?;
        let sessions = answers.into_iter().flat_map(|(_, answer)| answer.sessions);
        let time = |session: &v1::Session| session.connect_time.as_ref().map_or(0, |at| at.seconds);
        let mut item = sessions.max_by_key(|session| (session.connected, time(session)));
        if !item.as_ref().is_some_and(|session| session.connected) {
            let stored = self.ask_store((way, &mut unreachable), request(""), call!(stored_sessions)).await?;
            let stored = stored.and_then(|answer| answer.sessions.into_iter().next());
            match (&mut item, stored) {
                (Some(session), Some(stored)) => stored::complete(session, &stored),
                (None, stored) => item = stored,
                (Some(_), None) => {}
            }
        }
        Ok(Found { item, unreachable })
    }

    async fn disconnect(&self, tenant: &str, client: &str, end_session: bool) -> Result<Disconnected, BrokersError> {
        let (tenant, client) = (tenant.to_owned(), client.to_owned());
        let request = |_: &str| wire::DisconnectRequest { tenant: tenant.clone(), client: client.clone(), end_session };
        let Answers { answers, unreachable, way } = self.ask(ACT, request, call!(disconnect)).await?;
        let mut done = Disconnected { unreachable, ..Disconnected::default() };
        for (name, answer) in answers.into_iter().filter(|(_, answer)| answer.found) {
            done.nodes.push(name.to_string());
            done.was_connected |= answer.was_connected;
            done.discarded += answer.discarded;
        }
        if end_session {
            let stored = self.ask_store((way, &mut done.unreachable), request(""), call!(end_stored)).await?;
            if let Some(ended) = stored.filter(|answer| answer.found) {
                done.discarded += ended.discarded;
                if !done.nodes.contains(&ended.node) {
                    done.nodes.push(ended.node);
                }
            }
        }
        Ok(done)
    }

    async fn subscriptions(
        &self,
        query: SubscriptionsQuery,
    ) -> Result<Listed<v1::Subscription, (String, String, String)>, BrokersError> {
        let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
        let request = |name: &str| wire::SubscriptionsRequest {
            tenant: query.tenant.clone(),
            clients: query.clients.clone(),
            filters: query.filters.clone(),
            topic: query.topic.clone(),
            from: query.after.as_ref().map(|(client, filter, last)| from(client, filter, name, last)),
            limit,
        };
        let Answers { answers, mut unreachable, way } = self.ask(ANSWER, &request, call!(subscriptions)).await?;
        let asked = (way, &mut unreachable);
        let stored = self.ask_store(asked, request(""), call!(stored_subscriptions)).await?;
        let (items, next) = stored::subscriptions(answers, stored, query.limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listed<v1::RetainedMessage, String>, BrokersError> {
        let request = wire::RetainedMessagesRequest {
            tenant: tenant.to_owned(),
            filter: filter.to_owned(),
            after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let Answers { answers, unreachable, .. } = self.ask(ANSWER, |_| request.clone(), call!(retained)).await?;
        let parts = answers.into_iter().map(|(_, answer)| Part { items: answer.messages, next: answer.next });
        let (items, next) = merge::newest(parts.collect(), |message| message.topic.clone(), time, limit);
        Ok(Listed { items, next, unreachable })
    }

    async fn retained_message(&self, tenant: &str, topic: &str) -> Result<Found<v1::RetainedMessage>, BrokersError> {
        let request = wire::RetainedMessageRequest { tenant: tenant.to_owned(), topic: topic.to_owned() };
        let Answers { answers, unreachable, .. } =
            self.ask(ANSWER, |_| request.clone(), call!(retained_message)).await?;
        let messages = answers.into_iter().filter_map(|(_, answer)| answer.message);
        Ok(Found { item: messages.max_by_key(time), unreachable })
    }

    async fn clear_retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<String>,
    ) -> Result<ClearedRetained, BrokersError> {
        let (tenant, filter) = (tenant.to_owned(), filter.to_owned());
        let request = wire::ClearRetainedRequest { tenant, filter, after, most: CLEARED };
        let Answers { answers, unreachable, .. } = self.ask(ACT, |_| request.clone(), call!(clear_retained)).await?;
        let cleared = answers.iter().map(|(_, answer)| answer.cleared).sum();
        // The nodes that came further have nothing to clear up to there.
        let next = answers.into_iter().filter_map(|(_, answer)| answer.next).min();
        Ok(ClearedRetained { cleared, next, unreachable })
    }
}
