//! `BrokerService`.

use model::topic;
use proto::v1::broker_service_server::BrokerService;
use proto::v1::list_sessions_request::State;
use proto::v1::{
    ClearRetainedMessagesRequest, ClearRetainedMessagesResponse, DisconnectSessionRequest, DisconnectSessionResponse,
    GetRetainedMessageRequest, GetSessionRequest, ListRetainedMessagesRequest, ListRetainedMessagesResponse,
    ListSessionsRequest, ListSessionsResponse, ListSubscriptionsRequest, ListSubscriptionsResponse, RetainedMessage,
    Session, UnreachableNode,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by};
use crate::auth::{Caller, Visible};
use crate::brokers::{BrokersError, Found, SessionsQuery, SubscriptionsQuery};
use crate::page::Paged;
use crate::{convert, errors, names};

/// Longest pattern, filter and client id, in bytes: that of a text of MQTT.
const MAX_TEXT: usize = 65_535;

/// Implementation of `BrokerService`.
pub(crate) struct BrokerApi(pub(crate) Shared);

/// Retained messages are cleared call by call.
impl Paged for ClearRetainedMessagesRequest {
    type Position = String;
    const CALL: &'static str = "ClearRetainedMessagesRequest";
    const DEFAULT_SIZE: usize = 1;
    const MAX_SIZE: usize = 1;

    fn take(&mut self) -> (i32, String) {
        (0, std::mem::take(&mut self.page_token))
    }
}

fn refused(error: BrokersError) -> Status {
    let BrokersError::Unavailable(_) = &error;
    errors::unavailable("NODE_UNAVAILABLE", error.to_string())
}

/// The answer for something that was not found, or not done, while nodes do not answer.
fn incomplete(nodes: &[UnreachableNode], what: &str) -> Status {
    let nodes: Vec<String> = nodes.iter().map(|of| format!("{} ({})", of.node, of.reason)).collect();
    errors::unavailable("NODE_UNAVAILABLE", format!("{what}, and there is no answer from {}", nodes.join(", ")))
}

/// The pattern of a field; all when it is empty.
fn pattern(field: &str, given: &str) -> Result<String, Status> {
    if given.len() > MAX_TEXT {
        return Err(errors::invalid(field, format!("is longer than {MAX_TEXT} bytes")));
    }
    Ok(if given.is_empty() { "*".to_owned() } else { given.to_owned() })
}

/// A filter of retained messages, which belong to no group of subscribers.
fn topic_filter(field: &str, given: &str) -> Result<(), Status> {
    if given.starts_with("$share/") {
        return Err(errors::invalid(field, "must be a filter of topics, without `$share` and a group"));
    }
    topic::check_filter(given).map_err(|error| errors::invalid(field, format!("{error}: use a filter as `plant/#`")))
}

/// True when a caller sees a session or subscription: one of groups sees those of their devices.
fn sees(visible: &Visible, device: &str) -> bool {
    visible.is_everything() || names::device_id(device).is_some_and(|id| visible.has(&id))
}

impl BrokerApi {
    /// Finds the session that `name` names, if the caller sees it. Returns the tenant and the
    /// client id, too.
    async fn find(&self, caller: &Caller, name: &str) -> Result<(String, String, Session), Status> {
        const FORM: &str = "must be `tenants/{tenant}/sessions/{client}`, the client id percent-encoded";
        let (tenant, id) = caller.child("name", name, "sessions", FORM)?;
        let client = names::decode(id).ok_or_else(|| errors::invalid("name", FORM))?;
        let visible = caller.visible();
        let found = self.0.backend.brokers.session(&tenant, &client).await.map_err(refused)?;
        match found {
            Found { item: Some(session), .. } if sees(&visible, &session.device) => {
                Ok((tenant.to_string(), client, session))
            }
            // The same answer, whether it exists or not.
            _ if !visible.is_everything() => Err(visible.denied(name)),
            Found { unreachable, .. } if !unreachable.is_empty() => {
                Err(incomplete(&unreachable, "the session was not found"))
            }
            Found { .. } => Err(errors::not_found("SESSION_NOT_FOUND", name)),
        }
    }

    /// Records an action in the audit, before it is taken. Without authentication there is none.
    async fn audit(
        &self,
        caller: &Caller,
        tenant: &str,
        method: &'static str,
        (resource, detail): (&str, String),
    ) -> Result<(), Status> {
        tracing::info!(tenant, caller = %caller.principal().name, method, resource, "{detail}");
        match &self.0.config.admin {
            None => Ok(()),
            Some(admin) => {
                let recorded = admin.record_action(tenant, method, resource, &detail, &by(caller, "")).await;
                recorded.map_err(|error| Resource::Tenant.refused("", &names::tenant(tenant), error))
            }
        }
    }
}

#[tonic::async_trait]
impl BrokerService for BrokerApi {
    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let visible = caller.visible();
        let connected = match State::try_from(request.state) {
            Ok(State::Unspecified) => None,
            Ok(State::Connected) => Some(true),
            Ok(State::Away) => Some(false),
            Err(_) => return Err(errors::invalid("state", "is not a state of sessions")),
        };
        let clients = pattern("client_id", &request.client_id)?;
        let page = self.0.page(&mut request)?;
        let query = SessionsQuery {
            tenant: tenant.to_string(),
            clients,
            connected,
            after: page.from.clone(),
            limit: page.size,
        };
        let mut listed = self.0.backend.brokers.sessions(query).await.map_err(refused)?;
        listed.items.retain(|session| sees(&visible, &session.device));
        Ok(Response::new(ListSessionsResponse {
            sessions: listed.items,
            next_page_token: page.next(listed.next),
            unreachable_nodes: listed.unreachable,
        }))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Result<Response<Session>, Status> {
        let caller = Caller::of(&request)?;
        let (_, _, session) = self.find(&caller, &request.into_inner().name).await?;
        Ok(Response::new(session))
    }

