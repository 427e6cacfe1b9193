//! The latest states, over all logs and the store.

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
use super::wire;
use crate::latest::LatestMap;
use crate::scan;

/// A store that does not answer by then is passed over when the flushers know what it held.
const PATIENCE: Duration = Duration::from_millis(500);

/// What every log's holder knows, and what the store holds, joined.
pub(super) struct FleetLatest(pub(super) Arc<Reading>);

/// What is asked.
enum Question<'a> {
    Some(&'a [DeviceKey]),
    List { tenant: &'a str, after: Option<&'a str>, limit: usize },
}

/// What the flushers say.
struct Told {
    map: LatestMap,
    /// They know what the store held before, too.
    complete: bool,
}

#[async_trait]
impl LatestView for FleetLatest {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let mut told = self.ask(&Question::Some(devices)).await?;
        for state in told.stored(self.0.latest.get(devices)).await?.into_iter().flatten().flatten() {
            told.map.merge(state);
        }
        Ok(devices.iter().map(|device| told.map.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let mut told = self.ask(&Question::List { tenant, after, limit }).await?;
        for state in told.stored(self.0.latest.list(tenant, after, limit)).await?.into_iter().flatten() {
            told.map.merge(state);
        }
        // Each gave its first ones: the first ones of all are among them, each with all that is known of it.
        Ok(told.map.list(tenant, after, limit))
    }
}

impl Told {
    /// What the store says; nothing when it does not answer and the flushers know what it held.
    async fn stored<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        if !self.complete {
            return asked.await.map(Some);
        }
        // An error, or no answer in time.
        Ok(tokio::time::timeout(PATIENCE, asked).await.ok().and_then(Result::ok))
    }
}

impl FleetLatest {
    async fn ask(&self, question: &Question<'_>) -> Result<Told> {
        let listing = self.0.directory.list().await?;
        let mut groups = self.0.groups(&listing);
        let mut unanswered = std::mem::take(&mut groups.nobody);
        let mut told = Told { map: LatestMap::default(), complete: !listing.logs.is_empty() };

        let mut asked = Vec::new();
        for (address, logs) in &groups.there {
            asked.push(self.ask_one(address, logs, question));
        }
        for (answer, logs) in join_all(asked).await.into_iter().zip(groups.there.values()) {
            let (states, answered, complete) = answer.unwrap_or_default();
            told.complete &= complete;
            states.into_iter().for_each(|state| told.map.merge(state));
            unanswered.extend(logs.iter().filter(|log| !answered.contains(log)).cloned());
        }

        if let Some(local) = &self.0.local {
            let held = local.0.held(&groups.here);
            let missing = |log: &&String| !held.iter().any(|member| member.lease.log == **log);
            unanswered.extend(groups.here.iter().filter(missing).cloned());
            for member in &held {
                member.handle.latest.catch_up().await?;
                told.complete &= member.is_complete();
            }
            question.answer(&local.0.common.map.read()).into_iter().for_each(|state| told.map.merge(state));
        }

        told.complete &= unanswered.is_empty();
        if !unanswered.is_empty() {
            // Somebody holds them by now, perhaps.
            self.0.directory.forget();
        }
        for log in self.0.open_all(&unanswered).await? {
            let states = from_log(&*log, question, self.0.wait).await;
            if let Some(states) = self.0.unless_gone(log.id(), states).await? {
                states.into_iter().for_each(|state| told.map.merge(state));
            }
        }
        Ok(told)
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
                states.push(wire::read_state(&tenant, state).ok()?);
            }
        }
        Some((states, answered.unwrap_or_default(), complete))
    }
}

/// The states of what the latest sink has not stored, made from the log itself.
async fn from_log(log: &dyn Log, question: &Question<'_>, wait: Duration) -> Result<Vec<LatestState>> {
    let cursors = log.cursors().await.map_err(|error| scan::busy(error.to_string()))?;
    let from = cursors.get(crate::LATEST).map_or_else(|| log.start(), |cursor| cursor.done_to);
    let (target, _) = scan::end(log, wait).await?;
    let mut map = LatestMap::default();
    let take = |frame: &Frame| {
        for (_, record) in frame.records() {
            let Record::Reading(reading) = record else { continue };
            if question.wants(reading.device) {
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

    fn wants(&self, device: &DeviceKey) -> bool {
        match self {
            Self::Some(devices) => devices.contains(device),
            Self::List { tenant, after, .. } => {
                *device.tenant == **tenant && after.is_none_or(|after| *device.id > *after)
            }
        }
    }
}
