//! What needs the stores, handed to the tasks that run it as soon as it is there.

use flusher::FleetHandle;
use flusher::fleet::Readers;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::parts::{Rest, Sinks};
use super::start::Start;

/// Where the opened parts go in.
pub(super) struct Later {
    fleet: oneshot::Sender<FleetHandle>,
    readers: oneshot::Sender<Readers>,
    api: oneshot::Sender<(api::Backend, api::Config)>,
    retained: oneshot::Sender<Vec<broker::Message>>,
}

/// Where they come out.
pub(super) struct Outlets {
    /// Answers the other processes.
    pub(super) fleet: Outlet<FleetHandle>,
    /// Look which logs there are.
    pub(super) readers: Outlet<Readers>,
    /// Answers third parties.
    pub(super) api: Outlet<(api::Backend, api::Config)>,
    /// Retained messages of earlier starts.
    pub(super) retained: Outlet<Vec<broker::Message>>,
}

/// Something that comes later, or not at all.
pub(super) struct Outlet<T>(oneshot::Receiver<T>);

pub(super) fn outlets() -> (Later, Outlets) {
    let (fleet, readers, api, retained) = (outlet(), outlet(), outlet(), outlet());
    let outlets = Outlets { fleet: fleet.1, readers: readers.1, api: api.1, retained: retained.1 };
    (Later { fleet: fleet.0, readers: readers.0, api: api.0, retained: retained.0 }, outlets)
}

fn outlet<T>() -> (oneshot::Sender<T>, Outlet<T>) {
    let (into, out) = oneshot::channel();
    (into, Outlet(out))
}

impl Later {
    /// Hands out what is there; what flushes is left.
    pub(super) fn hand_out(self, rest: Rest, start: &Start) -> Sinks {
        start.works(rest.state);
        // Nobody waits for what the process has no role for.
        if let Some(readers) = rest.readers {
            drop(self.readers.send(readers));
        }
        if let Some(api) = rest.api {
            drop(self.api.send(api));
        }
        if let Some(retained) = rest.retained {
            drop(self.retained.send(retained));
        }
        if let Sinks::Fleet(fleet) = &rest.sinks {
            drop(self.fleet.send(fleet.handle()));
        }
        rest.sinks
    }

    /// Waits for the rest and hands it out; nothing is there to flush at a stop.
    ///
    /// # Errors
    /// When a person has to change something.
    pub(super) async fn open(
        self,
        coming: BoxFuture<'static, anyhow::Result<Rest>>,
        start: &Start,
        stop: &CancellationToken,
    ) -> anyhow::Result<Sinks> {
        tokio::select! {
            rest = coming => Ok(self.hand_out(rest?, start)),
            // What was taken in meanwhile is in the log.
            () = stop.cancelled() => Ok(Sinks::None),
        }
    }
}

impl<T> Outlet<T> {
    /// Waits for it; none at a stop. Why it does not come is said by who opens it.
    pub(super) async fn get(self, stop: &CancellationToken) -> Option<T> {
        tokio::select! {
            biased;
            Ok(there) = self.0 => Some(there),
            () = stop.cancelled() => None,
        }
    }

    /// As [`Outlet::get`]; whoever connects meanwhile is sent away at once.
    pub(super) async fn get_behind(self, listener: &TcpListener, stop: &CancellationToken) -> Option<T> {
        let mut there = std::pin::pin!(self.get(stop));
        loop {
            tokio::select! {
                biased;
                there = &mut there => return there,
                connection = listener.accept() => drop(connection),
            }
        }
    }
}
