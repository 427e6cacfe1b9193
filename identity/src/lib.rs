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
mod checkpoint;
mod gate;
mod hex;
mod oauth;
mod password;
mod principal;
mod public_key;
mod purge;
mod reach;
mod registry;
mod role;
mod secret;

pub use admin::{
    Admin, By, CreatedApiKey, CreatedDeviceSecret, CreatedTenant, NewApiKey, NewAuthority, NewDevice,
    NewDeviceCertificate, NewDeviceKey, NewDevicePassword, NewGroup, RevokedCertificate,
};
pub use certificate::{Authority, CertificateIdentity};
pub use checkpoint::{
    CheckedCheckpoints, CheckpointError, CheckpointFault, CheckpointKey, CheckpointKeyError, CheckpointKeys,
    CheckpointOptions, CheckpointReader, CheckpointTarget, Checkpoints, SignedCheckpoint, TargetStatus, Webhook,
};
pub use door::quota;
pub use gate::{Gate, NotHere, PlaceError, Topics};
#[cfg(any(test, feature = "testing"))]
pub use oauth::testing;
pub use oauth::{
    Algorithm, Claims, Fetch, FetchError, Fetched, HttpFetch, Issuer, Reach, RoleOfClaim, TokenError, TokenFault,
    TokenIssuer, UnverifiedToken, ValidToken,
};
pub use password::{PasswordHash, Passwords};
pub use principal::{Authenticator, Denied, Open, Presented, Principal};
pub use public_key::KeyAlgorithm;
pub use purge::{Place, Purger};
pub use reach::{DeviceReach, ReachChanges};
pub use registry::{
    AuditEvent, AuditRange, AuditReport, Change, ChangeKind, Changes, Checkpoint, Class, Created, Credential,
    CredentialKind, Deletion, DeletionStep, Denial, Device, DeviceAdmission, DevicePage, DeviceQuery, DeviceRegistry,
    DeviceUpdate, EmbeddedRegistry, Error, Fault, Found, Group, GroupFilter, GroupRegistry, GroupUpdate, INSTALLATION,
    Imported, KeyRights, Listed, MemberChange, MongoOptions, MongoRegistry, Origin, Owner, PlaceCount, PostgresOptions,
    PostgresRegistry, Registry, RegistryWrites, Rehashed, Residual, RoleBinding, Tenant, TenantState, TenantUpdate,
    Term, Use, Worker,
};
pub use role::Role;
pub use secret::{CredentialId, Digest, KeyFileError, PepperError, Peppers, Secret, Token, TokenKind, read_private};
