//! The processes that accept devices: this one, and those that Redis names.

use std::sync::Arc;
use std::time::Duration;

use buffer::redis::Redis;
use flusher::fleet::{Key, Peers};
use proto::internal::v1 as wire;
use proto::internal::v1::broker_node_service_client::BrokerNodeServiceClient;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
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
    pub(in crate::run) redis: Redis,
    pub(in crate::run) peers: Peers,
    /// Name of this process among them.
    pub(in crate::run) process: String,
}

/// A node, or the reason why it cannot be called.
pub(super) struct Place {
    pub(super) name: Arc<str>,
    pub(super) node: Result<Node, String>,
}

/// A node that can be called.
pub(super) enum Node {
    Here(LocalNode),
    There(Box<BrokerNodeServiceClient<InterceptedService<Channel, Key>>>),
}

impl Nodes {
    /// Returns the nodes that there are now.
    ///
    /// # Errors
    /// A sentence when Redis does not name them.
    pub(super) async fn list(&self) -> Result<Vec<Place>, String> {
        let here =
            self.local.iter().map(|node| Place { name: Arc::clone(node.name()), node: Ok(Node::Here(node.clone())) });
        let mut places: Vec<Place> = here.collect();
        if let Some(fleet) = &self.fleet {
            // Under no name, with no time: this asks, and announces nothing.
            let asked = fleet.redis.announce_process("", "", Duration::ZERO);
            let processes = match tokio::time::timeout(LISTED, asked).await {
                Ok(Ok(processes)) => processes,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("Redis did not answer within {LISTED:?}")),
            };
            let others = processes.iter().filter_map(|(announced, _)| Process::parse(announced));
            let others = others.filter(|process| process.accepts_devices && process.name != fleet.process);
            places.extend(others.map(|process| fleet.place(&process)));
        }
        places.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(places)
    }
}

impl Fellows {
    fn place(&self, process: &Process<'_>) -> Place {
        let node = match process.address {
            None => Err("it has no address for the other processes: update it, and set `fleet.address`".to_owned()),
            Some(address) => self.peers.service(address).map_err(|refusal| refusal.to_string()).map(|service| {
                let client = BrokerNodeServiceClient::new(service).max_decoding_message_size(MAX_ANSWER_BYTES);
                Node::There(Box::new(client))
            }),
        };
        Place { name: process.node.into(), node }
    }
}

/// A process as it announces itself: `NODE@ADDRESS (ROLES)#START`, or without an address.
#[derive(Debug, PartialEq, Eq)]
struct Process<'a> {
    /// Node and address.
    name: &'a str,
    node: &'a str,
    address: Option<&'a str>,
    accepts_devices: bool,
}

impl<'a> Process<'a> {
    fn parse(announced: &'a str) -> Option<Self> {
        let (described, _) = announced.rsplit_once('#')?;
        let (name, roles) = described.strip_suffix(')')?.rsplit_once(" (")?;
        let accepts_devices = roles.split(", ").any(|role| role == Role::Ingest.name());
        // A node may have an `@` in its name; an address has none.
        let at = name.rsplit_once('@').filter(|(_, address)| address.contains("://"));
        let (node, address) = at.map_or((name, None), |(node, address)| (node, Some(address)));
        Some(Self { name, node, address, accepts_devices })
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
    retained retained_messages RetainedMessagesRequest RetainedMessagesResponse [];
    retained_message retained_message RetainedMessageRequest RetainedMessageResponse [];
    clear_retained clear_retained ClearRetainedRequest ClearRetainedResponse [.await];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_as_they_announce_themselves() {
        let parse = |announced| {
            Process::parse(announced).map(|process| (process.node, process.address, process.accepts_devices))
        };
        let all = "edge@http://10.0.0.7:50052 (ingest, flusher, api)#18a";
        assert_eq!(parse(all), Some(("edge", Some("http://10.0.0.7:50052"), true)));
        assert_eq!(Process::parse(all).unwrap().name, "edge@http://10.0.0.7:50052");
        assert_eq!(parse("api-1 (api)#1"), Some(("api-1", None, false)));
        assert_eq!(parse("a@b (ingest)#1"), Some(("a@b", None, true)));
        assert_eq!(parse("a (x)#y@https://h:1 (ingest)#1"), Some(("a (x)#y", Some("https://h:1"), true)));
        assert_eq!((parse("garbage"), parse("")), (None, None));
    }
}
