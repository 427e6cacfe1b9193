//! The catalogue of logs on Redis: leases and removal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::RedisResult;

use super::error::explain;
use super::keys::{Common, Keys};
use super::{HEARTBEAT, Redis, Shared, cursors, follow, millis, scripts};
use crate::catalogue::{Catalogue, CatalogueError, ExportSetting, Holder, Lease, LogInfo};
use crate::cursor::{Cursor, Hours, Tally, add_hours};
use crate::log::Log;

/// Result of closing a log.
enum Settled {
    /// The log is still needed.
    Needed,
    /// The log is gone.
    Gone,
    /// The log is closed: its end and its cursors.
    Closed(String, Vec<(String, String)>),
}

fn unavailable(error: redis::RedisError) -> CatalogueError {
    CatalogueError::Unavailable(explain(&error))
}

impl Shared {
    fn keys(&self, log: &str) -> Keys {
        Keys::of(&self.config.key_prefix(), log)
    }

    async fn infos(&self) -> RedisResult<Vec<LogInfo>> {
        let Common { index, .. } = &self.common;
        let logs: BTreeMap<String, u64> = self.servers.run(index, redis::cmd("HGETALL").arg(index)).await?;
        let mut found = Vec::with_capacity(logs.len());
        for id in logs.into_keys() {
            let keys = self.keys(&id);
            let (servers, key) = (&self.servers, &keys.meta);
            if !servers.run::<bool>(key, redis::cmd("EXISTS").arg(key)).await? {
                // Its creator died between two steps, or it is being removed: it is empty.
                self.servers.run::<()>(index, redis::cmd("HDEL").arg(index).arg(&id)).await?;
                continue;
            }
            let written = servers.run(key, redis::cmd("EXISTS").arg(&keys.writer)).await?;
            let holder: (Option<String>, Option<String>) =
                servers.run(key, redis::cmd("HMGET").arg(&keys.lease).arg("name").arg("address")).await?;
            let holder = match holder {
                (Some(name), Some(address)) => Some(Holder { name, address }),
                _ => None,
            };
            found.push(LogInfo { id, written, holder });
        }
        Ok(found)
    }

    async fn announce(&self, holder: &Holder, time: Duration) -> RedisResult<Vec<Holder>> {
        let Self { servers, common, .. } = self;
        let alive = servers.announce(&common.flushers, (&holder.name, &holder.address), time).await?;
        Ok(alive.into_iter().map(|(name, address)| Holder { name, address }).collect())
    }

    async fn was_removed(&self, log: &str) -> RedisResult<bool> {
        let Common { ends, .. } = &self.common;
        self.servers.run(ends, redis::cmd("HEXISTS").arg(ends).arg(log)).await
    }

    /// Deletes the keys of logs that were removed from the list.
    async fn sweep(&self) -> RedisResult<()> {
        let Common { removed, .. } = &self.common;
        let logs: Vec<String> = self.servers.run(removed, redis::cmd("SMEMBERS").arg(removed)).await?;
        for id in logs {
            let keys = self.keys(&id);
            let mut delete = redis::cmd("UNLINK");
            delete
                .arg(&keys.meta)
                .arg(&keys.log)
                .arg(&keys.marks)
                .arg(&keys.cursors)
                .arg(&keys.lease)
                .arg(&keys.writer);
            self.servers.run::<()>(&keys.meta, &delete).await?;
            self.servers.run::<()>(removed, redis::cmd("SREM").arg(removed).arg(&id)).await?;
        }
        Ok(())
    }

    async fn settle(&self, lease: &Lease) -> RedisResult<Settled> {
        let keys = self.keys(&lease.log);
        let (retain, beat) = (self.config.retain_ms().to_string(), millis(HEARTBEAT));
        let arguments = [lease.holder.name.clone(), lease.epoch.to_string(), retain, beat];
        let names = [&keys.meta, &keys.lease, &keys.writer, &keys.cursors].map(String::as_str);
        let answer: Vec<redis::Value> =
            self.servers.script(&scripts::SETTLE, &names, &arguments.each_ref().map(String::as_str)).await?;
        let mut answer = answer.into_iter();
        let what: String = redis::from_redis_value(answer.next().unwrap_or_default())?;
        Ok(match (what.as_str(), answer.next(), answer.next()) {
            ("settled", Some(end), Some(cursors)) => {
                Settled::Closed(redis::from_redis_value(end)?, redis::from_redis_value(cursors)?)
            }
            ("gone", ..) => Settled::Gone,
            _ => Settled::Needed,
        })
    }

