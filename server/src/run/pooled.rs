//! The ports of the api over several pools: each call goes to the pool of its tenant, so that one
//! whose store is away delays and refuses no calls about another.

use std::sync::Arc;

use api::{ExportError, ExportStatus, Replay, ReplayError, Rewound};
use async_trait::async_trait;
use buffer::Log;
use flusher::Projections;
use flusher::fleet::Readers;
use futures::future::{join_all, select_all, try_join_all};
use model::{DeviceKey, Nanos, TimeRange};
use stores::contract::{
    BookLine, Books, DeadLetters, Deadletter, History, LatestState, LatestView, Result, StoreError, Tail, TailAnswer,
};
use stores::{Block, BlockMeta};
use tokio::sync::watch;

use super::exports::Exports;
use super::placement::Placement;

/// A port of each lane.
pub(super) struct Pooled<P: ?Sized> {
    placement: Arc<Placement>,
    lanes: Vec<Arc<P>>,
}

impl<P: ?Sized> Pooled<P> {
    /// Ports in the order of their lanes.
    pub(super) fn new(placement: Arc<Placement>, lanes: Vec<Arc<P>>) -> Self {
        Self { placement, lanes }
    }

    async fn of(&self, tenant: &str) -> Result<&P> {
        let lane = self.placement.lane(tenant).await?;
        self.lanes.get(lane).map(|port| &**port).ok_or_else(|| StoreError::busy("the pool is not open".to_owned()))
    }
}

/// A write through the api's ports belongs to a tenant; without one it is not made.
fn no_tenant<T>() -> Result<T> {
    Err(StoreError::Refused("a call without a tenant".to_owned()))
}

#[async_trait]
impl History for Pooled<dyn History> {
    async fn write(&self, _: Vec<Block>) -> Result<()> {
        no_tenant()
    }

    async fn sync(&self) -> Result<()> {
        no_tenant()
    }

    fn done(&self, _: &str, _: u64) {}

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        self.of(&device.tenant).await?.find(device, range).await
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        self.of(&device.tenant).await?.fetch(device, metas, names).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        no_tenant()
    }

    async fn expire(&self, _: Nanos) -> Result<u64> {
        no_tenant()
    }

    async fn merge(&self) -> Result<bool> {
        no_tenant()
    }
}

#[async_trait]
impl Tail for Pooled<dyn Tail> {
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer> {
        self.of(&device.tenant).await?.tail(device, range, names).await
    }
}

#[async_trait]
impl LatestView for Pooled<dyn LatestView> {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let mut states = Vec::with_capacity(devices.len());
        // Nearly always of one tenant.
        for devices in devices.chunk_by(|a, b| a.tenant == b.tenant) {
            states.extend(self.of(&devices[0].tenant).await?.get(devices).await?);
        }
        Ok(states)
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        self.of(tenant).await?.list(tenant, after, limit).await
    }
}

#[async_trait]
impl DeadLetters for Pooled<dyn DeadLetters> {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        for letters in letters.chunk_by(|a, b| a.tenant == b.tenant) {
            self.of(&letters[0].tenant).await?.put(letters.to_vec()).await?;
        }
        Ok(())
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        self.of(tenant).await?.list(tenant, after, limit).await
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        self.of(tenant).await?.newest(tenant, log, most).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        self.of(tenant).await?.get(tenant, log, offset, stage).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        self.of(tenant).await?.mark_replayed(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        no_tenant()
    }
}

#[async_trait]
impl Replay for Pooled<dyn Replay> {
    async fn replay(&self, letter: &Deadletter) -> std::result::Result<(), ReplayError> {
        let lane = self.of(&letter.tenant).await.map_err(|error| ReplayError::Unavailable(error.to_string()))?;
        lane.replay(letter).await
    }
}

