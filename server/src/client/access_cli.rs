//! Command line of the commands about who may do what.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::cli::{Common, Devices};

/// `weir devices`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevicesAndSecrets {
    #[command(subcommand)]
    pub(crate) command: Option<DevicesCommand>,
    #[command(flatten)]
    pub(crate) list: Devices,
}

/// The devices, and their secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List the devices that have sent readings
    List(Devices),
    /// Give a device a secret or register its key, and print what to type into the device
    Add(DeviceAdd),
    /// List the secrets and keys of a device, without the secrets themselves
    Secrets(DeviceName),
    /// Delete a secret or a key of a device, and end the sessions that it opened
    Revoke(DeviceRevoke),
}

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
    List(super::cli::ServerAndFormat),
    /// Make a tenant
    Add(TenantAdd),
    /// Change the name or the limits of a tenant
    Set(TenantSet),
    /// Show the limits of a tenant, and its use of the process that answers
    Usage(TenantUsageOf),
    /// End the sessions of a tenant, and refuse its devices and keys
    Suspend(TenantId),
    /// Admit the devices and keys of a suspended tenant again
    Resume(TenantId),
}

/// `weir tenants add`
#[derive(Debug, Args)]
pub(crate) struct TenantAdd {
    #[command(flatten)]
    pub(crate) tenant: TenantId,
    /// Name for people
    #[arg(long, default_value = "")]
    pub(crate) name: String,
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

/// `weir tenants suspend`, `weir tenants resume`
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
}

/// `weir audit verify`
#[derive(Debug, Args)]
pub(crate) struct AuditVerify {
    #[command(flatten)]
    pub(crate) common: Common,
    /// An event that an earlier check printed: the chain must contain it
    #[arg(long, value_name = "SEQUENCE:HASH")]
    pub(crate) known: Option<String>,
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
