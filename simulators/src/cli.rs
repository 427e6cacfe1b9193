//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_simulators::bench::Load;
use weir_simulators::broker::Address;
use weir_simulators::credentials::Kind;
use weir_simulators::oracle::{Place, Targets};
use weir_simulators::replay::{Columns, Replay};
use weir_simulators::scenario::{Version, parse_duration};

/// Simulates devices against any MQTT broker and verifies which readings were stored.
#[derive(Parser)]
#[command(name = "weir-sim", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Play a scenario; with --server, verify the stored readings afterwards.
    Run(Box<RunOptions>),
    /// Verify the stored readings of a run by its ledger. Fails if there are differences.
    Verify(VerifyOptions),
    /// Play a CSV file, or a session recorded with `mosquitto_sub -F '%j'`.
    Replay(ReplayOptions),
    /// Measure throughput and PUBACK latency.
    Bench(Load),
    /// Create a secret, a signing key or a certificate for each device of a scenario, which Weir
    /// accepts, and print them as CSV, for --credentials.
    Credentials(CredentialsOptions),
    /// List the built-in scenarios, or print one as a template.
    Scenarios {
        /// Scenario to print.
        name: Option<String>,
    },
    /// Print the messages of a scenario without sending them: seconds after the start, topic,
    /// payload.
    Readings {
        #[command(flatten)]
        scenario: ScenarioOptions,
        /// Start time, nanoseconds since 1970.
        #[arg(long, default_value_t = 1_767_225_600_000_000_000)]
        start_nanos: i64,
        /// Maximum number of messages of each device.
        #[arg(long, default_value_t = usize::MAX)]
        limit: usize,
    },
}