#[async_trait]
impl Books for Pooled<dyn Books> {
    /// Lines of all pools that can be read. A tenant is in one pool, so that none has two lines of
    /// a projection. When no pool can be read: the first error.
    async fn books(&self, check: bool) -> Result<Vec<BookLine>> {
        let asked = join_all(self.lanes.iter().map(|books| books.books(check))).await;
        let (mut lines, mut failed, mut any) = (Vec::new(), None, false);
        for found in asked {
            match found {
                Ok(found) => {
                    any = true;
                    lines.extend(found);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if !any => Err(error),
            _ => Ok(lines),
        }
    }

    async fn books_of(&self, tenant: &str, check: bool) -> Result<Vec<BookLine>> {
        self.of(tenant).await?.books_of(tenant, check).await
    }
}

/// The logs of all lanes.
pub(super) struct PooledLogs {
    placement: Option<Arc<Placement>>,
    lanes: Vec<Readers>,
    names: watch::Receiver<Arc<[String]>>,
}

impl PooledLogs {
    pub(super) fn new(placement: Option<Arc<Placement>>, lanes: Vec<Readers>) -> Self {
        let names = match &lanes[..] {
            [readers] => readers.names(),
            _ => merged(lanes.iter().map(Readers::names).collect()),
        };
        Self { placement, lanes, names }
    }
}

/// The names of the logs of all lanes; no two have the same. It ends with the last of them, or with
/// its receivers.
fn merged(mut lanes: Vec<watch::Receiver<Arc<[String]>>>) -> watch::Receiver<Arc<[String]>> {
    let (all, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        loop {
            let names = lanes.iter_mut().flat_map(|lane| lane.borrow_and_update().to_vec()).collect();
            all.send_replace(names);
            let changed = select_all(lanes.iter_mut().map(|lane| Box::pin(lane.changed())));
            let ended = tokio::select! {
                (changed, at, _) = changed => changed.is_err().then_some(at),
                () = all.closed() => return,
            };
            if let Some(at) = ended {
                lanes.remove(at);
            }
            if lanes.is_empty() {
                return;
            }
        }
    });
    receiver
}

#[async_trait]
impl api::Logs for PooledLogs {
    async fn open(&self, tenant: Option<&str>) -> Result<Vec<Arc<dyn Log>>> {
        match (&self.placement, tenant) {
            (Some(placement), Some(tenant)) => {
                let lane = placement.lane(tenant).await?;
                let readers =
                    self.lanes.get(lane).ok_or_else(|| StoreError::busy("the pool is not open".to_owned()))?;
                readers.logs().await
            }
            _ => Ok(try_join_all(self.lanes.iter().map(Readers::logs)).await?.into_iter().flatten().collect()),
        }
    }

    fn names(&self) -> watch::Receiver<Arc<[String]>> {
        self.names.clone()
    }
}

/// The exports of all lanes; the name of an export is unique among them.
pub(super) struct PooledExports(Vec<(Projections, Exports)>);

impl PooledExports {
    /// The exports of each lane.
    pub(super) fn new(lanes: Vec<(Projections, Exports)>) -> Self {
        Self(lanes)
    }

    fn of(&self, name: &str) -> std::result::Result<&Exports, ExportError> {
        let has = |projections: &Projections| projections.exports().any(|export| *export.name == *name);
        self.0.iter().find(|(projections, _)| has(projections)).map(|(_, exports)| exports).ok_or_else(|| {
            let all = self.0.iter().flat_map(|(projections, _)| projections.exports());
            ExportError::Unknown { name: name.to_owned(), known: all.map(|export| export.name.to_string()).collect() }
        })
    }
}

#[async_trait]
impl api::Exports for PooledExports {
    async fn list(&self) -> std::result::Result<Vec<ExportStatus>, ExportError> {
        let mut found = Vec::new();
        for (_, exports) in &self.0 {
            found.extend(exports.list().await?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    async fn pause(&self, name: &str) -> std::result::Result<(), ExportError> {
        self.of(name)?.pause(name).await
    }

    async fn resume(&self, name: &str) -> std::result::Result<(), ExportError> {
        self.of(name)?.resume(name).await
    }

    async fn rewind(&self, name: &str, to: Nanos) -> std::result::Result<Rewound, ExportError> {
        self.of(name)?.rewind(name, to).await
    }
}
