//! Command line of the commands about who may do what.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::cli::Common;

/// `weir devices secrets`
#[derive(Debug, Args)]
pub(crate) struct DeviceName {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Device id
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
}

/// `weir devices add`
#[derive(Debug, Args)]
pub(crate) struct DeviceAdd {
    #[command(flatten)]
    pub(crate) name: DeviceName,
    /// Validity of the credential, as 90d [default: without end]
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires: Option<String>,
    /// Public key (PEM) of a device that signs its passwords itself, in place of a secret
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Certificate (PEM) that the device presents at the TLS handshake, in place of a secret
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    /// Certification request (PEM) by the key of the certificate, which the command without it asks
    /// for
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) proof: Option<PathBuf>,
    /// Password that you choose and type twice, for a device that cannot take a secret
    #[arg(long, conflicts_with_all = ["key", "certificate"])]
    pub(crate) password: bool,
    /// The same, from standard input in place of the terminal
    #[arg(long, conflicts_with_all = ["key", "certificate"])]
    pub(crate) password_stdin: bool,
}

/// `weir devices revoke`
#[derive(Debug, Args)]
pub(crate) struct DeviceRevoke {
    #[command(flatten)]
    pub(crate) name: DeviceName,
    /// Id of the secret or key, from `weir devices secrets`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `weir keys`
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// The API keys of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys, without their secrets
    List(KeysList),
    /// Make a key, and print it once
    Add(KeyAdd),
    /// Delete a key, and end its streams
    Delete(KeyId),
}