    async fn unlist(&self, log: &str, end: String, counts: Vec<(String, u64)>) -> RedisResult<()> {
        let Common { index, settled, removed, ends, .. } = &self.common;
        let mut arguments = vec![log.to_owned(), end];
        arguments.extend(counts.into_iter().flat_map(|(field, count)| [field, count.to_string()]));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let keys = [index, settled, removed, ends].map(String::as_str);
        let _first: bool = self.servers.script(&scripts::UNLIST, &keys, &arguments).await?;
        self.sweep().await
    }
}

/// Counts of a cursor with the fields of their sums over all logs.
fn counts(sink: &str, cursor: &Cursor) -> Vec<(String, u64)> {
    let field = |tenant: &str, kind: &str| serde_json::json!([sink, tenant, kind]).to_string();
    let tallies = cursor.tallies.iter().flat_map(|(tenant, tally)| {
        let Tally { stored, merged, dead_lettered, other, missed, filtered, refused, lost } = *tally;
        let kinds = [
            ("stored", stored),
            ("merged", merged),
            ("dead_lettered", dead_lettered),
            ("other", other),
            ("missed", missed),
            ("filtered", filtered),
            ("refused", refused),
            ("lost", lost),
        ];
        kinds.map(|(kind, count)| (field(tenant, kind), count))
    });
    let done = (field("", "done_to"), cursor.done_to);
    let hours = cursor
        .hours
        .iter()
        .flat_map(|(tenant, hours)| hours.iter().map(|(hour, count)| (field(tenant, &format!("hour {hour}")), *count)));
    tallies.chain([done]).chain(hours).filter(|(_, count)| *count > 0).collect()
}

/// The inverse of [`counts`], for all sinks.
fn sums(fields: Vec<(String, u64)>) -> Option<BTreeMap<String, Cursor>> {
    let mut found: BTreeMap<String, Cursor> = BTreeMap::new();
    let mut all_hours: BTreeMap<(String, String), Hours> = BTreeMap::new();
    for (field, count) in fields {
        let [sink, tenant, kind]: [String; 3] = serde_json::from_str(&field).ok()?;
        let cursor = found.entry(sink.clone()).or_default();
        if kind == "done_to" {
            (cursor.done_to, cursor.sealed_to) = (count, count);
            continue;
        }
        if let Some(hour) = kind.strip_prefix("hour ") {
            all_hours.entry((sink, tenant)).or_default().insert(hour.parse().ok()?, count);
            continue;
        }
        let tally = cursor.tallies.entry(tenant).or_default();
        *match kind.as_str() {
            "stored" => &mut tally.stored,
            "merged" => &mut tally.merged,
            "dead_lettered" => &mut tally.dead_lettered,
            "other" => &mut tally.other,
            "missed" => &mut tally.missed,
            "filtered" => &mut tally.filtered,
            "refused" => &mut tally.refused,
            "lost" => &mut tally.lost,
            _ => return None,
        } = count;
    }
    for ((sink, tenant), hours) in all_hours {
        let kept = found.entry(sink).or_default().hours.entry(tenant).or_default();
        add_hours(kept, &hours);
    }
    Some(found)
}

#[async_trait]
impl Catalogue for Redis {
    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError> {
        self.shared.infos().await.map_err(unavailable)
    }

    async fn ids(&self) -> Result<Vec<String>, CatalogueError> {
        let key = &self.shared.common.index;
        let mut ids: Vec<String> =
            self.shared.servers.run(key, redis::cmd("HKEYS").arg(key)).await.map_err(unavailable)?;
        ids.sort_unstable();
        Ok(ids)
    }

    async fn announce(&self, holder: &Holder, time: Duration) -> Result<Vec<Holder>, CatalogueError> {
        self.shared.announce(holder, time).await.map_err(unavailable)
    }

    async fn withdraw(&self, holder: &Holder) -> Result<(), CatalogueError> {
        self.shared.announce(holder, Duration::ZERO).await.map(drop).map_err(unavailable)
    }

