//! Removal of the data of deleted tenants from the places of this process: the store, the exports,
//! the memory of the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use envelope::Keyring;
use flusher::Projections;
use flusher::fleet::Readers;
use identity::{Gate, Place, Purger, Residual};
use model::clock::now;
use parking_lot::Mutex;
use stores::contract::{Export, Store};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Entries of one slice: a transaction of some milliseconds.
const SLICE: usize = 200;
/// Time after which every process of a fleet knows of a removal: twice the bound of a revocation.
const GRACE: Duration = Duration::from_secs(10);
/// Waits for the sinks before it is reported that they are not there yet.
const LOOKS: usize = 25;
const LOOK: Duration = Duration::from_millis(200);

/// The projections of all lanes.
pub(super) fn of_lanes(lanes: &[Lane]) -> Vec<Projections> {
    lanes.iter().map(|lane| lane.stores.projections.clone()).collect()
}

/// The removal of data of the tenants of a lane from its places. `name` is that of the process.
pub(super) fn purger(lane: &Lane, gate: &Gate, name: String) -> Purger {
    let Lane { config, stores, .. } = lane;
    let sinks = Sinks {
        readers: lane.readers.clone(),
        projections: stores.projections.clone(),
        targets: Mutex::default(),
        retain_secs: config.log.retain_secs,
    };
    // In this order: without its keys, the data of the tenant is unreadable at once.
    let mut places: Vec<Arc<dyn Place>> = vec![Arc::new(sinks)];
    if let Some(keys) = config.log.keys.clone() {
        places.push(Arc::new(OfKeys(keys)));
    }
    places.push(Arc::new(OfStore(Arc::clone(&stores.store))));
    for (name, export, _) in &stores.targets {
        places.push(Arc::new(OfExport { name: name.clone(), export: Arc::clone(export) }));
    }
    let grace = if config.is_fleet() { GRACE } else { Duration::ZERO };
    Purger::new(gate, places, name, grace).of_pool(lane.pool.as_deref())
}

/// Reads which tenants are deleted before anything is flushed.
pub(super) async fn load(gate: &Gate, lanes: &[Lane]) {
    if let Err(error) = gate.load_purged().await {
        tracing::error!(%error, "cannot read which tenants are deleted; tried again each second");
    }
    for projections in of_lanes(lanes) {
        projections.purged().add(gate.purged().borrow().iter().cloned());
    }
}

