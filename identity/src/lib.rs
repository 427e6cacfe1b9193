//! The identity of clients and callers, and their rights.
//!
//! Receives: credentials that a device presents to a door or a caller to the api; changes of
//! tenants, credentials and roles.
//! Promises: a credential is checked in one place; a revoked one ends the sessions and streams that
//! it opened; no secret is kept in a form that opens a door; each change is audited or not made.
//! Hands on: a [`Principal`] to the api, an identity to the doors.
//! Never: knows a protocol, a reading or a store of readings.

mod admin;
mod certificate;
mod gate;
mod oauth;
mod principal;
mod public_key;
mod registry;
mod role;
mod secret;

pub use admin::{
    Admin, By, CreatedApiKey, CreatedDeviceSecret, CreatedTenant, NewApiKey, NewAuthority, NewDeviceCertificate,
    NewDeviceKey, RevokedCertificate,
};
pub use certificate::{Authority, CertificateIdentity};
pub use door::quota;
pub use gate::{Gate, Topics};
#[cfg(any(test, feature = "testing"))]
pub use oauth::testing;
pub use oauth::{
    Algorithm, Claims, Fetch, FetchError, Fetched, HttpFetch, Issuer, Reach, RoleOfClaim, TokenError, TokenFault,
    TokenIssuer, UnverifiedToken, ValidToken,
};
pub use principal::{Authenticator, Denied, Open, Presented, Principal};
pub use public_key::KeyAlgorithm;
pub use registry::{
    AuditEvent, AuditReport, Change, ChangeKind, Changes, Checkpoint, Class, Created, Credential, CredentialKind,
    Denial, EmbeddedRegistry, Error, Fault, Found, INSTALLATION, KeyRights, Listed, MongoOptions, MongoRegistry,
    Origin, Owner, PostgresOptions, PostgresRegistry, Registry, RoleBinding, Tenant, TenantState, TenantUpdate, Use,
};
pub use role::Role;
pub use secret::{CredentialId, Digest, PepperError, Peppers, Secret, Token, TokenKind};
