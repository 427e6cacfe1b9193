//! Command line of the commands that query a running server.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::access_cli::{Audit, Keys, Tenants};
use super::authorities_cli::Authorities;
use super::broker_cli::{Retained, Sessions, Subscriptions};
use super::devices_cli::Devices;
use super::groups_cli::Groups;
use super::issuers_cli::{Issuers, Roles};
use super::output::Format;

/// Commands that query a server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// List, register, change and delete devices; give devices secrets
    Devices(Devices),
    /// List, make and delete API keys
    Keys(Keys),
    /// List, make, change and delete groups of devices, to which keys and roles are bound
    Groups(Groups),
    /// Admit devices with certificates of an authority; revoke certificates
    Authorities(Authorities),
    /// List, add and delete issuers of access tokens (OAuth 2)
    Issuers(Issuers),
    /// Give principals of issuers roles, list and revoke them
    Roles(Roles),
    /// List, make, suspend and resume tenants
    Tenants(Tenants),
    /// List the changes of tenants, keys and secrets, and what was refused
    Audit(Audit),
    /// Show the newest value of each name of devices
    Latest(Latest),
    /// Show the history of devices, or aggregates of it
    Query(Query),
    /// Follow readings as they arrive
    Tail(Tail),
    /// Show and replay messages that could not be decoded or stored
    DeadLetters(DeadLetters),
    /// List the sessions of MQTT clients, show one, disconnect clients
    Sessions(Sessions),
    /// List the subscriptions of MQTT clients, or those that match a topic
    Subscriptions(Subscriptions),
    /// List, show and clear retained messages
    Retained(Retained),
    /// Show the books: accepted, stored, pending and dead-lettered readings; fails when they do not
    /// balance
    Books(Books),
    /// Show the status of the server
    Status(Status),
    /// List the topics of messages that no route matches
    Unrouted(Unrouted),
    /// List the exports with their lag; pause, resume and rewind them
    Exports(Exports),
    /// Write the history of devices to a file
    Export(Export),
}

/// The server, and its authority.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// URL of the server; https:// with TLS
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051", env = "WEIR_SERVER")]
    pub(crate) server: String,
    /// PEM file of the authority of the server's certificate [default: those that browsers trust]
    #[arg(long, value_name = "FILE", env = "WEIR_CA")]
    pub(crate) ca: Option<PathBuf>,
}

/// Options of most commands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Output format
    #[arg(long, value_enum, default_value_t, env = "WEIR_FORMAT")]
    pub(crate) format: Format,
    /// Tenant; `-` is your own
    #[arg(long, default_value = "-", env = "WEIR_TENANT", hide_env = true)]
    pub(crate) tenant: String,
}

/// Options of the commands that concern the whole installation.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerAndFormat {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Output format
    #[arg(long, value_enum, default_value_t, env = "WEIR_FORMAT")]
    pub(crate) format: Format,
}

/// `weir latest`
#[derive(Debug, Args)]
pub(crate) struct Latest {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device ids; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Value names; `*` matches any characters
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
    /// Value names; `*` matches any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Width of a bucket: 30s, 15m, 1h, or calendar time 1d, 1w, 1mo, 1y
    #[arg(long, value_name = "WIDTH", requires = "aggregate")]
    pub(crate) every: Option<String>,
    /// Aggregates: count, mean, time-weighted-mean, min, max, sum, first, last, stddev, increase,
    /// p50, p95, p99.9
    #[arg(long, value_delimiter = ',', value_name = "FUNCTIONS")]
    pub(crate) aggregate: Vec<String>,
    /// Time zone of the buckets
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// Treatment of buckets without values
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "null", default_value = "none", requires = "aggregate")]
    pub(crate) fill: Fill,
    /// Maximum number of rows of each device [default: the newest 1,000, or all with --since]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Newest first
    #[arg(long, conflicts_with = "aggregate")]
    pub(crate) desc: bool,
}

/// Treatment of buckets without values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fill {
    /// Leave them out
    None,
    /// Show them empty
    Null,
    /// Repeat the bucket before
    Previous,
    /// Interpolate linearly between the neighbours
    Linear,
}

