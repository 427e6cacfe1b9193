//! Sessions, in the order of their client ids.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Nanos;
use model::glob::Glob;

use super::{ConnectionReport, PAGE_BYTES, Page, SCAN, STEP, later};
use crate::Broker;
use crate::session::Session;
use crate::tenant::Tenant;
use door::Inbox;

/// The sessions that are asked for.
#[derive(Debug, Clone, Copy)]
pub struct SessionQuery<'a> {
    /// Pattern of client ids.
    pub clients: &'a Glob,
    /// Only those that are connected, or only those that are away.
    pub connected: Option<bool>,
    /// Client id to begin with, or behind.
    pub from: Bound<&'a str>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// Client id.
    pub client: Arc<str>,
    /// A connection owns it.
    pub connected: bool,
    /// That connection, or the last one; `None` when the session was restored and its client has
    /// not connected since.
    pub connection: Option<Arc<ConnectionReport>>,
    /// Time at which its client left; `None` while it is connected.
    pub left: Option<Nanos>,
    /// Seconds that it lasts after its connection; 0 for one that ends with it.
    pub expiry_secs: u32,
    /// Time until it ends; `None` while its client is connected.
    pub expires_in: Option<Duration>,
    /// Messages that wait for the client.
    pub queued_messages: usize,
    /// Bytes of their topics, payloads and properties.
    pub queued_bytes: usize,
    /// Messages of QoS 1 and 2 that were sent and not acknowledged to the end.
    pub in_flight: usize,
    /// Messages of QoS 2 from the client that it has not released.
    pub receipts: usize,
    /// Number of its subscriptions.
    pub subscriptions: usize,
}

impl SessionReport {
    /// The device that the client is, or was when it was last connected.
    pub fn device(&self) -> Option<&Arc<str>> {
        self.connection.as_ref()?.device.as_ref()
    }
}

impl<I: Inbox> Broker<I> {
    /// Returns at most `limit` sessions of a tenant, in the order of their client ids, and the
    /// client id behind which the next page begins.
    pub fn sessions(&self, tenant: &str, query: &SessionQuery<'_>, limit: usize) -> Page<SessionReport, String> {
        let Some(tenant) = self.tenants.find(tenant) else { return Page::empty() };
        let (mut items, mut bytes) = (Vec::new(), 0);
        let next = walk(&tenant, query.clients, query.from, |session| {
            let wanted = report(session).filter(|report| query.connected.is_none_or(|is| is == report.connected));
            bytes += wanted.as_ref().map_or(0, |report| report.client.len());
            items.extend(wanted);
            (items.len() >= limit || bytes > PAGE_BYTES, 1)
        });
        Page { items, next }
    }

    /// Returns the session of a client.
    pub fn session(&self, tenant: &str, client: &str) -> Option<SessionReport> {
        let session = self.tenants.find(tenant)?.sessions.get(client)?;
        report(&session)
    }
}

/// Calls `visit` for sessions of clients that match, until it returns true. It returns the number
/// of items that it has looked at, too. Returns the client id behind which the walk goes on; `None`
/// at its end.
pub(super) fn walk(
    tenant: &Tenant,
    clients: &Glob,
    from: Bound<&str>,
    mut visit: impl FnMut(&Arc<Session>) -> (bool, usize),
) -> Option<String> {
    let mut seen = 0;
    let mut sessions = tenant.sessions.from(later(from, clients.prefix()), STEP);
    loop {
        for session in &sessions {
            if !session.client.starts_with(clients.prefix()) {
                return None;
            }
            seen += 1;
            if clients.matches(&session.client) {
                let (is_full, looked_at) = visit(session);
                seen += looked_at;
                if is_full {
                    return Some(session.client.to_string());
                }
            }
            if seen >= SCAN {
                return Some(session.client.to_string());
            }
        }
        let last = sessions.last().filter(|_| sessions.len() == STEP)?;
        sessions = tenant.sessions.from(Bound::Excluded(&*last.client), STEP);
    }
}

/// Returns the state of a session; `None` when it has ended.
fn report(session: &Session) -> Option<SessionReport> {
    let state = session.state();
    let now = Instant::now();
    if state.has_ended() || state.link.is_none() && state.is_over(now) {
        return None;
    }
    let expires_in = state.expires.filter(|_| state.link.is_none()).map(|at| at.saturating_duration_since(now));
    let away = expires_in.map(|left| Duration::from_secs(state.expiry_secs.into()).saturating_sub(left));
    let before =
        |away: Duration| model::clock::now().saturating_sub(i64::try_from(away.as_nanos()).unwrap_or(i64::MAX));
    Some(SessionReport {
        client: Arc::clone(&session.client),
        connected: state.link.is_some(),
        connection: state.connection.clone(),
        left: away.map(before),
        expiry_secs: state.expiry_secs,
        expires_in,
        queued_messages: state.queue.len(),
        queued_bytes: state.queue.bytes(),
        in_flight: state.in_flight.len(),
        receipts: state.unreleased.len(),
        subscriptions: state.subscriptions.len(),
    })
}
