//! The commands that ask a running server.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::output::Format;

/// Commands that ask a server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// List the devices that have sent readings
    Devices(Devices),
    /// Show the newest value of each name of devices
    Latest(Latest),
    /// Show the history of devices, or aggregates of it
    Query(Query),
    /// Follow what comes in
    Tail(Tail),
    /// Show and replay what could not be read or stored
    DeadLetters(DeadLetters),
    /// Show what became of every message that was acknowledged; fails when that does not add up
    Books(Books),
    /// Show how the server is
    Status(Status),
    /// Write the history of devices to a file
    Export(Export),
}

/// Whom to ask and how to print.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051", env = "WEIR_SERVER")]
    pub(crate) server: String,
    /// How to print
    #[arg(long, value_enum, default_value_t, env = "WEIR_FORMAT")]
    pub(crate) format: Format,
    /// Tenant; `-` is your own
    #[arg(long, default_value = "-", env = "WEIR_TENANT", hide_env = true)]
    pub(crate) tenant: String,
}

/// `weir devices`
#[derive(Debug, Args)]
pub(crate) struct Devices {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Which ones, as 'device_id = "hall/*" AND last_seen_time < "2026-01-31T12:00:00Z"'
    #[arg(long, default_value = "")]
    pub(crate) filter: String,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// `weir latest`
#[derive(Debug, Args)]
pub(crate) struct Latest {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device ids; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Value names; `*` stands for any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
}

/// `weir query`
#[derive(Debug, Args)]
pub(crate) struct Query {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device ids
    #[arg(value_name = "DEVICE", required = true)]
    pub(crate) devices: Vec<String>,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Value names; `*` stands for any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Width of a bucket: 30s, 15m, 1h, or calendar time 1d, 1w, 1mo, 1y
    #[arg(long, value_name = "WIDTH", requires = "aggregate")]
    pub(crate) every: Option<String>,
    /// Aggregates: count, mean, time-weighted-mean, min, max, sum, first, last, stddev, increase, p50, p95, p99.9
    #[arg(long, value_delimiter = ',', value_name = "FUNCTIONS")]
    pub(crate) aggregate: Vec<String>,
    /// Time zone of the buckets
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// What to do with buckets without values
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "null", default_value = "none", requires = "aggregate")]
    pub(crate) fill: Fill,
    /// At most this many rows of each device; without --since and --limit the newest 1,000
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Newest first
    #[arg(long, conflicts_with = "aggregate")]
    pub(crate) desc: bool,
}

/// What to do with buckets without values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fill {
    /// Leave them out
    None,
    /// Show them empty
    Null,
    /// Repeat the bucket before
    Previous,
    /// Straight line between the neighbours
    Linear,
}

/// From when to when.
#[derive(Debug, Clone, Args)]
pub(crate) struct Range {
    /// From then on: 90s, 15m, 1h, 7d, 2w ago, or a time as 2026-01-31T12:00:00Z or 2026-01-31
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Until then, in the same forms
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// `weir tail`
#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device ids; `*` stands for any characters; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Value names; `*` stands for any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Start with what was taken in since then
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Start with the newest value of each name
    #[arg(long, conflicts_with_all = ["since", "resume"])]
    pub(crate) snapshot: bool,
    /// Go on where an earlier tail ended; it printed the token
    #[arg(long, value_name = "TOKEN", conflicts_with = "since")]
    pub(crate) resume: Option<String>,
    /// End after this many readings
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// `weir dead-letters`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) command: Option<DeadLettersCommand>,
    #[command(flatten)]
    pub(crate) list: DeadLettersList,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them
    List(DeadLettersList),
    /// Show one with its payload
    Show(DeadLettersShow),
    /// Take letters in again after what was wrong has been repaired
    Replay(DeadLettersReplay),
}

/// `weir dead-letters list`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Which ones, as 'stage = "ingest" AND reason:"depth"'
    #[arg(long, default_value = "")]
    pub(crate) filter: String,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}

/// `weir dead-letters show`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersShow {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Its name in the list
    #[arg(value_name = "LETTER")]
    pub(crate) letter: String,
}

/// `weir dead-letters replay`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersReplay {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Their names in the list
    #[arg(value_name = "LETTER", required_unless_present_any = ["filter", "all"])]
    pub(crate) letters: Vec<String>,
    /// Those that this filter takes and that were not replayed before
    #[arg(long, conflicts_with_all = ["letters", "all"])]
    pub(crate) filter: Option<String>,
    /// All that were not replayed before
    #[arg(long, conflicts_with = "letters")]
    pub(crate) all: bool,
}

/// `weir books`
#[derive(Debug, Args)]
pub(crate) struct Books {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Also ask the stores what they really hold, in all and of each of the latest hours
    #[arg(long)]
    pub(crate) check: bool,
    /// Show every hour that was looked at, not only those that differ
    #[arg(long, requires = "check")]
    pub(crate) hours: bool,
}

/// `weir status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051", env = "WEIR_SERVER")]
    pub(crate) server: String,
    /// Tenant; `-` is your own
    #[arg(long, default_value = "-", env = "WEIR_TENANT", hide_env = true)]
    pub(crate) tenant: String,
    /// Device ids; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Value names; `*` stands for any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// File to write; its ending, .parquet or .csv, says the format
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}
