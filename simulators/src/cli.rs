//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_simulators::bench::Load;
use weir_simulators::oracle::{Place, Targets};
use weir_simulators::replay::{Columns, Replay};
use weir_simulators::scenario::{Version, parse_duration};

/// Plays devices against any MQTT broker, and says what landed.
#[derive(Parser)]
#[command(name = "weir-sim", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Plays a scenario; with --server checks afterwards what landed.
    Run(RunOptions),
    /// Checks what landed of a run, by its ledger. Fails when anything is wrong.
    Verify(VerifyOptions),
    /// Plays a CSV file, or a session recorded with `mosquitto_sub -F '%j'`.
    Replay(ReplayOptions),
    /// Measures throughput and PUBACK latency.
    Bench(Load),
    /// Lists the shipped scenarios, or prints one, to begin one's own with.
    Scenarios {
        /// Which.
        name: Option<String>,
    },
    /// Prints what the devices of a scenario send, without sending it: seconds after the start, topic, payload.
    Readings {
        #[command(flatten)]
        scenario: ScenarioOptions,
        /// Time of the start, nanoseconds since 1970.
        #[arg(long, default_value_t = 1_767_225_600_000_000_000)]
        start_nanos: i64,
        /// Messages of each device at most.
        #[arg(long, default_value_t = usize::MAX)]
        limit: usize,
    },
}

#[derive(Args)]
pub(crate) struct ScenarioOptions {
    /// A shipped scenario, or a TOML file.
    pub(crate) scenario: String,
    /// Part of the devices: 0.1 is a tenth. At least one of each group.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) devices: f64,
    /// Part of the time: 0.1 is a tenth. Intervals stay as they are.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) time: f64,
    /// Another seed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How long the last acknowledgements may take.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) drain: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct PlayOptions {
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub(crate) broker: SocketAddr,
    /// Connections from one source address 127.0.0.x, so that more fit than one address has ports.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) per_source: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Shows no progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args)]
pub(crate) struct Output {
    /// The summary as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes a report with charts, one HTML page.
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) scenario: ScenarioOptions,
    #[command(flatten)]
    pub(crate) play: PlayOptions,
    /// Keeps what was sent and acknowledged in this new file, for `weir-sim verify`.
    #[arg(long)]
    pub(crate) ledger: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) targets: TargetOptions,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct VerifyOptions {
    /// What was sent and acknowledged.
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    #[command(flatten)]
    pub(crate) targets: TargetOptions,
    /// One line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct TargetOptions {
    /// Weir's gRPC address, as http://127.0.0.1:50051.
    #[arg(long)]
    server: Option<String>,
    /// Token for it.
    #[arg(long, env = "WEIR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// MongoDB's connection string, to look there without Weir: mongodb://127.0.0.1:27017/weir?replicaSet=rs0
    #[arg(long, env = "WEIR_MONGODB_URI", hide_env_values = true)]
    mongodb: Option<String>,
    /// InfluxDB's address, to look there without Weir: http://127.0.0.1:8086
    #[arg(long, env = "WEIR_INFLUXDB_URL", requires_all = ["influxdb_token", "influxdb_org", "influxdb_bucket"])]
    influxdb: Option<String>,
    /// A token that may read the bucket.
    #[arg(long, env = "WEIR_INFLUXDB_TOKEN", hide_env_values = true)]
    influxdb_token: Option<String>,
    /// Its organization.
    #[arg(long, env = "WEIR_INFLUXDB_ORG")]
    influxdb_org: Option<String>,
    /// Its bucket.
    #[arg(long, env = "WEIR_INFLUXDB_BUCKET")]
    influxdb_bucket: Option<String>,
    /// Its measurement.
    #[arg(long, env = "WEIR_INFLUXDB_MEASUREMENT", default_value = "telemetry")]
    influxdb_measurement: String,
    /// Devices read at one time.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// A store that is not clean is looked at again for this long: databases get readings later.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    within: Duration,
}

impl TargetOptions {
    pub(crate) fn targets(&self) -> Targets {
        Targets {
            weir: self.server.clone(),
            token: self.token.clone(),
            mongodb: self.mongodb.clone(),
            influxdb: self.influxdb.as_ref().map(|url| Place {
                url: url.clone(),
                token: self.influxdb_token.clone().unwrap_or_default(),
                org: self.influxdb_org.clone().unwrap_or_default(),
                bucket: self.influxdb_bucket.clone().unwrap_or_default(),
                measurement: self.influxdb_measurement.clone(),
            }),
            parallel: self.parallel,
            within: self.within,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum MqttVersion {
    #[value(name = "3.1.1")]
    V3,
    #[value(name = "5")]
    V5,
}

#[derive(Args)]
pub(crate) struct ReplayOptions {
    /// The file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) play: PlayOptions,
    #[command(flatten)]
    pub(crate) output: Output,
    /// How many times faster than it was recorded, or `max`.
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: f64,
    /// Quality of service: 0, 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// MQTT version.
    #[arg(long, value_enum, default_value = "5")]
    mqtt: MqttVersion,
    /// Unacknowledged messages of one connection at most.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// CSV: column with the time. Without it the first of ts, time, timestamp, date.
    #[arg(long)]
    time_column: Option<String>,
    /// CSV: column with the device.
    #[arg(long)]
    device_column: Option<String>,
    /// CSV: the device, without a column for it.
    #[arg(long, default_value = "replay")]
    device: String,
    /// CSV: where readings are published.
    #[arg(long, default_value = "devices/{device}/telemetry")]
    topic: String,
    /// How long the last acknowledgements may take.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    drain: Duration,
}

impl ReplayOptions {
    pub(crate) fn replay(&self) -> Replay {
        Replay {
            speed: self.speed,
            qos: self.qos,
            mqtt: match self.mqtt {
                MqttVersion::V3 => Version::V3,
                MqttVersion::V5 => Version::V5,
            },
            in_flight: self.in_flight,
            columns: Columns {
                time: self.time_column.clone(),
                device: self.device_column.clone(),
                device_id: self.device.clone(),
                topic: self.topic.clone(),
            },
            drain: self.drain,
        }
    }
}

fn speed(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(f64::INFINITY);
    }
    text.parse().map_err(|_| format!("{text:?} is no speed: give a number, as 10, or max"))
}