/// Tells the sinks and the broker of tenants that are deleted, as they become known.
pub(super) async fn follow(
    gate: Gate,
    of_lanes: Vec<Projections>,
    forget: impl Fn(&str) + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut purged = gate.purged();
    let mut known: BTreeSet<Arc<str>> = BTreeSet::new();
    loop {
        let all = purged.borrow_and_update().clone();
        for projections in &of_lanes {
            projections.purged().add(all.iter().cloned());
        }
        for tenant in all.difference(&known) {
            forget(tenant);
            of_lanes.iter().for_each(|projections| projections.forget_states(tenant));
        }
        known = all;
        tokio::select! {
            changed = purged.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    stop.cancelled().await;
    Ok(())
}

/// The logs and the sinks: what is on its way into the stores, and what stays in the logs.
struct Sinks {
    readers: Readers,
    projections: Projections,
    /// For each tenant, the ends of the logs when all processes knew.
    targets: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    retain_secs: u64,
}

impl Sinks {
    /// Returns a sink that has not passed the end that its log had, if there is one.
    async fn behind(&self, targets: &BTreeMap<String, u64>) -> Result<Option<String>, String> {
        let paused: BTreeSet<Arc<str>> =
            self.readers.exports().await.into_iter().filter(|export| export.paused).map(|export| export.sink).collect();
        for log in self.readers.logs().await.map_err(|error| error.to_string())? {
            let Some(target) = targets.get(log.id()) else { continue };
            let cursors = log.cursors().await.map_err(|error| error.to_string())?;
            for (sink, cursor) in cursors {
                // A paused export holds nothing: it reads the log again.
                let is_known = self.projections.get(&sink).is_some() && !paused.contains(&*sink);
                if is_known && cursor.done_to < *target {
                    return Ok(Some(format!("{sink} of log {}", log.id())));
                }
            }
        }
        Ok(None)
    }

    async fn ends(&self) -> Result<BTreeMap<String, u64>, String> {
        let mut ends = BTreeMap::new();
        for log in self.readers.logs().await.map_err(|error| error.to_string())? {
            ends.insert(log.id().to_owned(), log.confirm_end().await.0);
        }
        Ok(ends)
    }
}

#[async_trait]
impl Place for Sinks {
    fn name(&self) -> String {
        "log".to_owned()
    }

    async fn settle(&self, tenant: &str) -> Result<(), String> {
        // Batches that are cut from now on have nothing of the tenant.
        self.projections.purged().add([tenant.into()]);
        let known = self.targets.lock().get(tenant).cloned();
        let targets = match known {
            Some(targets) => targets,
            None => {
                let ends = self.ends().await?;
                self.targets.lock().entry(tenant.to_owned()).or_insert(ends).clone()
            }
        };
        let mut behind = None;
        for _ in 0..LOOKS {
            behind = self.behind(&targets).await?;
            if behind.is_none() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let behind = behind.unwrap_or_default();
        Err(format!(
            "{behind} has not delivered what came before the deletion; an export that is away can be paused \
             (`weir exports pause`)"
        ))
    }

    async fn count(&self, _: &str) -> Result<Vec<(String, u64)>, String> {
        Ok(Vec::new())
    }

    async fn remove_some(&self, _: &str) -> Result<bool, String> {
        Ok(false)
    }

    async fn residuals(&self, tenant: &str) -> Vec<Residual> {
        self.targets.lock().remove(tenant);
        let kept = i64::try_from(self.retain_secs).unwrap_or(i64::MAX).saturating_mul(model::time::SECOND);
        let log = Residual {
            place: "log".to_owned(),
            reason: "records that were flushed, until the log is trimmed (`log.retain_secs`, `log.retain_bytes`)"
                .to_owned(),
            expires: (self.retain_secs > 0).then(|| now().saturating_add(kept)),
        };
        let backups = Residual {
            place: "backups".to_owned(),
            reason: "copies that were made before, until they are deleted".to_owned(),
            expires: None,
        };
        vec![log, backups]
    }
}

/// The data keys, under which everything in the data folder is sealed.
struct OfKeys(Keyring);

#[async_trait]
impl Place for OfKeys {
    fn name(&self) -> String {
        "keyring".to_owned()
    }

    async fn count(&self, _: &str) -> Result<Vec<(String, u64)>, String> {
        Ok(Vec::new())
    }

    async fn remove_some(&self, tenant: &str) -> Result<bool, String> {
        if self.0.is_closed(tenant) {
            return Ok(false);
        }
        let (keys, tenant) = (self.0.clone(), tenant.to_owned());
        let destroyed = tokio::task::spawn_blocking(move || keys.destroy(&tenant)).await;
        destroyed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(true)
    }

    async fn residuals(&self, _: &str) -> Vec<Residual> {
        let reason = "its keys in backups that were made before, until the key-encryption key of that time is gone \
                      (`weir encryption rotate`)";
        vec![Residual { place: self.name(), reason: reason.to_owned(), expires: None }]
    }
}

/// The store: history, latest states, dead letters, retained messages.
struct OfStore(Arc<dyn Store>);

#[async_trait]
impl Place for OfStore {
    fn name(&self) -> String {
        format!("store {}", Store::name(&*self.0))
    }

    async fn count(&self, tenant: &str) -> Result<Vec<(String, u64)>, String> {
        let counts = self.0.count_of(tenant).await.map_err(|error| error.to_string())?;
        Ok(counts.named().map(|(kind, count)| (kind.to_owned(), count)).into())
    }

    async fn remove_some(&self, tenant: &str) -> Result<bool, String> {
        self.0.delete_some_of(tenant, SLICE).await.map_err(|error| error.to_string())
    }

    async fn residuals(&self, _: &str) -> Vec<Residual> {
        let embedded = Residual {
            place: self.name(),
            reason: "freed pages of its files, until they are written again or the file's week expires".to_owned(),
            expires: None,
        };
        if Store::name(&*self.0) == "embedded" { vec![embedded] } else { Vec::new() }
    }
}

/// The readings of one export.
struct OfExport {
    name: String,
    export: Arc<dyn Export>,
}

#[async_trait]
impl Place for OfExport {
    fn name(&self) -> String {
        format!("export {}", self.name)
    }

    async fn count(&self, tenant: &str) -> Result<Vec<(String, u64)>, String> {
        let count = self.export.count_of(tenant).await.map_err(|error| error.to_string())?;
        Ok(count.map(|count| ("readings".to_owned(), count)).into_iter().collect())
    }

    async fn remove_some(&self, tenant: &str) -> Result<bool, String> {
        let removed = self.export.delete_some_of(tenant).await.map_err(|error| error.to_string())?;
        Ok(removed.unwrap_or(false))
    }

    async fn residuals(&self, tenant: &str) -> Vec<Residual> {
        if matches!(self.export.count_of(tenant).await, Ok(Some(_))) {
            return Vec::new();
        }
        let reason = "readings that were exported stay until that system deletes them itself";
        vec![Residual { place: self.name(), reason: reason.to_owned(), expires: None }]
    }
}
