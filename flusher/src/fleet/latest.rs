//! The latest states of all logs and the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use buffer::frame::{Frame, Record};
use futures::future::join_all;
use model::DeviceKey;
use proto::internal::v1 as proto;
use stores::contract::{LatestState, LatestView, Result};

use super::readers::Reading;
use super::{call, convert};
use crate::readers::scan;
use crate::sinks::latest::{LatestMap, Question};

/// A store that does not answer by then is not waited for, when the flushers know the states that
/// it holds.
const PATIENCE: Duration = Duration::from_millis(500);

/// Merges the states that every log's holder knows with those of the store.
pub(super) struct FleetLatest(pub(super) Arc<Reading>);

/// The states that the flushers know.
struct Known {
    map: LatestMap,
    /// They include what the store held before.
    complete: bool,
}

#[async_trait]
impl LatestView for FleetLatest {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let purged = self.0.projections.purged();
        if devices.iter().any(|device| purged.has(&device.tenant)) {
            return Ok(vec![None; devices.len()]);
        }
        let map = self.all(&Question::Some(devices)).await?;
        Ok(devices.iter().map(|device| map.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        if self.0.projections.purged().has(tenant) {
            return Ok(Vec::new());
        }
        let map = self.all(&Question::List { tenant, after, limit }).await?;
        // Each gave its first ones: the first ones of all are among them, each with all that is
        // known of it.
        Ok(map.list(tenant, after, limit))
    }
}

impl FleetLatest {
    /// The states that the flushers and the store know.
    async fn all(&self, question: &Question<'_>) -> Result<LatestMap> {
        let Known { mut map, complete } = self.ask(question).await?;
        let store = question.ask(&*self.0.stores.latest);
        let stored = match (complete, self.0.is_store_shared) {
            (true, false) => Vec::new(),
            // An error, or no answer in time: the known states are complete without it.
            (true, true) => tokio::time::timeout(PATIENCE, store).await.ok().and_then(Result::ok).unwrap_or_default(),
            (false, _) => store.await?,
        };
        stored.into_iter().for_each(|state| map.merge(state));
        Ok(map)
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
            let missing = |log: &&String| !held.iter().any(|held_log| held_log.lease.log == **log);
            unanswered.extend(groups.here.iter().filter(missing).cloned());
            for held_log in &held {
                held_log.handle.latest.catch_up().await?;
                known.complete &= held_log.is_complete();
            }
            let (states, complete) = local.0.known(question).await;
            known.complete &= complete;
            states.into_iter().for_each(|state| known.map.merge(state));
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
        let mut client = call::client(peers, address)?;
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
    let (offsets, _) = scan::not_passed(log, crate::LATEST, wait).await?;
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
    scan::frames(log, offsets.start, offsets.end, take).await?;
    Ok(question.answer(&map))
}
