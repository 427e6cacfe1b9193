//! Calls of the other flushers.

use cluster::members::{Link, Peers};
use proto::internal::v1::fleet_service_client::FleetServiceClient;

/// Bytes of a message at most.
const MESSAGE_BYTES: usize = 256 << 20;

/// A client of the flusher at an address; `None` while it is known not to answer.
pub(super) fn client(peers: &Peers, address: &str) -> Option<FleetServiceClient<Link>> {
    let client = FleetServiceClient::new(peers.reach(address)?);
    Some(client.max_decoding_message_size(MESSAGE_BYTES))
}
