//! The operator's view of a broker: sessions, subscriptions and retained messages of one tenant,
//! page by page, and what an operator may do about them.
//!
//! A page is put together in bounded steps. Between two steps no lock is held, and within one only
//! that of the list, or of one session: clients that connect and publishers wait for none of it. A
//! page may hold fewer items than were asked for; its end says where the next one begins.

mod act;
mod retained;
mod sessions;
mod stored;
mod subscriptions;

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;

use model::Nanos;

pub use act::{Cleared, Disconnected};
pub use retained::{RetainedPayload, RetainedReport};
pub use sessions::{SessionQuery, SessionReport};
pub use stored::StoredSubscription;
pub use subscriptions::{SubscriptionQuery, SubscriptionReport};

/// Items that are looked at for one page.
const SCAN: usize = 10_000;
/// Bytes of the texts of one page at most, besides the last item.
const PAGE_BYTES: usize = 1 << 20;
/// Sessions that are taken from the list at one time.
const STEP: usize = 256;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, P> {
    /// The items, in order.
    pub items: Vec<T>,
    /// The next page begins behind this position; `None` on the last page.
    pub next: Option<P>,
}

impl<T, P> Page<T, P> {
    fn empty() -> Self {
        Self { items: Vec::new(), next: None }
    }
}

/// The connection that owns a session, or the last one that did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReport {
    /// Time of its CONNECT.
    pub since: Nanos,
    /// Address of the client; that of this machine with port 0 for Unix sockets.
    pub peer: SocketAddr,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The device that the client is; `None` without authentication.
    pub device: Option<Arc<str>>,
    /// `3.1`, `3.1.1` or `5.0`.
    pub protocol_version: &'static str,
    /// Keep-alive in seconds that is in force; 0 for none.
    pub keep_alive_secs: u16,
    /// The client asked for a clean start.
    pub clean_start: bool,
}

/// The later one of two beginnings.
fn later<'a>(a: Bound<&'a str>, b: &'a str) -> Bound<&'a str> {
    match a {
        Bound::Included(at) | Bound::Excluded(at) if at >= b => a,
        _ => Bound::Included(b),
    }
}