/// A range of time.
#[derive(Debug, Clone, Args)]
pub(crate) struct Range {
    /// Start: a duration ago (90s, 15m, 1h, 7d, 2w) or a time (2026-01-31T12:00:00Z, 2026-01-31)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// End, in the same forms; not included
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

/// `weir tail`
#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device ids; `*` matches any characters; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// Value names; `*` matches any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// Start with the readings accepted since this time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Start with the newest value of each name
    #[arg(long, conflicts_with_all = ["since", "resume"])]
    pub(crate) snapshot: bool,
    /// Continue where an earlier tail ended, with the token that it printed
    #[arg(long, value_name = "TOKEN", conflicts_with = "since")]
    pub(crate) resume: Option<String>,
    /// Stop after this many readings
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

/// Commands for dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List dead letters
    List(DeadLettersList),
    /// Show a dead letter with its payload
    Show(DeadLettersShow),
    /// Process dead letters again, after their cause has been fixed
    Replay(DeadLettersReplay),
}

/// `weir dead-letters list`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Filter, such as 'stage = "ingest" AND reason:"depth"'
    #[arg(long, default_value = "")]
    pub(crate) filter: String,
    /// Maximum number of dead letters
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}

/// `weir dead-letters show`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersShow {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the dead letter, from the list
    #[arg(value_name = "LETTER")]
    pub(crate) letter: String,
}

/// `weir dead-letters replay`
#[derive(Debug, Args)]
pub(crate) struct DeadLettersReplay {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Names of the dead letters, from the list
    #[arg(value_name = "LETTER", required_unless_present_any = ["filter", "all"])]
    pub(crate) letters: Vec<String>,
    /// All that match this filter and were not replayed before
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
    /// Also count the readings in the stores, in total and for each of the latest hours
    #[arg(long)]
    pub(crate) check: bool,
    /// Show every checked hour, not only those that differ
    #[arg(long, requires = "check")]
    pub(crate) hours: bool,
}

/// `weir status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir unrouted`
#[derive(Debug, Args)]
pub(crate) struct Unrouted {
    #[command(flatten)]
    pub(crate) common: ServerAndFormat,
}

/// `weir exports`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Exports {
    #[command(subcommand)]
    pub(crate) command: Option<ExportsCommand>,
    #[command(flatten)]
    pub(crate) list: ExportsList,
}

/// Changes of an export.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportsCommand {
    /// List the exports with their lag
    List(ExportsList),
    /// Stop the deliveries of an export; the log keeps its backlog until it is resumed
    Pause(ExportsName),
    /// Continue the deliveries of a paused export
    Resume(ExportsName),
    /// Deliver again what was received since a time, as far as the log still holds it
    Rewind(ExportsRewind),
}

/// `weir exports list`
#[derive(Debug, Args)]
pub(crate) struct ExportsList {
    #[command(flatten)]
    pub(crate) common: ServerAndFormat,
}

/// `weir exports pause`, `weir exports resume`
#[derive(Debug, Args)]
pub(crate) struct ExportsName {
    #[command(flatten)]
    pub(crate) common: ServerAndFormat,
    /// Name of the export in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `weir exports rewind`
#[derive(Debug, Args)]
pub(crate) struct ExportsRewind {
    #[command(flatten)]
    pub(crate) common: ServerAndFormat,
    /// Name of the export in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Receive time of the first reading to deliver again: a duration ago (90s, 15m, 1h, 7d, 2w) or
    /// a time (2026-01-31T12:00:00Z, 2026-01-31)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: String,
}

/// `weir export`
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Tenant; `-` is your own
    #[arg(long, default_value = "-", env = "WEIR_TENANT", hide_env = true)]
    pub(crate) tenant: String,
    /// Device ids; all devices when none is given
    #[arg(value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Value names; `*` matches any characters
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) metrics: Vec<String>,
    /// File to write; its extension, .parquet or .csv, selects the format
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}
