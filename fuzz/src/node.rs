//! A broker that is killed and starts again from its records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::DuplexStream;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use weir_broker::{Broker, Config, RetainedMessage};

use crate::log::{Log, LogInbox};

/// Name of the node in its records.
pub const NODE: &str = "n";
/// Turns after which all tasks have done what they can without waiting for time.
const TURNS: usize = 12;
/// Time for connections to end once their clients have.
const PATIENCE: Duration = Duration::from_secs(5);

/// A broker with a runtime of its own, of this thread.
pub struct Node {
    runtime: Runtime,
    broker: Arc<Broker<LogInbox>>,
    log: Arc<Log>,
}

impl Default for Node {
    fn default() -> Self {
        Self::on(Log::default())
    }
}

impl Node {
    /// A broker that finds these records at its start.
    pub fn restored(records: Vec<RetainedMessage>) -> Self {
        Self::with(Log::default(), records)
    }

    fn on(log: Log) -> Self {
        let records = log.retained();
        Self::with(log, records)
    }

    fn with(log: Log, records: Vec<RetainedMessage>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let config = Config {
            max_packet_bytes: 64 << 10,
            max_sessions: 8,
            max_subscriptions: 32,
            max_queued_messages: 32,
            max_retained_messages: 32,
            sys_interval_secs: 0,
            memory_bytes: 32 << 20,
            node: NODE.into(),
            ..Config::default()
        };
        let log = Arc::new(log);
        let broker = {
            let _entered = runtime.enter();
            let broker = Broker::new(config, LogInbox(Arc::clone(&log)), Arc::default(), Some(records));
            runtime.spawn(Arc::clone(&broker).run(Vec::new(), CancellationToken::new()));
            broker
        };
        Self { runtime, broker, log }
    }

    /// Ends the broker where it is, and starts one from what it has stored.
    pub fn kill(self) -> Self {
        let Self { runtime, broker, log } = self;
        drop((runtime, broker));
        Self::on(log.after_crash())
    }

    /// Opens a connection.
    pub fn connect(&self) -> DuplexStream {
        let _entered = self.runtime.enter();
        self.broker.attach_stranger()
    }

    /// Runs `step` among the tasks of the broker.
    pub fn run<T>(&self, step: impl Future<Output = T>) -> T {
        self.runtime.block_on(step)
    }

    /// Lets all tasks do what they can.
    pub async fn rest() {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until all connections have ended, whose clients have.
    pub fn ended(&self) {
        let begun = Instant::now();
        self.runtime.block_on(async {
            while self.broker.connections() > 0 {
                Self::rest().await;
                if begun.elapsed() > Duration::from_millis(50) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert!(begun.elapsed() < PATIENCE, "{} connections have not ended", self.broker.connections());
            }
        });
    }
}
