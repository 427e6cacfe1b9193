//! Command line of the commands about issuers of access tokens, and roles of their principals.

use clap::{Args, Subcommand};

use super::access_cli::RoleName;
use super::cli::Common;

/// `weir issuers`
#[derive(Debug, Args)]
pub(crate) struct Issuers {
    #[command(subcommand)]
    pub(crate) command: IssuersCommand,
}

/// The issuers of a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum IssuersCommand {
    /// List the issuers
    List(IssuersList),
    /// Accept the access tokens of an issuer
    Add(IssuerAdd),
    /// Change an issuer; the streams of its tokens end
    Set(IssuerSet),
    /// Delete an issuer, and end the streams of its tokens
    Delete(IssuerId),
}

/// `weir issuers list`
#[derive(Debug, Args)]
pub(crate) struct IssuersList {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir issuers add`
#[derive(Debug, Args)]
pub(crate) struct IssuerAdd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// URL of the issuer, exactly as in `iss` of its tokens
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Audience that its tokens name in `aud`
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: String,
    /// Purpose of the issuer, shown in lists
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// Algorithms that its tokens may have [default: ES256,EdDSA,RS256,PS256]
    #[arg(long, value_delimiter = ',', value_name = "ALGORITHMS")]
    pub(crate) algorithms: Vec<String>,
    /// Accept tokens whose type is not at+jwt; id tokens with the audience are accepted too
    #[arg(long)]
    pub(crate) any_type: bool,
    /// Do not limit tokens to the permissions that their scopes name
    #[arg(long)]
    pub(crate) ignore_scopes: bool,
    /// Claim that holds roles, as groups or realm_access.roles
    #[arg(long, value_name = "CLAIM", requires = "roles")]
    pub(crate) role_claim: Option<String>,
    /// Roles of the values of that claim, as operators=operator,admins=tenant-admin
    #[arg(long, value_delimiter = ',', value_name = "VALUE=ROLE", requires = "role_claim")]
    pub(crate) roles: Vec<String>,
    /// Highest role of its principals [default: tenant-admin, or your own if that is lower]
    #[arg(long, value_enum)]
    pub(crate) max_role: Option<RoleName>,
    /// Claim that names the tenant; only operators of the installation may set it
    #[arg(long, value_name = "CLAIM")]
    pub(crate) tenant_claim: Option<String>,
    /// Longest lifetime of its tokens, as 1h [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_lifetime: Option<String>,
}

/// `weir issuers set`
#[derive(Debug, Args)]
pub(crate) struct IssuerSet {
    #[command(flatten)]
    pub(crate) issuer: IssuerId,
    /// Purpose of the issuer, shown in lists
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Algorithms that its tokens may have
    #[arg(long, value_delimiter = ',', value_name = "ALGORITHMS")]
    pub(crate) algorithms: Option<Vec<String>>,
    /// Accept tokens whose type is not at+jwt
    #[arg(long, value_name = "BOOL")]
    pub(crate) any_type: Option<bool>,
    /// Do not limit tokens to the permissions that their scopes name
    #[arg(long, value_name = "BOOL")]
    pub(crate) ignore_scopes: Option<bool>,
    /// Claim that holds roles; empty: none
    #[arg(long, value_name = "CLAIM", requires = "roles")]
    pub(crate) role_claim: Option<String>,
    /// Roles of the values of the role claim, as operators=operator; empty: none
    #[arg(long, value_delimiter = ',', value_name = "VALUE=ROLE")]
    pub(crate) roles: Option<Vec<String>>,
    /// Highest role of its principals
    #[arg(long, value_enum)]
    pub(crate) max_role: Option<RoleName>,
    /// Longest lifetime of its tokens, as 1h
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_lifetime: Option<String>,
}

/// `weir issuers delete`
#[derive(Debug, Args)]
pub(crate) struct IssuerId {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the issuer, from `weir issuers list`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `weir roles`
#[derive(Debug, Args)]
pub(crate) struct Roles {
    #[command(subcommand)]
    pub(crate) command: RolesCommand,
}

/// The roles of principals in a tenant.
#[derive(Debug, Subcommand)]
pub(crate) enum RolesCommand {
    /// List the principals with a role
    List(RolesList),
    /// Give a principal of an issuer a role
    Grant(RoleGrant),
    /// Change the role of a principal, or the groups that it is limited to
    Set(RoleSet),
    /// Take the role of a principal away, and end its streams
    Revoke(RoleRevoke),
}

/// `weir roles list`
#[derive(Debug, Args)]
pub(crate) struct RolesList {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `weir roles grant`
#[derive(Debug, Args)]
pub(crate) struct RoleGrant {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The principal: oidc:URL#SUBJECT, or client:URL#CLIENT for a client that acts for itself
    #[arg(value_name = "PRINCIPAL")]
    pub(crate) principal: String,
    /// Its role
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
    /// Group whose devices the principal is limited to; may be given several times [default: the
    /// tenant]
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
}

/// `weir roles set`
#[derive(Debug, Args)]
pub(crate) struct RoleSet {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The principal, or the id of its role from `weir roles list`
    #[arg(value_name = "PRINCIPAL")]
    pub(crate) principal: String,
    /// Its role
    #[arg(long, value_enum)]
    pub(crate) role: Option<RoleName>,
    /// Group whose devices the principal is limited to, in place of those before; may be given
    /// several times
    #[arg(long = "group", value_name = "GROUP", conflicts_with = "whole_tenant")]
    pub(crate) groups: Vec<String>,
    /// Do not limit the principal to groups
    #[arg(long)]
    pub(crate) whole_tenant: bool,
}

/// `weir roles revoke`
#[derive(Debug, Args)]
pub(crate) struct RoleRevoke {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The principal, or the id of its role from `weir roles list`
    #[arg(value_name = "PRINCIPAL")]
    pub(crate) principal: String,
}
