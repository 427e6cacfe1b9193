//! Command line of the commands about devices.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::access_cli::{DeviceAdd, DeviceName, DeviceRevoke};
use super::cli::Common;

/// `weir devices`
#[derive(Debug, Args)]
pub(crate) struct Devices {
    #[command(subcommand)]
    pub(crate) command: Option<DevicesCommand>,
    #[command(flatten)]
    pub(crate) list: DevicesList,
}

/// The devices, and their secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List the devices that are registered or have sent readings
    List(DevicesList),
    /// Show a device
    Show(DeviceName),
    /// Register a device, or change what is known of one: its name, labels, type
    Set(DeviceSet),
    /// Register the devices of a file, and change those that are registered
    Import(DevicesImport),
    /// Adopt devices in quarantine: the readings that were held of them appear
    Adopt(DevicesAdopt),
    /// Delete a device: lists leave it out; its readings and secrets stay
    Delete(DeviceName),
    /// Restore a device that was deleted
    Undelete(DeviceName),
    /// Give a device a secret, or register its key, certificate or password, and print what to type
    /// into the device
    Add(DeviceAdd),
    /// List the secrets, keys and passwords of a device, without the secrets themselves
    Secrets(DeviceName),
    /// Delete a secret, a key or a password of a device, and end the sessions that it opened
    Revoke(DeviceRevoke),
}

/// `weir devices list`
#[derive(Debug, Args)]
pub(crate) struct DevicesList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Filter, such as 'pump hall', 'labels.site = "b1"' or 'last_seen_time <
    /// "2026-01-31T12:00:00Z"'
    #[arg(long, default_value = "")]
    pub(crate) filter: String,
    /// Maximum number of devices
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// List devices that were deleted, too
    #[arg(long)]
    pub(crate) deleted: bool,
}

/// `weir devices adopt`
#[derive(Debug, Args)]
pub(crate) struct DevicesAdopt {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Ids of devices
    #[arg(value_name = "DEVICE", required_unless_present = "all")]
    pub(crate) devices: Vec<String>,
    /// Adopt all devices in quarantine, or those that the filter selects
    #[arg(long, conflicts_with = "devices")]
    pub(crate) all: bool,
    /// Filter for --all, such as 'device_id = "hall/*"'
    #[arg(long, default_value = "", requires = "all")]
    pub(crate) filter: String,
}

/// `weir devices import`
#[derive(Debug, Args)]
pub(crate) struct DevicesImport {
    #[command(flatten)]
    pub(crate) common: Common,
    /// File, `-` for standard input: CSV with a header (device, name, type, interval and columns
    /// like label.site), or JSON, an object on each line
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Form of the file [default: by its ending, .csv, .ndjson or .jsonl]
    #[arg(long, value_enum)]
    pub(crate) input: Option<ImportForm>,
}

/// The form of a file of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportForm {
    /// Comma-separated values, with a header
    Csv,
    /// A JSON object on each line
    Ndjson,
}

/// `weir devices set`
#[derive(Debug, Args)]
pub(crate) struct DeviceSet {
    #[command(flatten)]
    pub(crate) device: DeviceName,
    /// Name for people; '' removes it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Label to set, or to remove with KEY=; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Id of the type; '' removes it
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) device_type: Option<String>,
    /// Longest time between two readings, as 30s or 10m; '' removes it
    #[arg(long, value_name = "DURATION")]
    pub(crate) interval: Option<String>,
}
