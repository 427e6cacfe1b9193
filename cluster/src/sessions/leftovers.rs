//! Messages that sessions have left over at their end.

use std::time::Duration;

use broker::fleet::{Leftover, MAX_IN_FLIGHT};
use buffer::redis::AccessError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::claims::numbered;
use super::codec;
use super::fleet::Shared;
use super::scripts::LEFTOVERS;
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

enum Found {
    Some(Vec<Leftover>),
    Again,
    /// There may be some after this time.
    Later(Option<Duration>),
}

/// Waits for the next ones.
pub(crate) async fn next(shared: &Shared) -> Vec<Leftover> {
    let most = shared.config.lease / 5;
    loop {
        let wait = match find(shared).await {
            Ok(Found::Some(found)) => return found,
            Ok(Found::Again) => continue,
            Ok(Found::Later(wait)) => wait.map_or(most, |wait| wait.clamp(Duration::from_millis(1), most)),
            Err(error) => {
                tracing::debug!("read messages that sessions have left over: {error}");
                most
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.leftovers.left.notified() => {}
        }
    }
}

async fn find(shared: &Shared) -> Result<Found, AccessError> {
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
        b"none" => {
            let wait = reply::bytes(reply::next(&mut reply)?)?;
            let wait = (!wait.is_empty()).then(|| reply::parse(&wait)).transpose()?;
            Ok(Found::Later(wait.map(Duration::from_millis)))
        }
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
