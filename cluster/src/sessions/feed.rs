//! Follows the routes: loads what there is, then reads the feed of changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use broker::fleet::{Client, Interest, Node, Route};
use buffer::redis::{AccessError, Command, Reply, Waiting};

use super::codec;
use super::fleet::Shared;
use super::scripts::{DISINTEREST, ROUTES};
use crate::reply::{self, Entry, strange};

/// Maximum time that the server waits for changes.
const BLOCK: Duration = Duration::from_secs(1);
/// Changes of one read, and entries of one step of the load.
const CHANGES: &str = "512";
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes that a route is counted with.
const COST: usize = 128;

/// Position in the feed.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    position: AtomicU64,
    /// The routes are to be loaded again.
    again: AtomicBool,
}

impl Feed {
    /// Loads all routes again.
    pub(crate) fn reload(&self) {
        self.again.store(true, Ordering::Release);
    }

    /// The last change that was read.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Loads all routes again if the feed ends before a position that was read earlier: the server
    /// has lost data.
    pub(crate) fn check(&self, earlier: u64, last: u64) {
        if last < earlier {
            self.reload();
        }
    }
}

/// Follows for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    shared.feed.reload();
    let mut connection = None;
    loop {
        shared.routes.room().await;
        if let Err(error) = step(&shared, &mut connection).await {
            tracing::debug!("follow the routes: {error}");
            connection = None;
            if shared.access.may_fail_over() {
                // The next server may be a replica that does not have the last changes.
                shared.feed.reload();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn step(shared: &Shared, held: &mut Option<Waiting>) -> Result<(), AccessError> {
    let Feed { position, again } = &shared.feed;
    if again.swap(false, Ordering::AcqRel)
        && let Err(error) = load(shared).await
    {
        shared.feed.reload();
        return Err(error);
    }
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => shared.access.waiting(BLOCK).await?,
    };
    let read = Command::new("XREAD").arg("COUNT").arg(CHANGES).arg("BLOCK").arg(BLOCK.as_millis().to_string());
    let last = position.load(Ordering::Acquire);
    let routes = format!("{}routes", shared.access.prefix());
    let read = read.arg("STREAMS").arg(routes).arg(format!("{last}-0"));
    let answer = connection.run(&[read]).await?.pop().ok_or_else(|| strange("no answer"))?;
    *held = Some(connection);
    for entry in reply::entries(answer)? {
        if entry.id != position.load(Ordering::Acquire) + 1 {
            shared.feed.reload();
            return Ok(());
        }
        position.store(entry.id, Ordering::Release);
        let bytes = entry.size() + COST;
        match route(shared, entry) {
            Ok(route) => shared.routes.push(route, bytes),
            Err(error) => unreadable(shared, &error),
        }
    }
    Ok(())
}

fn unreadable(shared: &Shared, error: &AccessError) {
    tracing::warn!("a route cannot be read: {error}");
    shared.metrics.unreadable.inc();
}

/// Reads a change; None for one of this node's own.
fn route(shared: &Shared, mut entry: Entry) -> Result<Option<Route>, AccessError> {
    let kind = entry.take("k")?;
    Ok(Some(match kind.as_slice() {
        b"S" => {
            let (client, session, filter) = subscribed(&mut entry)?;
            let subscription = serde_json::from_slice(&entry.take("v")?).map_err(|_| strange("a subscription"))?;
            Route::Session(client, session, filter, Some((subscription, entry.take("p")? == b"1")))
        }
        b"U" => {
            let (client, session, filter) = subscribed(&mut entry)?;
            Route::Session(client, session, filter, None)
        }
        b"E" => Route::Ended(client(&mut entry)?, entry.take_number("s")?),
        b"P" => Route::Presence(client(&mut entry)?, entry.take("v")? == b"1"),
        other => {
            let node = entry.take_text("n")?;
            if *node == *shared.identity.name {
                return Ok(None);
            }
            match other {
                b"N" => Route::NodeUp(node.into()),
                b"D" => Route::NodeDown(node.into()),
                b"I" => {
                    let (tenant, filter) = (entry.take_text("t")?.into(), entry.take_text("f")?);
                    Route::Interest(node.into(), tenant, filter, interest(&entry.take("v")?))
                }
                _ => return Err(strange("an unknown route")),
            }
        }
    }))
}

fn client(entry: &mut Entry) -> Result<Client, AccessError> {
    codec::client(&entry.take_text("c")?).ok_or_else(|| strange("a client"))
}

fn subscribed(entry: &mut Entry) -> Result<(Client, u64, String), AccessError> {
    Ok((client(entry)?, entry.take_number("s")?, entry.take_text("f")?))
}

fn interest(value: &[u8]) -> Option<Interest> {
    match value {
        b"0" => Some(Interest::Qos0),
        b"1" => Some(Interest::All),
        _ => None,
    }
}

/// Loads all routes, and hands them on together. Changes meanwhile come again from the feed, whose
/// position is taken first.
async fn load(shared: &Shared) -> Result<(), AccessError> {
    let (access, prefix) = (&shared.access, shared.access.prefix());
    let last = access.run(&Command::new("HGET").arg(format!("{prefix}g")).arg("seq")).await?;
    let last = if last == Reply::Nil { 0 } else { reply::number(last)? };
    let mut routes = vec![Route::Reset(0)];
    for (name, start) in nodes(shared).await? {
        if *name == *shared.identity.name {
            continue;
        }
        let node: Node = name.as_str().into();
        routes.push(Route::NodeUp(Arc::clone(&node)));
        let mut cursor = Some("0".to_owned());
        while let Some(at) = cursor.take() {
            let found;
            (found, cursor) = interests(shared, &format!("{name}@{start}"), &at).await?;
            routes.extend(found.into_iter().map(|(tenant, filter, value)| {
                Route::Interest(Arc::clone(&node), tenant.into(), filter, interest(&value))
            }));
        }
    }
    load_sessions(shared, &mut routes).await?;
    shared.feed.position.store(last, Ordering::Release);
    let bytes = routes.len() * COST;
    shared.routes.push(routes, bytes);
    Ok(())
}

/// The nodes and their starts.
async fn nodes(shared: &Shared) -> Result<Vec<(String, String)>, AccessError> {
    let all = Command::new("HGETALL").arg(format!("{}inc", shared.access.prefix()));
    let mut fields = reply::list(shared.access.run(&all).await?)?.into_iter();
    let mut nodes = Vec::new();
    while let Some(name) = fields.next() {
        nodes.push((reply::text(name)?, reply::text(reply::next(&mut fields)?)?));
    }
    Ok(nodes)
}

/// Tenant, filter, value.
type StoredInterest = (String, String, Vec<u8>);

/// Some interests of a node, and where there are more.
async fn interests(
    shared: &Shared,
    node: &str,
    cursor: &str,
) -> Result<(Vec<StoredInterest>, Option<String>), AccessError> {
    let key = format!("{}rn:{node}", shared.access.prefix());
    let scan = Command::new("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(CHANGES);
    let mut found = reply::list(shared.access.run(&scan).await?)?.into_iter();
    let cursor = reply::text(reply::next(&mut found)?)?;
    let mut fields = reply::list(reply::next(&mut found)?)?.into_iter();
    let mut interests = Vec::new();
    while let Some(field) = fields.next() {
        let (field, value) = (reply::text(field)?, reply::bytes(reply::next(&mut fields)?)?);
        let (tenant, filter) = field.split_once('\0').ok_or_else(|| strange("an interest"))?;
        interests.push((tenant.to_owned(), filter.to_owned(), value));
    }
    Ok((interests, (cursor != "0").then_some(cursor)))
}

/// Ends the interests of all nodes in topics of a tenant.
pub(crate) async fn forget(shared: &Shared, tenant: &str) -> Result<(), AccessError> {
    shared.interests.lock().retain(|(of, _), _| **of != *tenant);
    for (name, start) in nodes(shared).await? {
        let node = format!("{name}@{start}");
        let mut cursor = Some("0".to_owned());
        while let Some(at) = cursor.take() {
            let found;
            (found, cursor) = interests(shared, &node, &at).await?;
            let mut call = DISINTEREST.call(shared.access.prefix()).arg(&node).arg(tenant);
            let filters = found.iter().filter(|(of, _, _)| of == tenant);
            let mut count = 0;
            for (_, filter, _) in filters {
                call.push(filter);
                count += 1;
            }
            if count > 0 {
                shared.access.run_script(&DISINTEREST, &call).await?;
            }
        }
    }
    Ok(())
}

async fn load_sessions(shared: &Shared, routes: &mut Vec<Route>) -> Result<(), AccessError> {
    let mut cursor = "0".to_owned();
    loop {
        let call = ROUTES.call(shared.access.prefix()).arg(&cursor).arg(CHANGES);
        let mut found = reply::list(shared.access.run_script(&ROUTES, &call).await?)?.into_iter();
        cursor = reply::text(reply::next(&mut found)?)?;
        let mut fields = reply::list(reply::next(&mut found)?)?.into_iter();
        while let Some(name) = fields.next() {
            let (name, value) = (reply::text(name)?, reply::text(reply::next(&mut fields)?)?);
            let is_connected = reply::number(reply::next(&mut fields)?)? == 1;
            match session(&name, &value, is_connected) {
                Some(route) => routes.push(route),
                None => unreadable(shared, &strange("a subscription")),
            }
        }
        if cursor == "0" {
            return Ok(());
        }
    }
}

/// The route of an entry of the subscriptions.
fn session(name: &str, value: &str, is_connected: bool) -> Option<Route> {
    let at = name.match_indices('\0').nth(1)?.0;
    let (session, subscription) = value.split_once(' ')?;
    let subscription = (serde_json::from_str(subscription).ok()?, is_connected);
    Some(Route::Session(
        codec::client(&name[..at])?,
        session.parse().ok()?,
        name[at + 1..].to_owned(),
        Some(subscription),
    ))
}
