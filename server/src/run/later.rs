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
}

/// Where they come out.
pub(super) struct Outlets {
    /// Answers the other processes.
    pub(super) fleet: Outlet<FleetHandle>,
    /// Look which logs there are.
    pub(super) readers: Outlet<Readers>,
    /// Answers third parties.
    pub(super) api: Outlet<(api::Backend, api::Config)>,
}

/// Something that comes later, or not at all.
pub(super) struct Outlet<T>(oneshot::Receiver<T>);

pub(super) fn outlets() -> (Later, Outlets) {
    let ((fleet, fleet_out), (readers, readers_out), (api, api_out)) =
        (oneshot::channel(), oneshot::channel(), oneshot::channel());
    let outlets = Outlets { fleet: Outlet(fleet_out), readers: Outlet(readers_out), api: Outlet(api_out) };
    (Later { fleet, readers, api }, outlets)
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
    /// Waits for it; whoever connects meanwhile is sent away at once. None at a stop.
    pub(super) async fn wait(mut self, listener: &TcpListener, stop: &CancellationToken) -> Option<T> {
        loop {
            tokio::select! {
                biased;
                there = &mut self.0 => match there {
                    Ok(there) => return Some(there),
                    // Why it does not come is said by who opens it.
                    Err(_) => break,
                },
                () = stop.cancelled() => return None,
                connection = listener.accept() => drop(connection),
            }
        }
        stop.cancelled().await;
        None
    }
}

impl Outlet<Readers> {
    /// Keeps the list of the logs until `stop`.
    ///
    /// # Errors
    /// None.
    pub(super) async fn watch(self, stop: CancellationToken) -> anyhow::Result<()> {
        let readers = tokio::select! {
            readers = self.0 => readers.ok(),
            () = stop.cancelled() => None,
        };
        match readers {
            Some(readers) => readers.watch(stop).await,
            None => stop.cancelled().await,
        }
        Ok(())
    }
}
