//! A bridge from its start to its stop: connect both sides, pass packets on, wait, connect again.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use model::Backoff;
use mqtt_client::Version;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::end::End;
use crate::metrics::{BridgeMetrics, Metrics};
use crate::pulse::Pulse;
use crate::relay::{Relay, Stage};
use crate::release::Release;
use crate::rules::Rules;
use crate::side::{Side, version};
use crate::{local, pass, remote};

/// First wait between two attempts to connect.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Life of a connection after which waits begin anew.
const STEADY: Duration = Duration::from_secs(10);
/// Time for the last packets to the other broker.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens a connection to the broker of this process, as a client with an identity that is known.
/// The error says why there is none now.
pub type Attach = Box<dyn Fn() -> BoxFuture<'static, Result<DuplexStream, String>> + Send + Sync>;

/// Limits of the broker of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet, in bytes.
    pub max_packet_bytes: u32,
    /// Messages of QoS 1 and 2 that it accepts in flight from one client.
    pub receive_maximum: u16,
}

/// Reports why the two brokers are not connected, `None` when they are.
type Report = Box<dyn Fn(Option<String>) + Send + Sync>;

/// A bridge to another broker.
pub struct Bridge {
    config: Config,
    client_id: String,
    rules: Rules,
    tls: Option<tls::Client>,
    limits: Limits,
    attach: Attach,
    report: Report,
    metrics: BridgeMetrics,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Knowledge that outlasts a connection.
#[derive(Debug, Default)]
struct Memory {
    /// Both sides have been connected before.
    has_connected: bool,
    /// The other broker does not know the bit of bridges.
    is_plain: bool,
    /// The session at the other broker has its subscriptions.
    has_subscribed: bool,
    /// Packet ids are to be released here, or there.
    owes_release: (bool, bool),
    /// The last failure.
    failure: String,
}

impl Bridge {
    /// Returns a bridge of a configuration that was checked. `client_id` is its client id at the
    /// broker of this process, `report` gets the reason each time that it is not connected, and
    /// `None` when it is.
    ///
    /// # Errors
    /// Names the key of a file that cannot be used.
    pub fn new(
        config: Config,
        client_id: String,
        limits: Limits,
        attach: Attach,
        report: impl Fn(Option<String>) + Send + Sync + 'static,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        config.check()?;
        let is_encrypted = config.place().is_some_and(|place| place.is_encrypted);
        let tls = is_encrypted.then(|| tls::Client::open(config.files(), &[])).transpose();
        Ok(Self {
            client_id,
            rules: Rules::new(&config.topic),
            tls: tls.map_err(|error| error.to_string())?,
            limits,
            attach,
            report: Box::new(report),
            metrics: metrics.of(&config.name),
            config,
        })
    }