    async fn disconnect_session(
        &self,
        request: Request<DisconnectSessionRequest>,
    ) -> Result<Response<DisconnectSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let DisconnectSessionRequest { name, end_session } = request.into_inner();
        let (tenant, client, session) = self.find(&caller, &name).await?;
        let away = || {
            let hint = "the client is not connected: set `end_session` to end its session";
            errors::failed_precondition("SESSION_NOT_CONNECTED", &session.name, hint)
        };
        if !session.connected && !end_session {
            return Err(away());
        }
        let detail = format!("end_session {end_session}, address {:?}", session.address);
        let resource = format!("sessions/{}", names::encode(&client));
        self.audit(&caller, &tenant, "DisconnectSession", (&resource, detail)).await?;
        let done = self.0.backend.brokers.disconnect(&tenant, &client, end_session).await.map_err(refused)?;
        if !done.unreachable.is_empty() {
            return Err(incomplete(&done.unreachable, &format!("disconnected at {} nodes", done.nodes.len())));
        }
        if done.nodes.is_empty() {
            // It has left meanwhile.
            return Err(if end_session { errors::not_found("SESSION_NOT_FOUND", &session.name) } else { away() });
        }
        Ok(Response::new(DisconnectSessionResponse {
            was_connected: done.was_connected,
            discarded_message_count: done.discarded,
            nodes: done.nodes,
        }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let visible = caller.visible();
        let topic = (!request.topic.is_empty()).then(|| request.topic.clone());
        if let Some(topic) = &topic {
            topic::check_name(topic).map_err(|error| errors::invalid("topic", error.to_string()))?;
        }
        let (clients, filters) = (pattern("client_id", &request.client_id)?, pattern("filter", &request.filter)?);
        let page = self.0.page(&mut request)?;
        let (tenant, after, limit) = (tenant.to_string(), page.from.clone(), page.size);
        let query = SubscriptionsQuery { tenant, clients, filters, topic, after, limit };
        let mut listed = self.0.backend.brokers.subscriptions(query).await.map_err(refused)?;
        listed.items.retain(|subscription| sees(&visible, &subscription.device));
        Ok(Response::new(ListSubscriptionsResponse {
            subscriptions: listed.items,
            next_page_token: page.next(listed.next),
            unreachable_nodes: listed.unreachable,
        }))
    }

    async fn list_retained_messages(
        &self,
        request: Request<ListRetainedMessagesRequest>,
    ) -> Result<Response<ListRetainedMessagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        if request.topic_filter.is_empty() {
            request.topic_filter = "#".to_owned();
        }
        topic_filter("topic_filter", &request.topic_filter)?;
        let page = self.0.page(&mut request)?;
        let brokers = &self.0.backend.brokers;
        let listed = brokers.retained(&tenant, &request.topic_filter, page.from.clone(), page.size).await;
        let listed = listed.map_err(refused)?;
        Ok(Response::new(ListRetainedMessagesResponse {
            retained_messages: listed.items,
            next_page_token: page.next(listed.next),
            unreachable_nodes: listed.unreachable,
        }))
    }

    async fn get_retained_message(
        &self,
        request: Request<GetRetainedMessageRequest>,
    ) -> Result<Response<RetainedMessage>, Status> {
        const FORM: &str = "must be `tenants/{tenant}/retainedMessages/{topic}`, the topic percent-encoded";
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let (tenant, id) = caller.child("name", &name, "retainedMessages", FORM)?;
        let topic = names::decode(id).ok_or_else(|| errors::invalid("name", FORM))?;
        let found = self.0.backend.brokers.retained_message(&tenant, &topic).await.map_err(refused)?;
        match found {
            Found { item: Some(message), .. } => Ok(Response::new(message)),
            Found { unreachable, .. } if !unreachable.is_empty() => {
                Err(incomplete(&unreachable, "the retained message was not found"))
            }
            Found { .. } => Err(errors::not_found("RETAINED_MESSAGE_NOT_FOUND", &name)),
        }
    }

    async fn clear_retained_messages(
        &self,
        request: Request<ClearRetainedMessagesRequest>,
    ) -> Result<Response<ClearRetainedMessagesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let filter = request.topic_filter.clone();
        if filter.is_empty() {
            return Err(errors::invalid("topic_filter", "is required: a topic, or a filter as `plant/#`"));
        }
        topic_filter("topic_filter", &filter)?;
        let page = self.0.page(&mut request)?;
        if page.from.is_none() {
            // Once for all calls.
            let resource = format!("retainedMessages/{}", names::encode(&filter));
            let detail = format!("topic_filter {filter:?}");
            self.audit(&caller, &tenant, "ClearRetainedMessages", (&resource, detail)).await?;
        }
        let cleared = self.0.backend.brokers.clear_retained(&tenant, &filter, page.from.clone()).await;
        let cleared = cleared.map_err(refused)?;
        if !cleared.unreachable.is_empty() {
            return Err(incomplete(&cleared.unreachable, &format!("{} topics were cleared", cleared.cleared)));
        }
        Ok(Response::new(ClearRetainedMessagesResponse {
            cleared_count: convert::count(cleared.cleared),
            next_page_token: page.next(cleared.next),
        }))
    }
}