#[derive(Args)]
pub(crate) struct ScenarioOptions {
    /// A built-in scenario, or a TOML file.
    pub(crate) scenario: String,
    /// Share of the devices, for example 0.1; at least one of each group.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) devices: f64,
    /// Share of the time, for example 0.1; intervals are unchanged.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) time: f64,
    /// Seed in place of the scenario's.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Maximum time for the last acknowledgements.
    #[arg(long, value_parser = parse_duration)]
    pub(crate) drain: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct PlayOptions {
    /// Address of the broker; mqtts://host:port is encrypted. Of several, separated by commas, each
    /// connection is made to a random one.
    #[arg(long, default_value = "127.0.0.1:1883", value_delimiter = ',')]
    pub(crate) broker: Vec<Address>,
    #[command(flatten)]
    pub(crate) authorities: Authorities,
    /// Connections for each source address 127.0.0.x, to exceed the ports of one address.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) per_source: usize,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Hide the progress.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Give up when no device could connect for this long.
    #[arg(long, default_value = "15s", value_parser = parse_duration)]
    pub(crate) patience: Duration,
    /// Credentials of the devices, as `weir-sim credentials` prints them.
    #[arg(long)]
    pub(crate) credentials: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Token {
    /// API key for Weir; to create credentials, of the role admin at least.
    #[arg(long, env = "WEIR_API_KEY", hide_env_values = true)]
    token: Option<String>,
    /// File with the API key.
    #[arg(long, env = "WEIR_API_KEY_FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl Token {
    /// Reads the key.
    pub(crate) fn read(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(self.token.clone()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    }
}

#[derive(Args)]
pub(crate) struct Authorities {
    /// PEM file with the authorities of the servers, for mqtts:// and https://; without it, the
    /// public ones.
    #[arg(long, env = "WEIR_CA")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct CredentialsOptions {
    /// A built-in scenario, or a TOML file; without it, the devices of --bench.
    #[arg(required_unless_present = "bench", conflicts_with = "bench")]
    pub(crate) scenario: Option<String>,
    /// Share of the devices, as for `weir-sim run`.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) devices: f64,
    /// This number of devices of `weir-sim bench`.
    #[arg(long)]
    pub(crate) bench: Option<usize>,
    /// With --bench: number of the first device.
    #[arg(long, default_value_t = 0)]
    pub(crate) first_device: usize,
    /// Kind of the credentials.
    #[arg(long, value_enum, default_value = "secret")]
    pub(crate) kind: Kind,
    /// Folder with ca.pem and ca.key, from which the certificates are; both are made when they are
    /// missing, and the authority is registered in Weir.
    #[arg(long, default_value = "authority")]
    pub(crate) authority: PathBuf,
    #[command(flatten)]
    pub(crate) authorities: Authorities,
    /// Write to this file, which only its owner can read. Nothing is done when it exists.
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// gRPC address of Weir.
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) token: Token,
    /// Tenant of the devices.
    #[arg(long, env = "WEIR_TENANT", default_value = "default")]
    pub(crate) tenant: String,
}

#[derive(Args)]
pub(crate) struct Output {
    /// Print the summary as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a report with charts to this HTML file.
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) scenario: ScenarioOptions,
    #[command(flatten)]
    pub(crate) play: PlayOptions,
    /// Write the counters of each moment to this file, as lines of JSON.
    #[arg(long)]
    pub(crate) samples: Option<PathBuf>,
    /// Time between two samples.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) sample_every: Duration,
    /// Record sent and acknowledged messages in this new file, for `weir-sim verify`.
    #[arg(long)]
    pub(crate) ledger: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) targets: TargetOptions,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct VerifyOptions {
    /// Ledger of the run.
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    #[command(flatten)]
    pub(crate) authorities: Authorities,
    #[command(flatten)]
    pub(crate) targets: TargetOptions,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct TargetOptions {
    /// gRPC address of Weir: `http://127.0.0.1:50051`, `https://weir.example.com:50051`.
    #[arg(long)]
    server: Option<String>,
    #[command(flatten)]
    token: Token,
    /// Connection string of MongoDB, to verify it directly:
    /// mongodb://127.0.0.1:27017/weir?replicaSet=rs0
    #[arg(long, env = "WEIR_MONGODB_URI", hide_env_values = true)]
    mongodb: Option<String>,
    /// Address of InfluxDB, to verify it directly: http://127.0.0.1:8086
    #[arg(long, env = "WEIR_INFLUXDB_URL", requires_all = ["influxdb_token", "influxdb_org", "influxdb_bucket"])]
    influxdb: Option<String>,
    /// InfluxDB token with read access to the bucket.
    #[arg(long, env = "WEIR_INFLUXDB_TOKEN", hide_env_values = true)]
    influxdb_token: Option<String>,
    /// InfluxDB organization.
    #[arg(long, env = "WEIR_INFLUXDB_ORG")]
    influxdb_org: Option<String>,
    /// InfluxDB bucket.
    #[arg(long, env = "WEIR_INFLUXDB_BUCKET")]
    influxdb_bucket: Option<String>,
    /// InfluxDB measurement.
    #[arg(long, env = "WEIR_INFLUXDB_MEASUREMENT", default_value = "telemetry")]
    influxdb_measurement: String,
    /// Devices to read concurrently.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// Repeat the verification of a store with differences for this long: stores receive readings
    /// later.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    within: Duration,
}

impl TargetOptions {
    pub(crate) fn targets(&self, authorities: &Authorities) -> anyhow::Result<Targets> {
        Ok(Targets {
            weir: self.server.clone(),
            token: self.token.read()?,
            ca: authorities.ca.clone(),
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
        })
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
    /// File to play.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) play: PlayOptions,
    #[command(flatten)]
    pub(crate) output: Output,
    /// Speed relative to the recording, or `max`.
    #[arg(long, default_value = "1", value_parser = speed)]
    speed: f64,
    /// QoS: 0, 1 or 2.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// MQTT version.
    #[arg(long, value_enum, default_value = "5")]
    mqtt: MqttVersion,
    /// Maximum number of unacknowledged messages of a connection.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// CSV: column of the time; by default the first of ts, time, timestamp, date.
    #[arg(long)]
    time_column: Option<String>,
    /// CSV: column of the device.
    #[arg(long)]
    device_column: Option<String>,
    /// CSV: device id, if there is no column for it.
    #[arg(long, default_value = "replay")]
    device: String,
    /// CSV: topic to publish to.
    #[arg(long, default_value = "devices/{device}/telemetry")]
    topic: String,
    /// Maximum time for the last acknowledgements.
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
    text.parse().map_err(|_| format!("cannot parse {text:?} as a speed: use a number such as 10, or max"))
}
