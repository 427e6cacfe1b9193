//! The latest states of all logs and the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use buffer::frame::{Frame, Record};
use futures::future::join_all;
use model::DeviceKey;
use proto::internal::v1 as proto;
use stores::contract::{LatestState, LatestView, Result, StoreError};

use super::convert;
use super::readers::Reading;
use crate::readers::scan;
use crate::sinks::latest::LatestMap;

/// A store that does not answer by then is not waited for, when the flushers know the states that
/// it holds.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time for which a query waits for the claim of the log and for the states at a start.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// Merges the states that every log's holder knows with those of the store.
pub(super) struct FleetLatest(pub(super) Arc<Reading>);

/// A query for states.
enum Question<'a> {
    Some(&'a [DeviceKey]),
    List { tenant: &'a str, after: Option<&'a str>, limit: usize },
}

/// The states that the flushers know.
struct Known {
    map: LatestMap,
    /// They include what the store held before.
    complete: bool,
}

#[async_trait]
impl LatestView for FleetLatest {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let mut known = self.ask_when_loaded(&Question::Some(devices)).await?;
        for state in known.stored(&self.0, |store| store.get(devices)).await?.into_iter().flatten() {
            known.map.merge(state);
        }
        Ok(devices.iter().map(|device| known.map.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let mut known = self.ask_when_loaded(&Question::List { tenant, after, limit }).await?;
        for state in known.stored(&self.0, |store| store.list(tenant, after, limit)).await? {
            known.map.merge(state);
        }
        // Each gave its first ones: the first ones of all are among them, each with all that is
        // known of it.
        Ok(known.map.list(tenant, after, limit))
    }
}

impl Known {
    /// The store's states; none when it does not answer and the flushers know them.
    async fn stored<'a, T, F>(&self, readers: &'a Reading, ask: impl FnOnce(&'a dyn LatestView) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        match &readers.latest {
            Some(store) if !self.complete => ask(&**store).await,
            // An error, or no answer in time: the known states are complete without it.
            Some(store) => {
                Ok(tokio::time::timeout(PATIENCE, ask(&**store)).await.ok().and_then(Result::ok).unwrap_or_default())
            }
            None if self.complete => Ok(Vec::new()),
            None => Err(StoreError::busy("the latest states are not loaded yet; ask again")),
        }
    }
}

