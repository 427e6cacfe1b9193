//! Command line of the commands about groups of devices.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::cli::Common;

/// `weir groups`
#[derive(Debug, Args)]
pub(crate) struct Groups {
    #[command(subcommand)]
    pub(crate) command: GroupsCommand,
}

/// The groups of devices of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// List the groups
    List(GroupsList),
    /// Make a group
    Add(GroupAdd),
    /// Show a group
    Show(GroupId),
    /// Change the name or the patterns of a group
    Set(GroupSet),
    /// List the members of a group, add some and remove some
    Members(GroupMembers),
    /// Delete a group; refused while keys or roles are bound to it
    Delete(GroupId),
}

/// `weir groups list`
#[derive(Debug, Args)]
pub(crate) struct GroupsList {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir groups show`, `weir groups delete`
#[derive(Debug, Args)]
pub(crate) struct GroupId {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the group
    #[arg(value_name = "GROUP")]
    pub(crate) id: String,
}

/// `weir groups add`
#[derive(Debug, Args)]
pub(crate) struct GroupAdd {
    #[command(flatten)]
    pub(crate) group: GroupId,
    /// Name for people
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Pattern of device ids, as 'pump-*'; may be given several times
    #[arg(long = "pattern", value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Device to add; may be given several times
    #[arg(long = "member", value_name = "DEVICE")]
    pub(crate) members: Vec<String>,
}

/// `weir groups set`
#[derive(Debug, Args)]
pub(crate) struct GroupSet {
    #[command(flatten)]
    pub(crate) group: GroupId,
    /// Name for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Pattern of device ids, in place of those that the group has; may be given several times
    #[arg(long = "pattern", value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Remove all patterns
    #[arg(long, conflicts_with = "patterns")]
    pub(crate) no_patterns: bool,
}

/// `weir groups members`
#[derive(Debug, Args)]
pub(crate) struct GroupMembers {
    #[command(flatten)]
    pub(crate) group: GroupId,
    /// Device to add; may be given several times
    #[arg(long = "add", value_name = "DEVICE")]
    pub(crate) add: Vec<String>,
    /// File of devices to add, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) add_file: Option<PathBuf>,
    /// Device to remove; may be given several times
    #[arg(long = "remove", value_name = "DEVICE")]
    pub(crate) remove: Vec<String>,
}
