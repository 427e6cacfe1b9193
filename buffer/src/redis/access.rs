//! Commands and scripts of other crates, on keys with one hash tag: over the same servers, with the
//! same durability as an append to a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use super::config::Config;
use super::error::{explain, is_fault, is_lost, is_no_script};
use super::link::{self, Link, Refusal, Sent};
use super::servers::Servers;
use super::{Redis, settings};

/// A command has no response that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AccessError {
    /// The failure, and the key to change.
    pub reason: String,
    /// The server does not have the script; it is to be loaded.
    pub is_unknown_script: bool,
    /// The server has refused the command, and a repetition is of no use.
    pub is_fault: bool,
}

impl AccessError {
    /// The error of a server that does not answer for the moment.
    pub fn passing(reason: String) -> Self {
        Self { reason, is_unknown_script: false, is_fault: false }
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Reply>),
}

/// A script for the server.
#[derive(Debug)]
pub struct Script(redis::Script);

/// A command.
#[derive(Debug, Clone)]
pub struct Command(redis::Cmd);

/// Access to the keys of one hash tag. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    config: Arc<Config>,
    servers: Arc<Servers>,
    /// Decides the server.
    key: Arc<str>,
}

/// A connection of its own, for commands that wait at the server.
pub struct Waiting(MultiplexedConnection);

/// Sends commands that have to be durable. One sender at a time: their order is kept.
pub struct Durable {
    access: Access,
    link: Option<Link>,
}

impl Redis {
    /// Returns access to the keys `PREFIX:{TAG}:…` of the pool of this configuration.
    pub fn access(&self, tag: &str) -> Access {
        let shared = &self.shared;
        let key = format!("{}:{{{tag}}}:", shared.config.key_prefix());
        Access { config: Arc::clone(&shared.config), servers: Arc::clone(&shared.servers), key: key.into() }
    }
}

impl Script {
    /// A script with this text.
    pub fn new(text: &str) -> Self {
        Self(redis::Script::new(text))
    }

    /// A call of the script with one key, and arguments that follow.
    pub fn call(&self, key: &str) -> Command {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.0.get_hash()).arg(1).arg(key);
        Command(command)
    }
}

impl Command {
    /// A command with this name.
    pub fn new(name: &str) -> Self {
        Self(redis::cmd(name))
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument);
        self
    }

    /// Adds an argument.
    pub fn push(&mut self, argument: impl AsRef<[u8]>) {
        self.0.arg(argument.as_ref());
    }
}

impl Access {
    /// Returns the beginning of every key.
    pub fn prefix(&self) -> &str {
        &self.key
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.config.node
    }

    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Returns the number of replicas that must have a change, and the time to wait for them in
    /// milliseconds. None when the server alone counts.
    pub fn replicas(&self) -> Option<(u32, u64)> {
        let Config { replicas, replica_timeout_ms, .. } = &*self.config;
        (*replicas > 0).then_some((*replicas, *replica_timeout_ms))
    }

    /// True when a replica may take over from the server.
    pub fn may_fail_over(&self) -> bool {
        let Config { replicas, cluster, sentinel_master, .. } = &*self.config;
        *replicas > 0 || *cluster || sentinel_master.is_some()
    }

    /// Runs an idempotent command on the server of the keys; repeats it once after a lost
    /// connection.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn run(&self, command: &Command) -> Result<Reply, AccessError> {
        let value: RedisResult<Value> = self.servers.run(&self.key, &command.0).await;
        value.and_then(reply).map_err(|error| failed(&error))
    }

    /// As [`Access::run`], with a call of a script, which is loaded when the server does not have
    /// it.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn run_script(&self, script: &Script, call: &Command) -> Result<Reply, AccessError> {
        match self.run(call).await {
            Err(error) if error.is_unknown_script => {
                self.servers.load(&self.key, &script.0).await.map_err(|error| failed(&error))?;
                self.run(call).await
            }
            other => other,
        }
    }

    /// Opens a connection whose commands may wait at the server for `time`.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn waiting(&self, time: Duration) -> Result<Waiting, AccessError> {
        let patience = time + self.config.response_timeout();
        self.servers.dedicated(&self.key, patience).await.map(Waiting).map_err(|error| failed(&error))
    }

    /// Returns a sender of changes. It connects when it is used.
    pub fn durable(&self) -> Durable {
        Durable { access: self.clone(), link: None }
    }
}

impl Waiting {
    /// Sends commands together. After an error the connection is of no use.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn run(&mut self, commands: &[Command]) -> Result<Vec<Reply>, AccessError> {
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(command.0.clone());
        }
        let answers: RedisResult<Vec<Value>> = pipeline.query_async(&mut self.0).await;
        let replies = answers.and_then(|answers| answers.into_iter().map(reply).collect());
        replies.map_err(|error| failed(&error))
    }
}

impl Durable {
    /// Sends commands together and returns when they are durable: see `redis.durability` and
    /// `redis.replicas`. `hash` is the key of a hash that may get a field `nudge`.
    ///
    /// # Errors
    /// [`AccessError`]: the commands may or may not have had effect.
    pub async fn send(
        &mut self,
        scripts: &[&Script],
        hash: &str,
        commands: &[Command],
    ) -> Result<Vec<Reply>, AccessError> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect(scripts).await?,
        };
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(command.0.clone());
        }
        let config = &self.access.config;
        let sent = link.send(config, hash, pipeline, commands.len()).await;
        let Sent { answers, is_replicated, settings } = sent.map_err(|error| {
            if is_lost(&error) {
                self.access.servers.forget(None);
            }
            failed(&error)
        })?;
        if let Some(settings) = &settings {
            let judged = settings::judge(&config.urls_for_people(), settings);
            judged.map_err(|error| AccessError::passing(error.to_string()))?;
        }
        self.link = Some(link);
        if !is_replicated {
            let reason = format!(
                "fewer than {} replicas of redis have the data after {} ms (redis.replicas)",
                config.replicas, config.replica_timeout_ms
            );
            return Err(AccessError::passing(reason));
        }
        let replies: RedisResult<Vec<Reply>> = answers.into_iter().map(reply).collect();
        replies.map_err(|error| failed(&error))
    }

    async fn connect(&self, scripts: &[&Script]) -> Result<Link, AccessError> {
        let Access { config, servers, key } = &self.access;
        let limit = link::patience(config);
        let connecting = async {
            let mut link = Link::open(servers, config, key).await?;
            for script in scripts {
                script.0.load_async(&mut link.connection).await?;
            }
            Ok(link)
        };
        let connected = tokio::time::timeout(limit, connecting).await;
        let link: Result<Link, Refusal> = connected.unwrap_or(Err(Refusal::Silent(limit)));
        link.map_err(|refusal| AccessError::passing(refusal.words()))
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("is_connected", &self.link.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

pub(super) fn failed(error: &RedisError) -> AccessError {
    AccessError { reason: explain(error), is_unknown_script: is_no_script(error), is_fault: is_fault(error) }
}

fn reply(value: Value) -> RedisResult<Reply> {
    Ok(match value {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Number(number),
        Value::Array(values) => Reply::List(values.into_iter().map(reply).collect::<RedisResult<_>>()?),
        Value::SimpleString(text) => Reply::Bytes(text.into_bytes()),
        Value::Okay => Reply::Bytes(b"OK".to_vec()),
        other => Reply::Bytes(redis::from_redis_value(other)?),
    })
}