impl FleetLatest {
    /// As [`FleetLatest::ask`]. Where only this process reads the store, a query right after the
    /// start waits until the log is claimed and the states are loaded.
    async fn ask_when_loaded(&self, question: &Question<'_>) -> Result<Known> {
        let Some(local) = self.0.local.as_ref().filter(|_| self.0.latest.is_none()) else {
            return self.ask(question).await;
        };
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        let mut loads = local.0.loads.subscribe();
        loop {
            let known = self.ask(question).await?;
            if known.complete || tokio::time::timeout_at(deadline, loads.changed()).await.is_err() {
                return Ok(known);
            }
        }
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Known> {
        let listing = self.0.directory.list().await?;
        let mut groups = self.0.groups(&listing);
        let mut unanswered = std::mem::take(&mut groups.unheld);
        let mut known = Known { map: LatestMap::default(), complete: !listing.logs.is_empty() };

        let mut asked = Vec::new();
        for (address, logs) in &groups.there {
            asked.push(self.ask_one(address, logs, question));
        }
        for (answer, logs) in join_all(asked).await.into_iter().zip(groups.there.values()) {
            let (states, answered, complete) = answer.unwrap_or_default();
            known.complete &= complete;
            states.into_iter().for_each(|state| known.map.merge(state));
            unanswered.extend(logs.iter().filter(|log| !answered.contains(log)).cloned());
        }

        if let Some(local) = &self.0.local {
            let held = local.0.held(&groups.here);
            let missing = |log: &&String| !held.iter().any(|member| member.lease.log == **log);
            unanswered.extend(groups.here.iter().filter(missing).cloned());
            for member in &held {
                member.handle.latest.catch_up().await?;
                known.complete &= member.is_complete();
            }
            local.0.known(|map| question.answer(map)).into_iter().for_each(|state| known.map.merge(state));
        }

        known.complete &= unanswered.is_empty();
        if !unanswered.is_empty() {
            // They may have a new holder.
            self.0.directory.forget();
        }
        for log in self.0.open_all(&unanswered).await? {
            let states = from_log(&*log, question, self.0.wait).await;
            if let Some(states) = self.0.unless_gone(log.id(), states).await? {
                states.into_iter().for_each(|state| known.map.merge(state));
            }
        }
        Ok(known)
    }

    async fn ask_one(
        &self,
        address: &str,
        logs: &[String],
        question: &Question<'_>,
    ) -> Option<(Vec<LatestState>, Vec<String>, bool)> {
        let logs = logs.to_vec();
        let peers = &self.0.peers;
        let mut client = peers.client(address)?;
        let mut asked: Vec<(Arc<str>, proto::LatestResponse)> = Vec::new();
        match question {
            Question::Some(devices) => {
                // Nearly always of one tenant.
                for devices in devices.chunk_by(|a, b| a.tenant == b.tenant) {
                    let tenant = Arc::clone(&devices[0].tenant);
                    let request = proto::LatestRequest {
                        tenant: tenant.to_string(),
                        devices: devices.iter().map(|device| device.id.to_string()).collect(),
                        logs: logs.clone(),
                    };
                    asked.push((tenant, peers.first(address, client.latest(request)).await?));
                }
            }
            Question::List { tenant, after, limit } => {
                let request = proto::ListLatestRequest {
                    tenant: (*tenant).to_owned(),
                    after: after.unwrap_or_default().to_owned(),
                    limit: u32::try_from(*limit).unwrap_or(u32::MAX),
                    logs,
                };
                asked.push(((*tenant).into(), peers.first(address, client.list_latest(request)).await?));
            }
        }
        let (mut states, mut answered, mut complete) = (Vec::new(), None::<Vec<String>>, true);
        for (tenant, answer) in asked {
            complete &= answer.complete;
            // A log that was given away between two questions counts as unanswered.
            answered = Some(match answered {
                None => answer.logs,
                Some(before) => before.into_iter().filter(|log| answer.logs.contains(log)).collect(),
            });
            for state in answer.states {
                states.push(convert::read_state(&tenant, state).ok()?);
            }
        }
        Some((states, answered.unwrap_or_default(), complete))
    }
}

/// The states of the readings that the latest sink has not stored, made from the log itself.
async fn from_log(log: &dyn Log, question: &Question<'_>, wait: Duration) -> Result<Vec<LatestState>> {
    let cursors = log.cursors().await.map_err(|error| scan::busy(error.to_string()))?;
    let from = cursors.get(crate::LATEST).map_or_else(|| log.start(), |cursor| cursor.done_to);
    let (target, _) = scan::end(log, wait).await?;
    let mut map = LatestMap::default();
    let devices = question.devices();
    let take = |frame: &Frame| {
        for (_, record) in frame.records() {
            let Record::Reading(reading) = record else { continue };
            if question.wants(&devices, reading.device) {
                let place = map.place(reading.device);
                map.apply(place, &reading);
            }
        }
    };
    scan::frames(log, from, target, take).await?;
    Ok(question.answer(&map))
}

impl Question<'_> {
    fn answer(&self, map: &LatestMap) -> Vec<LatestState> {
        match self {
            Self::Some(devices) => devices.iter().filter_map(|device| map.get(device)).collect(),
            Self::List { tenant, after, limit } => map.list(tenant, *after, *limit),
        }
    }

    /// The devices that are asked for by name.
    fn devices(&self) -> HashSet<&DeviceKey> {
        match self {
            Self::Some(devices) => devices.iter().collect(),
            Self::List { .. } => HashSet::new(),
        }
    }

    fn wants(&self, devices: &HashSet<&DeviceKey>, device: &DeviceKey) -> bool {
        match self {
            Self::Some(_) => devices.contains(device),
            Self::List { tenant, after, .. } => {
                *device.tenant == **tenant && after.is_none_or(|after| *device.id > *after)
            }
        }
    }
}
