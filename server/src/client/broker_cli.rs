//! Command line of the commands about sessions, subscriptions and retained messages.

use clap::{Args, Subcommand};

use super::cli::Common;

/// `weir sessions`
#[derive(Debug, Args)]
pub(crate) struct Sessions {
    #[command(subcommand)]
    pub(crate) command: SessionsCommand,
}

/// The sessions of MQTT clients.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List the sessions
    List(SessionsList),
    /// Show a session
    Show(SessionsShow),
    /// Close the connection of a client; with --end-session, end its session too
    Kick(SessionsKick),
}

/// `weir sessions list`
#[derive(Debug, Args)]
pub(crate) struct SessionsList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Client ids; `*` matches any characters
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(crate) client: String,
    /// Only those that are connected
    #[arg(long)]
    pub(crate) connected: bool,
    /// Only those whose client is away
    #[arg(long, conflicts_with = "connected")]
    pub(crate) away: bool,
    /// Maximum number of sessions
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
}

/// `weir sessions show`
#[derive(Debug, Args)]
pub(crate) struct SessionsShow {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Client id
    #[arg(value_name = "CLIENT")]
    pub(crate) client: String,
}

/// `weir sessions kick`
#[derive(Debug, Args)]
pub(crate) struct SessionsKick {
    #[command(flatten)]
    pub(crate) session: SessionsShow,
    /// End the session, too: its subscriptions and the messages that wait are gone, also when the
    /// client is away
    #[arg(long)]
    pub(crate) end_session: bool,
}

/// `weir subscriptions`
#[derive(Debug, Args)]
pub(crate) struct Subscriptions {
    #[command(subcommand)]
    pub(crate) command: SubscriptionsCommand,
}

/// The subscriptions of MQTT clients.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionsCommand {
    /// List the subscriptions
    List(SubscriptionsList),
    /// List the subscriptions that a message to a topic goes to
    Match(SubscriptionsMatch),
}

/// `weir subscriptions list`
#[derive(Debug, Args)]
pub(crate) struct SubscriptionsList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Client ids; `*` matches any characters
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(crate) client: String,
    /// Topic filters as they were sent; `*` matches any characters
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(crate) filter: String,
    /// Maximum number of subscriptions
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
}

/// `weir subscriptions match`
#[derive(Debug, Args)]
pub(crate) struct SubscriptionsMatch {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Topic
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// Maximum number of subscriptions
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
}

/// `weir retained`
#[derive(Debug, Args)]
pub(crate) struct Retained {
    #[command(subcommand)]
    pub(crate) command: RetainedCommand,
}

/// The retained messages of topics.
#[derive(Debug, Subcommand)]
pub(crate) enum RetainedCommand {
    /// List the retained messages
    List(RetainedList),
    /// Show a retained message with its payload
    Show(RetainedShow),
    /// Clear retained messages, as a PUBLISH with an empty payload does
    Clear(RetainedClear),
}

/// `weir retained list`
#[derive(Debug, Args)]
pub(crate) struct RetainedList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Topic filter; topics that begin with `$` need one that does
    #[arg(value_name = "FILTER", default_value = "#")]
    pub(crate) filter: String,
    /// Maximum number of messages
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
}

/// `weir retained show`
#[derive(Debug, Args)]
pub(crate) struct RetainedShow {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Topic
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
}

/// `weir retained clear`
#[derive(Debug, Args)]
pub(crate) struct RetainedClear {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Topic, or a topic filter
    #[arg(value_name = "FILTER")]
    pub(crate) filter: String,
    /// Really clear all that match a filter with wildcards
    #[arg(long)]
    pub(crate) yes: bool,
}
