//! A server on a port of its own, over stores that the tests control.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use api::{Backend, Config, Metrics};
use buffer::frame::{ReadingHeader, Staged};
use buffer::memory::MemoryLog;
use buffer::{Batcher, Log};
use model::{DeviceKey, Nanos, Schema, Value};
use proto::v1::broker_service_client::BrokerServiceClient;
use proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::export_service_client::ExportServiceClient;
use proto::v1::operations_service_client::OperationsServiceClient;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use stores::testing::MemoryStore;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::brokers::FakeBrokers;
use crate::fakes::{FakeBooks, FakeExports, FakeReplay, FakeStatus, FakeTail, state};

pub(crate) const PARENT: &str = "tenants/-";
/// Maximum duration of a wait in these tests.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) history: Arc<MemoryStore>,
    pub(crate) tail: Arc<FakeTail>,
    pub(crate) latest: Arc<MemoryStore>,
    pub(crate) letters: Arc<MemoryStore>,
    pub(crate) replay: Arc<FakeReplay>,
    pub(crate) books: Arc<FakeBooks>,
    pub(crate) exports: Arc<FakeExports>,
    pub(crate) brokers: Arc<FakeBrokers>,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) server: JoinHandle<Result<(), api::Error>>,
    pub(crate) channel: Channel,
    batcher: Batcher,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(tune: impl FnOnce(&mut Config)) -> Self {
        let (log, batcher) = MemoryLog::open("log1", buffer::batcher::BatchConfig::default()).unwrap();
        let history = Arc::new(MemoryStore::default());
        let tail = Arc::new(FakeTail::new(Arc::clone(&history)));
        let latest = Arc::new(MemoryStore::default());
        let (letters, replay) = (Arc::new(MemoryStore::default()), Arc::new(FakeReplay::default()));
        let brokers = Arc::new(FakeBrokers::default());
        let (books, exports) = (Arc::new(FakeBooks::default()), Arc::new(FakeExports::default()));
        let backend = Backend {
            history: history.clone(),
            tail: tail.clone(),
            latest: latest.clone(),
            dead_letters: letters.clone(),
            logs: Arc::new(vec![log.clone() as Arc<dyn buffer::Log>]),
            books: books.clone(),
            replay: replay.clone(),
            exports: exports.clone(),
            brokers: brokers.clone(),
            status: Arc::new(FakeStatus),
        };
        let mut config = Config::new([9; 32]);
        config.limits.drain_timeout = Duration::from_secs(2);
        tune(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
        let server = tokio::spawn(api::serve((listener, None), backend, config, metrics.clone(), shutdown.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self {
            history,
            tail,
            latest,
            letters,
            replay,
            books,
            exports,
            brokers,
            log,
            metrics,
            shutdown,
            address,
            server,
            channel,
            batcher,
        }
    }

    /// Puts the state of a device; see [`state`].
    pub(crate) fn device(&self, id: &str, seen: Nanos, readings: u64, names: &[&str]) {
        self.latest.put_state(state(id, seen, readings, names));
    }

    /// A channel with a connection of its own.
    pub(crate) async fn another_channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub(crate) fn telemetry(&self) -> TelemetryServiceClient<Channel> {
        TelemetryServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub(crate) fn devices(&self) -> DeviceServiceClient<Channel> {
        DeviceServiceClient::new(self.channel.clone())
    }

    pub(crate) fn dead_letters(&self) -> DeadLetterServiceClient<Channel> {
        DeadLetterServiceClient::new(self.channel.clone())
    }

    pub(crate) fn broker_service(&self) -> BrokerServiceClient<Channel> {
        BrokerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn operations(&self) -> OperationsServiceClient<Channel> {
        OperationsServiceClient::new(self.channel.clone())
    }

    pub(crate) fn export_service(&self) -> ExportServiceClient<Channel> {
        ExportServiceClient::new(self.channel.clone())
    }

    /// Appends one reading to the log and waits until it is durable.
    pub(crate) async fn append(&self, device: &str, name: &str, value: Value) {
        let (device, schema) = (Arc::new(key(device)), Arc::new(Schema::new([name])));
        let time = now();
        let header = ReadingHeader {
            time,
            received: time,
            identity: 0,
            seq: None,
            device_timed: false,
            claimed_time: None,
            trace: None,
            resent: false,
        };
        let mut staged = Staged::default();
        staged.reading(&device, &schema, &header, [Some(value.as_ref())]);
        let mut end = self.log.watch_end();
        let wanted = self.log.end() + 1;
        self.batcher.submit(&mut staged, Waker::noop()).unwrap();
        tokio::time::timeout(BOUND, end.wait_for(|end| *end >= wanted)).await.unwrap().unwrap();
    }

    /// The metrics as text.
    pub(crate) fn metrics_text(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

pub(crate) fn now() -> Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

pub(crate) fn key(device: &str) -> DeviceKey {
    DeviceKey::new("default", device).unwrap()
}

pub(crate) fn device_name(device: &str) -> String {
    api::names::device("default", device)
}

pub(crate) fn own_device(device: &str) -> String {
    api::names::device("-", device)
}

pub(crate) fn timestamp(nanos: Nanos) -> prost_types::Timestamp {
    let within = i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap();
    prost_types::Timestamp { seconds: nanos.div_euclid(1_000_000_000), nanos: within }
}

pub(crate) fn nanos(time: &prost_types::Timestamp) -> Nanos {
    time.seconds * 1_000_000_000 + i64::from(time.nanos)
}

pub(crate) fn range(start: Nanos, end: Nanos) -> proto::v1::TimeRange {
    proto::v1::TimeRange { start_time: Some(timestamp(start)), end_time: Some(timestamp(end)) }
}

pub(crate) fn seconds(n: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: n, nanos: 0 }
}

pub(crate) fn float(value: &proto::v1::Value) -> f64 {
    match value.kind {
        Some(proto::v1::value::Kind::DoubleValue(v)) => v,
        ref other => panic!("no double: {other:?}"),
    }
}

/// Asserts the code of an error and the reason in its details.
#[track_caller]
pub(crate) fn assert_status(status: &Status, code: Code, reason: &str) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, "weir.dev"), "{status:?}");
}
