//! Messages that sessions have left over at their end.

use broker::fleet::{Leftover, MAX_IN_FLIGHT};
use buffer::redis::AccessError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::claims::numbered;
use super::codec;
use super::fleet::Shared;
use super::scripts::LEFTOVERS;
use super::search::{Found, until_found};
use crate::reply::{self, strange};

/// Messages of one piece, unless they have more than a megabyte.
const PIECE: &str = "256";

/// Whether there may be some.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// A session has left some over.
    pub(crate) left: Notify,
    /// The session whose messages this node has read last.
    present: Mutex<String>,
}

/// Waits for the next ones.
pub(crate) async fn next(shared: &Shared) -> Vec<Leftover> {
    let what = "messages that sessions have left over";
    until_found(what, shared, &shared.leftovers.left, || find(shared)).await
}

async fn find(shared: &Shared) -> Result<Found<Leftover>, AccessError> {
    let call = LEFTOVERS
        .call(shared.access.prefix())
        // A node that dies has others in its place after its lease.
        .arg(shared.config.lease.as_millis().to_string())
        .arg(MAX_IN_FLIGHT.to_string())
        .arg(PIECE)
        .arg(&*shared.leftovers.present.lock().clone());
    let mut reply = reply::list(shared.access.run_script(&LEFTOVERS, &call).await?)?.into_iter();
    match reply::bytes(reply::next(&mut reply)?)?.as_slice() {
        b"again" => Ok(Found::Again),
        b"none" => Found::later(reply::next(&mut reply)?),
        b"dropped" => {
            let client = reply::text(reply::next(&mut reply)?)?;
            tracing::warn!(client, "dropped a message of a shared subscription that no member could get");
            Ok(Found::Again)
        }
        b"found" => {
            let client = reply::text(reply::next(&mut reply)?)?;
            let client = codec::client(&client).ok_or_else(|| strange("a client"))?;
            let session = reply::parse(&reply::bytes(reply::next(&mut reply)?)?)?;
            *shared.leftovers.present.lock() = reply::text(reply::next(&mut reply)?)?;
            let messages = numbered(reply::next(&mut reply)?)?.into_iter();
            Ok(Found::Some(messages.map(|message| Leftover { client: client.clone(), session, message }).collect()))
        }
        _ => Err(strange("messages that were left over")),
    }
}
