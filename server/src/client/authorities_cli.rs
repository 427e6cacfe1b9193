//! Command line of the commands about authorities of certificates of devices.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::cli::Common;

/// `weir authorities`
#[derive(Debug, Args)]
pub(crate) struct Authorities {
    #[command(subcommand)]
    pub(crate) command: AuthoritiesCommand,
}

/// The authorities of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthoritiesCommand {
    /// List the authorities
    List(AuthoritiesList),
    /// Admit devices with certificates of an authority
    Add(AuthorityAdd),
    /// Delete an authority, and end the sessions of its certificates
    Delete(AuthorityId),
    /// Revoke one certificate of an authority, and end its sessions
    Revoke(CertificateFile),
}

/// `weir authorities list`
#[derive(Debug, Args)]
pub(crate) struct AuthoritiesList {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir authorities add`
#[derive(Debug, Args)]
pub(crate) struct AuthorityAdd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Certificate of the authority (PEM)
    #[arg(value_name = "FILE")]
    pub(crate) certificate: PathBuf,
    /// Certificate (PEM) from this authority for the common name that the command without it names
    #[arg(long, value_name = "FILE")]
    pub(crate) proof: Option<PathBuf>,
    /// Part of the certificates that names the device
    #[arg(long, value_enum, default_value_t = IdentityPart::SanUri)]
    pub(crate) identity: IdentityPart,
    /// Purpose of the authority, shown in lists
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Validity, as 90d [default: that of the certificate]
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires: Option<String>,
}

/// `weir authorities delete`
#[derive(Debug, Args)]
pub(crate) struct AuthorityId {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the authority, from `weir authorities list`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `weir authorities revoke`
#[derive(Debug, Args)]
pub(crate) struct CertificateFile {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Certificate of a device (PEM)
    #[arg(value_name = "FILE")]
    pub(crate) certificate: PathBuf,
}

/// Part of a certificate that names its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdentityPart {
    /// Alternative name URI:urn:weir:TENANT:DEVICE
    SanUri,
    /// The one DNS name among the alternative names
    SanDns,
    /// Common name of the subject
    CommonName,
}
