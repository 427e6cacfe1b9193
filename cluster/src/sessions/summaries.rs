//! The sessions of a tenant as the server has them, for operators.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use broker::fleet::{Client, EndedAway, Node, StoredSummary};
use buffer::redis::{AccessError, Command, Reply};

use super::codec;
use super::fleet::Shared;
use super::scripts::{END_AWAY, SUMMARIES};
use crate::reply::{self, strange};

/// Clients of one step.
const STEP: usize = 256;

/// Returns client ids of a tenant in their order. A step costs the server little: they are sorted.
pub(crate) async fn clients(
    shared: &Shared,
    tenant: &str,
    from: Bound<&str>,
    most: usize,
) -> Result<Vec<Arc<str>>, AccessError> {
    let from = match from {
        Bound::Unbounded => "-".to_owned(),
        Bound::Included(id) => format!("[{id}"),
        Bound::Excluded(id) => format!("({id}"),
    };
    let key = format!("{}t:{tenant}", shared.access.prefix());
    let range = Command::new("ZRANGEBYLEX").arg(key).arg(from).arg("+").arg("LIMIT").arg("0").arg(most.to_string());
    let ids = reply::list(shared.access.run(&range).await?)?;
    ids.into_iter().map(|id| reply::text(id).map(Arc::from)).collect()
}

/// Returns the sessions that last of these clients, in steps.
pub(crate) async fn summaries(
    shared: &Shared,
    tenant: &str,
    clients: &[Arc<str>],
) -> Result<Vec<StoredSummary>, AccessError> {
    let mut all = Vec::new();
    let mut rest = clients;
    while !rest.is_empty() {
        let step = &rest[..rest.len().min(STEP)];
        let mut call = SUMMARIES.call(shared.access.prefix()).arg(tenant);
        for id in step {
            call.push(&**id);
        }
        let mut reply = reply::list(shared.access.run_script(&SUMMARIES, &call).await?)?.into_iter();
        let done = usize::try_from(reply::number(reply::next(&mut reply)?)?).unwrap_or(usize::MAX);
        for row in reply::list(reply::next(&mut reply)?)? {
            all.push(summary(step, row)?);
        }
        // A step may end early: one session may have many subscriptions.
        rest = rest.get(done.max(1)..).ok_or_else(|| strange("more sessions than were asked for"))?;
    }
    Ok(all)
}

/// Ends the session of a client that is away.
pub(crate) async fn end_away(shared: &Shared, client: &Client) -> Result<Option<EndedAway>, AccessError> {
    let call = END_AWAY.call(shared.access.prefix()).arg(codec::name(client));
    match shared.access.run_script(&END_AWAY, &call).await? {
        Reply::Nil => Ok(None),
        reply => {
            let mut ended = reply::list(reply)?.into_iter();
            let node = node(reply::text(reply::next(&mut ended)?)?);
            let messages = usize::try_from(reply::number(reply::next(&mut ended)?)?).unwrap_or(usize::MAX);
            Ok(Some(EndedAway { node, messages }))
        }
    }
}

/// The node of a session; the script returns an empty name when there is none.
fn node(name: String) -> Option<Node> {
    (!name.is_empty()).then(|| name.into())
}

fn summary(of: &[Arc<str>], row: Reply) -> Result<StoredSummary, AccessError> {
    let mut row = reply::list(row)?.into_iter();
    let size = |row: &mut std::vec::IntoIter<Reply>| {
        Ok::<_, AccessError>(usize::try_from(reply::number(reply::next(row)?)?).unwrap_or(usize::MAX))
    };
    let client = of.get(size(&mut row)?).ok_or_else(|| strange("a client that was not asked for"))?;
    let node = node(reply::text(reply::next(&mut row)?)?);
    let is_connected = size(&mut row)? == 1;
    let expiry_secs = u32::try_from(reply::number(reply::next(&mut row)?)?).map_err(|_| strange("a time"))?;
    let left = match reply::next(&mut row)? {
        Reply::Number(left) => u64::try_from(left).ok().map(Duration::from_millis),
        _ => return Err(strange("no time")),
    };
    Ok(StoredSummary {
        client: Arc::clone(client),
        node,
        is_connected,
        expiry_secs,
        expires_in: left,
        messages: size(&mut row)?,
        receipts: size(&mut row)?,
        subscriptions: size(&mut row)?,
    })
}
