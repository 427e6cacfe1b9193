//! A connection over which changes are sent that have to be durable.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};

use super::config::{Config, Durability};
use super::error::{OpenError, explain, silent};
use super::servers::Servers;
use super::settings::{self, Wait};

/// A connection to the master of a key whose settings were checked.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    wait: Wait,
    /// A second connection, if replicas must have the data on disk: see [`nudge`].
    nudge: Option<MultiplexedConnection>,
}

/// Responses of the server to commands.
pub(super) struct Sent {
    pub(super) answers: Vec<Value>,
    /// False when too few replicas confirmed in time.
    pub(super) is_replicated: bool,
    /// The settings that the server has after the commands, if they matter.
    pub(super) settings: Option<Vec<(String, String)>>,
}

/// The reason for a missing response.
pub(super) enum Refusal {
    /// The connection timed out.
    Silent(Duration),
    Server(RedisError),
    Settings(OpenError),
}

impl From<RedisError> for Refusal {
    fn from(error: RedisError) -> Self {
        Self::Server(error)
    }
}

impl Refusal {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Server(error) => explain(error),
            Self::Silent(limit) => silent(*limit),
            Self::Settings(error) => error.to_string(),
        }
    }
}

/// The time after which a server that accepts connections but does not respond is unavailable.
pub(super) fn patience(config: &Config) -> Duration {
    config.connect_timeout() + config.response_timeout()
}

impl Link {
    /// Connects, and checks the settings of the server.
    pub(super) async fn open(servers: &Servers, config: &Config, key: &str) -> Result<Self, Refusal> {
        let mut connection = servers.dedicated(key, config.response_timeout()).await?;
        let address = config.urls_for_people();
        let wait = settings::check(config, &address, &mut connection).await.map_err(Refusal::Settings)?;
        let nudge = match wait {
            Wait::Disk => Some(servers.dedicated(key, config.response_timeout()).await?),
            _ => None,
        };
        Ok(Self { connection, wait, nudge })
    }

    /// Sends `count` commands and, on the same connection, the wait for the replicas. The hash
    /// `key` gets a field when replicas have to be nudged.
    pub(super) async fn send(
        &mut self,
        config: &Config,
        key: &str,
        mut pipeline: Pipeline,
        count: usize,
    ) -> RedisResult<Sent> {
        let (replicas, time) = (config.replicas, config.replica_timeout_ms);
        match self.wait {
            Wait::No => {}
            Wait::Memory => drop(pipeline.cmd("WAIT").arg(replicas).arg(time)),
            Wait::Disk => drop(pipeline.cmd("WAITAOF").arg(1).arg(replicas).arg(time)),
        }
        // An operator can change them at any time: what they make of these commands is what counts.
        let is_checked = config.durability == Durability::Always;
        if is_checked {
            pipeline.add_command(settings::ask());
        }
        let mut answers: Vec<Value> = tokio::select! {
            biased;
            answers = pipeline.query_async(&mut self.connection) => answers?,
            never = nudge(&mut self.nudge, key, replicas, time) => match never {},
        };
        let settings = if is_checked { answers.pop().map(redis::from_redis_value).transpose()? } else { None };
        let have: u32 = match (self.wait, answers.len() > count) {
            (Wait::Memory, true) => redis::from_redis_value(answers.swap_remove(count))?,
            (Wait::Disk, true) => {
                let (here, there): (u32, u32) = redis::from_redis_value(answers.swap_remove(count))?;
                if here > 0 { there } else { 0 }
            }
            _ => u32::MAX,
        };
        Ok(Sent { answers, is_replicated: have >= replicas, settings })
    }
}

/// Makes replicas report their progress, by repeated small writes, until dropped.
///
/// A replica reports its position on disk at the time of a request, which is before it has written
/// the latest data; without requests it reports once a second. A single append would wait for that.
async fn nudge(
    connection: &mut Option<MultiplexedConnection>,
    key: &str,
    replicas: u32,
    time: u64,
) -> std::convert::Infallible {
    if let Some(connection) = connection {
        let mut ask = redis::pipe();
        ask.cmd("HSET").arg(key).arg("nudge").arg("1").cmd("WAIT").arg(replicas).arg(time);
        while ask.query_async::<Vec<Value>>(connection).await.is_ok() {}
    }
    // Without it the append only takes more time.
    std::future::pending().await
}