/// `weir keys list`
#[derive(Debug, Args)]
pub(crate) struct KeysList {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir keys add`
#[derive(Debug, Args)]
pub(crate) struct KeyAdd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Purpose of the key, shown in lists
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Role of its callers
    #[arg(long, value_enum, default_value_t = RoleName::Viewer)]
    pub(crate) role: RoleName,
    /// Permissions that the key is limited to, as telemetry.read [default: all of the role]
    #[arg(long, value_delimiter = ',', value_name = "PERMISSIONS")]
    pub(crate) scopes: Vec<String>,
    /// Networks that the key is valid from, as 10.0.0.0/8 [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
    pub(crate) networks: Vec<String>,
    /// Group whose devices the key is limited to; may be given several times [default: the tenant]
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// Validity, as 90d [default: a year]
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires: Option<String>,
}

/// `weir keys delete`
#[derive(Debug, Args)]
pub(crate) struct KeyId {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the key, from `weir keys list`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Role of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Reads
    Viewer,
    /// Also replays dead letters
    Operator,
    /// Also gives devices secrets
    Admin,
    /// Also makes keys and reads the audit
    TenantAdmin,
    /// Everything, in every tenant
    Installation,
}

/// `weir tenants`
#[derive(Debug, Args)]
pub(crate) struct Tenants {
    #[command(subcommand)]
    pub(crate) command: TenantsCommand,
}

/// The tenants of the installation.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// List the tenants
    List(TenantsList),
    /// Make a tenant
    Add(TenantAdd),
    /// Change the name, the limits or the features of a tenant, or which devices it admits
    Set(TenantSet),
    /// Show the limits of a tenant, and its use of the process that answers
    Usage(TenantUsageOf),
    /// End the sessions of a tenant, and refuse its devices and keys
    Suspend(TenantId),
    /// Admit the devices and keys of a suspended tenant again
    Resume(TenantId),
    /// Delete a tenant: refuse it now, and remove its data in 30 days
    Delete(TenantDelete),
    /// Restore a tenant whose data is not being removed yet
    Undelete(TenantId),
    /// Show how far the deletion of a tenant is, and its report
    Deletion(TenantId),
}

/// `weir tenants list`
#[derive(Debug, Args)]
pub(crate) struct TenantsList {
    #[command(flatten)]
    pub(crate) common: super::cli::ServerAndFormat,
    /// Also those that are deleted
    #[arg(long)]
    pub(crate) deleted: bool,
}

/// `weir tenants delete`
#[derive(Debug, Args)]
pub(crate) struct TenantDelete {
    #[command(flatten)]
    pub(crate) tenant: TenantId,
    /// Reason, for the audit and the report
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Remove the data now: it cannot be restored
    #[arg(long, conflicts_with = "after")]
    pub(crate) now: bool,
    /// Time until the data is removed, as 7d [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub(crate) after: Option<String>,
}

/// `weir tenants add`
#[derive(Debug, Args)]
pub(crate) struct TenantAdd {
    #[command(flatten)]
    pub(crate) tenant: TenantId,
    /// Name for people
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Pool that holds its data, as `[[pool]]` names it; the shared one by default
    #[arg(long, default_value = "")]
    pub(crate) pool: String,
}

/// `weir tenants set`
#[derive(Debug, Args)]
pub(crate) struct TenantSet {
    #[command(flatten)]
    pub(crate) tenant: TenantId,
    /// Name for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A limit, as messages_per_second=1000; `none` lifts it
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    pub(crate) limits: Vec<String>,
    /// A feature, as x-beta=on or x-beta=off; `none` removes it
    #[arg(long = "feature", value_name = "NAME=on|off|none")]
    pub(crate) features: Vec<String>,
    /// Devices that it admits: all, those that are registered, or all while it holds the readings
    /// of those that are not
    #[arg(long, value_name = "auto|refuse|quarantine")]
    pub(crate) device_admission: Option<Admission>,
}

/// Devices that a tenant admits.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Admission {
    /// Also those that are not registered
    Auto,
    /// Registered ones only: others are refused
    Refuse,
    /// All: readings of those that are not registered are held until they are
    Quarantine,
}

/// `weir tenants usage`
#[derive(Debug, Args)]
pub(crate) struct TenantUsageOf {
    #[command(flatten)]
    pub(crate) common: super::cli::ServerAndFormat,
    /// Id of the tenant [default: the caller's own]
    #[arg(value_name = "TENANT", default_value = "-")]
    pub(crate) id: String,
}

/// `weir tenants suspend`, `weir tenants resume`, `weir tenants undelete`, `weir tenants deletion`
#[derive(Debug, Args)]
pub(crate) struct TenantId {
    #[command(flatten)]
    pub(crate) common: super::cli::ServerAndFormat,
    /// Id of the tenant
    #[arg(value_name = "TENANT")]
    pub(crate) id: String,
}

/// `weir audit`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: Option<AuditCommand>,
    #[command(flatten)]
    pub(crate) list: AuditList,
}

/// The audit of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List the events, the newest first
    List(AuditList),
    /// Check that no event was changed or removed; fails when one was
    Verify(AuditVerify),
    /// Print the public keys of checkpoints; run it where Weir runs
    Key(AuditKey),
}

/// `weir audit verify`
#[derive(Debug, Args)]
pub(crate) struct AuditVerify {
    #[command(flatten)]
    pub(crate) common: Common,
    /// An event that an earlier check printed: the chain must contain it
    #[arg(long, value_name = "SEQUENCE:HASH")]
    pub(crate) known: Option<String>,
    /// Files of signed checkpoints, the oldest first: the chains must contain each of them
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "known")]
    pub(crate) checkpoints: Vec<PathBuf>,
    /// File of the public keys of the checkpoints [default: the one beside the key of the
    /// configuration]
    #[arg(long, value_name = "FILE", requires = "checkpoints")]
    pub(crate) public_key: Option<PathBuf>,
    /// Configuration file that names the key; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds the key [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `weir audit key`
#[derive(Debug, Args)]
pub(crate) struct AuditKey {
    /// Put a new key in place of the current one, also while Weir runs; checkpoints of the old one
    /// stay valid
    #[arg(long)]
    pub(crate) rotate: bool,
    /// Configuration file; ./weir.toml is read when it is there
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder that holds everything [default: ./weir-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `weir audit list`
#[derive(Debug, Args)]
pub(crate) struct AuditList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Maximum number of events
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}