    /// Bridges until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let bridge = self.config.name.as_str();
        let longest = Duration::from_secs(self.config.max_wait_secs);
        let mut backoff = Backoff::new(FIRST_WAIT.min(longest), longest);
        let mut memory = Memory::default();
        (self.report)(Some("not connected yet".into()));
        loop {
            let begun = Instant::now();
            let end = self.once(&mut memory, &stop).await;
            self.metrics.connected.set(0);
            if stop.is_cancelled() {
                tracing::debug!(bridge, "stopped");
                return;
            }
            self.metrics.failures.inc();
            if begun.elapsed() >= STEADY {
                backoff = Backoff::new(FIRST_WAIT.min(longest), longest);
            }
            let wait = backoff.draw();
            let failure = end.to_string();
            if memory.failure == failure {
                tracing::debug!(bridge, "{failure}; trying again in {wait:?}");
            } else {
                tracing::warn!(bridge, "{failure}; trying again, at intervals of up to {longest:?}");
            }
            (self.report)(Some(failure.clone()));
            memory.failure = failure;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Connects both sides and passes packets on until one of them ends.
    async fn once(&self, memory: &mut Memory, stop: &CancellationToken) -> End {
        let opened = tokio::select! {
            opened = self.open(memory) => opened,
            () = stop.cancelled() => return End::Stopped,
        };
        let (mut here, mut there) = match opened {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        self.metrics.connects.inc();
        let mut relay = self.relay(memory, &here, &there);
        memory.has_connected = true;
        let failure = &mut memory.failure;
        let mut announce = |concern: Option<String>| {
            if concern.is_none() {
                failure.clear();
                self.metrics.connected.set(1);
                tracing::info!(bridge = self.config.name, address = self.config.address, "connected");
            }
            (self.report)(concern);
        };
        let pulse = Pulse::new(self.keep_alive(&there), Duration::from_millis(self.config.connect_timeout_ms));
        let end = tokio::select! {
            end = pass::run(&mut relay, &mut here, &mut there, pulse, &mut announce) => end,
            () = stop.cancelled() => End::Stopped,
        };
        memory.has_subscribed = relay.stages.1 == Stage::Done;
        memory.owes_release = (relay.release_here.is_some(), relay.release_there.is_some());
        let version = relay.version;
        tokio::join!(local::leave(here), leave_there(there, version));
        end
    }

    /// Connects the other broker and then this one, which sends no more at once than that one
    /// accepts.
    async fn open(&self, memory: &mut Memory) -> Result<(Side, Side), End> {
        if let Some(Err(error)) = self.tls.as_ref().map(tls::Client::reload) {
            tracing::warn!(bridge = self.config.name, "{error}; the files that were read before stay in use");
        }
        let opened = remote::connect(&self.config, self.tls.as_ref(), self.limits, !memory.is_plain).await;
        let there = opened.inspect_err(|end| {
            let is_v4 = version(self.config.version) == Version::V4;
            memory.is_plain |= is_v4 && end.may_be_for_bridges();
        })?;
        let window = self.config.max_in_flight.min(there.accepted.receive_maximum);
        match local::connect(&self.config, &self.attach, &self.client_id, window).await {
            Ok(here) => Ok((here, there)),
            Err(end) => {
                leave_there(there, version(self.config.version)).await;
                Err(end)
            }
        }
    }

    /// Counts sessions that were lost, and prepares for what that leaves.
    fn relay<'a>(&'a self, memory: &Memory, here: &Side, there: &Side) -> Relay<'a> {
        let bridge = self.config.name.as_str();
        let (is_here, is_there) = (here.accepted.is_present, there.accepted.is_present);
        if !is_here && (is_there || memory.has_connected) {
            self.metrics.lost_here.inc();
            tracing::warn!(bridge, "the session at this broker was lost: messages that waited in it are not passed on");
        }
        if !is_there && (is_here || memory.has_connected) {
            self.metrics.lost_there.inc();
            tracing::warn!(
                bridge,
                "the session at the other broker was lost: messages that were half way may arrive twice, and what \
                 waited there for this broker is lost"
            );
        }
        let (owes_here, owes_there) = memory.owes_release;
        let release_here = is_here && (!is_there || owes_here) && self.rules.back.has_qos2();
        let release_there = is_there && (!is_here || owes_there) && self.rules.out.has_qos2();
        Relay {
            name: bridge,
            rules: &self.rules,
            metrics: &self.metrics,
            limits: self.limits,
            version: version(self.config.version),
            accepted: there.accepted,
            stages: (Stage::Waits, Stage::Waits),
            has_subscribed_there: version(self.config.version) == Version::V4 && is_there && memory.has_subscribed,
            release_here: release_here.then(Release::new),
            release_there: release_there.then(Release::new),
            lowered: Default::default(),
            logged: Default::default(),
            concern: None,
            topic: String::new(),
        }
    }

    fn keep_alive(&self, there: &Side) -> Duration {
        let own = Duration::from_secs(self.config.keep_alive_secs.into());
        there.accepted.keep_alive.map_or(own, |asked| asked.min(own))
    }
}

/// Sends what is left and DISCONNECT.
async fn leave_there(mut side: Side, version: Version) {
    mqtt_client::disconnect(&mut side.outbound.bytes, version, 0, &[]);
    let send = async {
        while !side.outbound.is_done() {
            side.outbound.write(&mut side.writer).await?;
        }
        side.writer.shutdown().await
    };
    // The connection may be broken already.
    match tokio::time::timeout(FAREWELL, send).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("leave the other broker: {error}"),
        Err(_) => tracing::debug!("the other broker took no DISCONNECT within {FAREWELL:?}"),
    }
}