    async fn claim(&self, log: &str, holder: &Holder, time: Duration) -> Result<Option<Lease>, CatalogueError> {
        let keys = self.shared.keys(log);
        let time = millis(time);
        let claimed: Option<u64> = self
            .shared
            .servers
            .script(&scripts::CLAIM, &[&keys.meta, &keys.lease], &[&holder.name, &holder.address, &time])
            .await
            .map_err(unavailable)?;
        Ok(claimed.map(|epoch| Lease { log: log.to_owned(), epoch, holder: holder.clone() }))
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        let keys = self.shared.keys(&lease.log);
        let arguments =
            [lease.holder.name.clone(), lease.epoch.to_string(), millis(time.max(Duration::from_millis(1)))];
        let arguments = arguments.each_ref().map(String::as_str);
        self.shared.servers.script(&scripts::RENEW, &[&keys.lease], &arguments).await.map_err(unavailable)
    }

    async fn regain(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        let keys = self.shared.keys(&lease.log);
        let Holder { name, address } = &lease.holder;
        let (epoch, time) = (lease.epoch.to_string(), millis(time.max(Duration::from_millis(1))));
        let arguments = [name.as_str(), address, &epoch, &time];
        let names = [keys.meta.as_str(), &keys.lease];
        self.shared.servers.script(&scripts::REGAIN, &names, &arguments).await.map_err(unavailable)
    }

    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError> {
        let keys = self.shared.keys(&lease.log);
        let arguments = [lease.holder.name.as_str(), &lease.epoch.to_string(), "0"];
        let given: RedisResult<bool> = self.shared.servers.script(&scripts::RENEW, &[&keys.lease], &arguments).await;
        given.map(drop).map_err(unavailable)
    }

    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError> {
        let held = self.shared.open.lock().get(log).and_then(std::sync::Weak::upgrade);
        if let Some(held) = held.filter(|held| !held.held.lock().gone) {
            return Ok(held);
        }
        let opened = Arc::new(self.shared.log(log, Arc::default()));
        if !follow::start(&opened).await.map_err(unavailable)? {
            return Err(CatalogueError::Unavailable(format!("there is no log {log}")));
        }
        let mut open = self.shared.open.lock();
        open.retain(|_, log| log.strong_count() > 0);
        // Another process may have been faster.
        if let Some(other) = open.get(log).and_then(std::sync::Weak::upgrade).filter(|log| !log.held.lock().gone) {
            return Ok(other);
        }
        open.insert(log.to_owned(), Arc::downgrade(&opened));
        Ok(opened)
    }

    async fn remove(&self, lease: &Lease) -> Result<bool, CatalogueError> {
        let (end, held) = match self.shared.settle(lease).await.map_err(unavailable)? {
            Settled::Needed => return Ok(false),
            // It was removed, or lost: its writer puts a lost one there again.
            Settled::Gone => return self.shared.was_removed(&lease.log).await.map_err(unavailable),
            Settled::Closed(end, held) => (end, held),
        };
        let mut sums = Vec::new();
        for (sink, text) in held {
            let cursor = cursors::decode(&text).ok_or_else(|| CatalogueError::Damaged {
                log: lease.log.clone(),
                reason: format!("the cursor of sink {sink} cannot be read"),
            })?;
            sums.extend(counts(&sink, &cursor));
        }
        self.shared.unlist(&lease.log, end, sums).await.map_err(unavailable)?;
        Ok(true)
    }

    async fn settled(&self) -> Result<BTreeMap<String, Cursor>, CatalogueError> {
        let key = &self.shared.common.settled;
        let fields: Vec<(String, u64)> =
            self.shared.servers.run(key, redis::cmd("HGETALL").arg(key)).await.map_err(unavailable)?;
        sums(fields).ok_or_else(|| CatalogueError::Damaged { log: key.clone(), reason: "it holds no counts".into() })
    }

    async fn export_settings(&self) -> Result<BTreeMap<String, ExportSetting>, CatalogueError> {
        let key = &self.shared.common.exports;
        let held: Vec<(String, String)> =
            self.shared.servers.run(key, redis::cmd("HGETALL").arg(key)).await.map_err(unavailable)?;
        let read = |(name, text): (String, String)| match serde_json::from_str(&text) {
            Ok(setting) => Ok((name, setting)),
            Err(error) => {
                let path = format!("export {name} in {key}");
                Err(CatalogueError::Settings { path, reason: error.to_string() })
            }
        };
        held.into_iter().map(read).collect()
    }

    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<(), CatalogueError> {
        let key = &self.shared.common.exports;
        let text = serde_json::to_string(&setting).expect("a setting is JSON");
        let mut set = redis::cmd("HSET");
        self.shared.servers.run(key, set.arg(key).arg(name).arg(text)).await.map_err(unavailable)
    }
}
