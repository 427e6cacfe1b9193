//! Places for connections: of the whole broker, and of a listener with a maximum of its own.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tls::{Guest, Strangers};

/// Time after which a client that is not admitted yet gives way to any other one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Connections beyond the maximum number that are open for a moment, to be refused with a reason.
pub const fn beyond(max_connections: usize) -> usize {
    8 + max_connections / 16
}

/// A number of places.
#[derive(Debug)]
pub(crate) struct Room {
    open: AtomicUsize,
    most: usize,
    /// Connections whose client is not admitted yet; each with whether it is to be refused.
    strangers: Strangers<bool>,
}

impl Room {
    pub(crate) fn new(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most, strangers: Strangers::new(PATIENCE) }
    }

    /// Takes a place. True when the connection is beyond the maximum and has to be refused; `None`
    /// when there is no place for it even so.
    pub(crate) fn take(&self, from: IpAddr) -> Option<bool> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        // A client that is not admitted yet ends soon, and leaves its place to this one.
        let displaced = if open > self.most { self.strangers.displace(from) } else { None };
        if displaced.is_none() && open > self.most.saturating_add(beyond(self.most)) {
            self.leave();
            return None;
        }
        // The place of one that was itself to be refused is beyond the maximum as well.
        Some(open > self.most && displaced != Some(false))
    }

    /// Takes a place for a client inside of this process, which no maximum keeps out.
    pub(crate) fn take_for_own(&self, from: IpAddr) -> Guests {
        self.open.fetch_add(1, Ordering::Relaxed);
        Guests { all: self.enter(from, false), own: None }
    }

    /// Returns a place.
    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a client that is not admitted yet.
    pub(crate) fn enter(&self, from: IpAddr, full: bool) -> Guest<bool> {
        self.strangers.enter(from, full)
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A client that is not admitted yet, in the room of the broker and in that of its listener.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(super) all: Guest<bool>,
    pub(super) own: Option<Guest<bool>>,
}

impl Guests {
    /// Resolves when the client has to give way.
    pub(crate) fn displaced(&self) -> impl Future<Output = ()> + use<> {
        let (all, own) = (self.all.displaced(), self.own.as_ref().map(Guest::displaced));
        async move {
            let own = async {
                match own {
                    Some(own) => own.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = all => {}
                () = own => {}
            }
        }
    }

    /// Notes that the client is known. `None` when it had to give way before.
    pub(crate) fn leave(self) -> Option<()> {
        self.all.leave()?;
        self.own.is_none_or(|own| own.leave().is_some()).then_some(())
    }
}
