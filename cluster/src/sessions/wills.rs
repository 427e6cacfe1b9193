//! Will messages of connections.

use broker::fleet::{Client, DueWill, Owned};
use buffer::redis::{AccessError, Command, Reply};
use tokio::sync::Notify;

use super::codec;
use super::fleet::Shared;
use super::scripts::{BEGIN_WILL, WILLS};
use super::search::{Found, until_found};
use crate::reply::{self, strange};

/// Will messages of one piece, unless they have more than a megabyte.
const PIECE: &str = "256";

/// Notified when there may be some of a node that has ended.
#[derive(Debug, Default)]
pub(crate) struct Wills(pub(crate) Notify);

/// Notes that this node publishes a will message. Returns whether it is to do so.
pub(crate) async fn begin(shared: &Shared, owned: &Owned) -> Result<bool, AccessError> {
    let call = BEGIN_WILL.call(shared.access.prefix()).arg(owned.epoch.to_string()).arg(&*shared.identity.node());
    Ok(reply::number(shared.access.run_script(&BEGIN_WILL, &call).await?)? == 1)
}

/// Returns whether a will message is kept.
pub(crate) async fn has(shared: &Shared, owned: &Owned) -> Result<bool, AccessError> {
    let key = format!("{}wm:{}", shared.access.prefix(), owned.epoch);
    Ok(reply::number(shared.access.run(&Command::new("EXISTS").arg(key)).await?)? == 1)
}

/// Reads the ownership of a connection of a client.
pub(crate) fn owned(client: Client, parts: &mut impl Iterator<Item = Reply>) -> Result<Owned, AccessError> {
    let (session, epoch) = (reply::number(reply::next(parts)?)?, reply::number(reply::next(parts)?)?);
    Ok(Owned { client, session, epoch })
}

/// Waits for the next ones of nodes that have ended.
pub(crate) async fn next(shared: &Shared) -> Vec<DueWill> {
    until_found("will messages of other nodes", shared, &shared.wills.0, || find(shared)).await
}

async fn find(shared: &Shared) -> Result<Found<DueWill>, AccessError> {
    let call = WILLS
        .call(shared.access.prefix())
        .arg(&*shared.identity.node())
        .arg(shared.config.lease.as_millis().to_string())
        .arg(PIECE);
    let mut reply = reply::list(shared.access.run_script(&WILLS, &call).await?)?.into_iter();
    let mut found = Vec::new();
    for item in reply::list(reply::next(&mut reply)?)? {
        let mut parts = reply::list(item)?.into_iter();
        let name = reply::text(reply::next(&mut parts)?)?;
        let client = codec::client(&name).ok_or_else(|| strange("a client"))?;
        let owned = owned(client, &mut parts)?;
        found.push(DueWill { owned, body: reply::bytes(reply::next(&mut parts)?)?.into() });
    }
    let wait = reply::next(&mut reply)?;
    if found.is_empty() { Found::later(wait) } else { Ok(Found::Some(found)) }
}
