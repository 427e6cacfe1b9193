//! The processes that accept devices: this one, and those that Redis names.

use std::sync::Arc;
use std::time::Duration;

use cluster::members::{Link, Member, Members, Peers};
use proto::internal::v1 as wire;
use proto::internal::v1::broker_node_service_client::BrokerNodeServiceClient;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::node::LocalNode;
use crate::config::Role;

/// Header of a call that names the node that it is meant for, percent-encoded.
pub(super) const NODE: &str = "weir-node";
/// Maximum size of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Time for Redis to name the processes.
const LISTED: Duration = Duration::from_secs(5);

/// All nodes of the installation.
pub(in crate::run) struct Nodes {
    /// `None` in a process without the role ingest.
    pub(in crate::run) local: Option<LocalNode>,
    /// `None` in an installation of one process.
    pub(in crate::run) fleet: Option<Fellows>,
}

/// The way to the other processes.
pub(in crate::run) struct Fellows {
    pub(in crate::run) members: Members,
    pub(in crate::run) peers: Peers,
    /// This process.
    pub(in crate::run) own: Member,
}

/// A node, or the reason why it cannot be called.
pub(super) struct Place {
    pub(super) name: Arc<str>,
    pub(super) node: Result<Node, String>,
}

/// A node that can be called.
#[derive(Clone)]
pub(super) enum Node {
    Here(LocalNode),
    There(Box<BrokerNodeServiceClient<Link>>),
}

impl Nodes {
    /// True when the nodes share sessions.
    pub(super) fn is_fleet(&self) -> bool {
        self.fleet.is_some()
    }

    /// Returns the nodes that there are now.
    ///
    /// # Errors
    /// A sentence when Redis does not name them.
    pub(super) async fn list(&self) -> Result<Vec<Place>, String> {
        let here =
            self.local.iter().map(|node| Place { name: Arc::clone(node.name()), node: Ok(Node::Here(node.clone())) });
        let mut places: Vec<Place> = here.collect();
        if let Some(fleet) = &self.fleet {
            let members = match tokio::time::timeout(LISTED, fleet.members.list()).await {
                Ok(Ok(members)) => members,
                Ok(Err(error)) => return Err(format!("cannot list the processes of the fleet: {error}")),
                Err(_) => return Err(format!("Redis did not answer within {LISTED:?}")),
            };
            let is_other = |member: &&Member| member.has_role(Role::Ingest.name()) && member.name() != fleet.own.name();
            places.extend(members.iter().filter(is_other).map(|member| fleet.place(member)));
        }
        places.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(places)
    }
}

impl Fellows {
    fn place(&self, member: &Member) -> Place {
        let node = match member.address() {
            None => Err("it has no address for the other processes: update it, and set `fleet.address`".to_owned()),
            Some(address) => self.peers.link(address).map_err(|refusal| refusal.to_string()).map(|service| {
                let client = BrokerNodeServiceClient::new(service).max_decoding_message_size(MAX_ANSWER_BYTES);
                Node::There(Box::new(client))
            }),
        };
        Place { name: Arc::clone(member.node()), node }
    }
}

/// The name of a node in a header.
pub(super) fn ascii(node: &str) -> String {
    api::names::encode(node)
}

fn meant_for<T>(node: &str, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let name: MetadataValue<_> = ascii(node).parse().map_err(|_| Status::internal("a node has no name"))?;
    request.metadata_mut().insert(NODE, name);
    Ok(request)
}

/// The reason why a node did not answer.
pub(super) fn explain(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => "it runs an older release: update it".to_owned(),
        _ => tls::explain(status).unwrap_or_else(|| status.message().to_owned()),
    }
}

macro_rules! calls {
    ($($name:ident $there:ident $request:ident $response:ident [$($wait:tt)*];)*) => {
        impl Node {
            $(pub(super) async fn $name(
                &self,
                name: &str,
                request: wire::$request,
            ) -> Result<wire::$response, Status> {
                match self {
                    Self::Here(node) => node.$name(&request)$($wait)*,
                    Self::There(client) => {
                        let request = meant_for(name, request)?;
                        client.as_ref().clone().$there(request).await.map(tonic::Response::into_inner)
                    }
                }
            })*
        }
    };
}

calls! {
    sessions sessions SessionsRequest SessionsResponse [];
    disconnect disconnect DisconnectRequest DisconnectResponse [.await];
    subscriptions subscriptions SubscriptionsRequest SubscriptionsResponse [];
    stored_sessions stored_sessions SessionsRequest SessionsResponse [.await];
    stored_subscriptions stored_subscriptions SubscriptionsRequest SubscriptionsResponse [.await];
    end_stored end_stored DisconnectRequest DisconnectResponse [.await];
    retained retained_messages RetainedMessagesRequest RetainedMessagesResponse [];
    retained_message retained_message RetainedMessageRequest RetainedMessageResponse [];
    clear_retained clear_retained ClearRetainedRequest ClearRetainedResponse [.await];
}
