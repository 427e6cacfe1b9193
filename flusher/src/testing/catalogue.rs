//! Logs that several flushers of one test share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::{Catalogue, CatalogueError, Cursor, ExportSetting, Holder, Lease, Log, LogInfo};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::FakeLog;

#[derive(Default)]
pub(crate) struct FakeCatalogue(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    logs: BTreeMap<String, Entry>,
    alive: BTreeMap<String, (Holder, Instant)>,
    settled: BTreeMap<String, Cursor>,
    exports: BTreeMap<String, ExportSetting>,
}

struct Entry {
    log: Arc<FakeLog>,
    written: bool,
    epoch: u64,
    lease: Option<(Lease, Instant)>,
}

impl Entry {
    fn holder(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(lease, _)| lease)
    }
}

impl FakeCatalogue {
    pub(crate) fn add(&self, log: &Arc<FakeLog>) {
        let entry = Entry { log: Arc::clone(log), written: true, epoch: 0, lease: None };
        self.0.lock().logs.insert(log.id().to_owned(), entry);
    }

    /// The writer of a log ends.
    pub(crate) fn close(&self, log: &str) {
        self.0.lock().logs.get_mut(log).unwrap().written = false;
    }

    /// The holder of each log.
    pub(crate) fn holders(&self) -> BTreeMap<String, String> {
        let inner = self.0.lock();
        let held = inner.logs.iter().filter_map(|(log, entry)| Some((log, entry.holder()?)));
        held.map(|(log, lease)| (log.clone(), lease.holder.name.clone())).collect()
    }
}

#[async_trait]
impl Catalogue for FakeCatalogue {
    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError> {
        let inner = self.0.lock();
        let info = |(id, entry): (&String, &Entry)| LogInfo {
            id: id.clone(),
            written: entry.written,
            holder: entry.holder().map(|lease| lease.holder.clone()),
        };
        Ok(inner.logs.iter().map(info).collect())
    }

    async fn announce(&self, holder: &Holder, time: Duration) -> Result<Vec<Holder>, CatalogueError> {
        let mut inner = self.0.lock();
        let now = Instant::now();
        inner.alive.insert(holder.name.clone(), (holder.clone(), now + time));
        inner.alive.retain(|_, (_, until)| *until > now);
        Ok(inner.alive.values().map(|(holder, _)| holder.clone()).collect())
    }

    async fn withdraw(&self, holder: &Holder) -> Result<(), CatalogueError> {
        self.0.lock().alive.remove(&holder.name);
        Ok(())
    }

    async fn claim(&self, log: &str, holder: &Holder, time: Duration) -> Result<Option<Lease>, CatalogueError> {
        let mut inner = self.0.lock();
        let Some(entry) = inner.logs.get_mut(log) else { return Ok(None) };
        if entry.holder().is_some_and(|lease| lease.holder != *holder) {
            return Ok(None);
        }
        entry.epoch += 1;
        let lease = Lease { log: log.to_owned(), epoch: entry.epoch, holder: holder.clone() };
        entry.lease = Some((lease.clone(), Instant::now() + time));
        Ok(Some(lease))
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        let mut inner = self.0.lock();
        let Some(entry) = inner.logs.get_mut(&lease.log) else { return Ok(false) };
        let held = entry.holder() == Some(lease);
        if held {
            entry.lease = Some((lease.clone(), Instant::now() + time));
        }
        Ok(held)
    }

    async fn regain(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        let mut inner = self.0.lock();
        let Some(entry) = inner.logs.get_mut(&lease.log) else { return Ok(false) };
        let free = entry.epoch == lease.epoch;
        if free {
            entry.lease = Some((lease.clone(), Instant::now() + time));
        }
        Ok(free)
    }

    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError> {
        let mut inner = self.0.lock();
        if let Some(entry) = inner.logs.get_mut(&lease.log).filter(|entry| entry.holder() == Some(lease)) {
            entry.lease = None;
        }
        Ok(())
    }

    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError> {
        let inner = self.0.lock();
        let entry = inner.logs.get(log);
        let entry = entry.ok_or_else(|| CatalogueError::Unavailable(format!("there is no log {log}")))?;
        Ok(entry.log.clone())
    }

    async fn remove(&self, lease: &Lease) -> Result<bool, CatalogueError> {
        let mut inner = self.0.lock();
        let Some(entry) = inner.logs.get(&lease.log) else { return Ok(true) };
        let (end, cursors) = (entry.log.end(), entry.log.all_cursors());
        if entry.written || entry.holder() != Some(lease) || cursors.values().any(|cursor| cursor.done_to < end) {
            return Ok(false);
        }
        inner.logs.remove(&lease.log);
        for (sink, cursor) in cursors {
            let sum = inner.settled.entry(sink).or_default();
            sum.done_to += cursor.done_to;
            cursor.tallies.iter().for_each(|(tenant, tally)| sum.tallies.entry(tenant.clone()).or_default().add(tally));
            for (tenant, hours) in &cursor.hours {
                buffer::cursor::add_hours(sum.hours.entry(tenant.clone()).or_default(), hours);
            }
        }
        Ok(true)
    }

    async fn settled(&self) -> Result<BTreeMap<String, Cursor>, CatalogueError> {
        Ok(self.0.lock().settled.clone())
    }

    async fn export_settings(&self) -> Result<BTreeMap<String, ExportSetting>, CatalogueError> {
        Ok(self.0.lock().exports.clone())
    }

    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<(), CatalogueError> {
        self.0.lock().exports.insert(name.to_owned(), setting);
        Ok(())
    }
}
