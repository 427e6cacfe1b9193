//! Will messages of connections.

use std::time::Duration;

use broker::fleet::{DueWill, Owned};
use buffer::redis::{AccessError, Command};
use tokio::sync::Notify;

use super::codec;
use super::fleet::Shared;
use super::scripts::{BEGIN_WILL, WILLS};
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

/// Waits for the next ones of nodes that have ended.
pub(crate) async fn next(shared: &Shared) -> Vec<DueWill> {
    let most = shared.config.lease / 5;
    loop {
        let wait = match find(shared).await {
            Ok((found, _)) if !found.is_empty() => return found,
            Ok((_, wait)) => wait.map_or(most, |wait| wait.clamp(Duration::from_millis(1), most)),
            Err(error) => {
                tracing::debug!("read will messages of other nodes: {error}");
                most
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.wills.0.notified() => {}
        }
    }
}

/// Returns some, and the time until there may be others.
async fn find(shared: &Shared) -> Result<(Vec<DueWill>, Option<Duration>), AccessError> {
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
        let mut number = || reply::parse(&reply::bytes(reply::next(&mut parts)?)?);
        let owned = Owned { client, session: number()?, epoch: number()? };
        found.push(DueWill { owned, body: reply::bytes(reply::next(&mut parts)?)?.into() });
    }
    let wait = reply::bytes(reply::next(&mut reply)?)?;
    let wait = (!wait.is_empty()).then(|| reply::parse(&wait)).transpose()?;
    Ok((found, wait.map(Duration::from_millis)))
}
