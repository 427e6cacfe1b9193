//! The errors that the services return: a code, a message for people, and a `google.rpc.ErrorInfo`
//! of domain `weir.dev` whose reason programs can rely on.

use std::collections::HashMap;
use std::time::Duration;

use buffer::ReadError;
use identity::quota::Exceeded;
use stores::StoreError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::names;

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "weir.dev";

/// Pause before a retry where the cause gives none.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn status(code: Code, reason: &str, message: impl Into<String>, metadata: &[(&str, &str)]) -> Status {
    Status::with_error_details(code, message, details(reason, metadata))
}

fn details(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// A field of the request is invalid.
pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Status {
    invalid_as("FIELD_INVALID", field, description)
}

/// As [`invalid`], with a reason of its own.
pub(crate) fn invalid_as(reason: &str, field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let mut details = details(reason, &[("field", field)]);
    details.add_bad_request_violation(field, &description);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {description}"), details)
}

/// A page or resume token that belongs to another query, another release or another installation.
pub(crate) fn token(field: &str, description: &str) -> Status {
    invalid_as("TOKEN_INVALID", field, description)
}

/// A resource that the caller may not see, or that does not exist: the answer is the same for both
/// (AIP-211).
pub(crate) fn denied(permission: &str, resource: &str) -> Status {
    let message = format!("permission `{permission}` denied on `{resource}` (or it does not exist)");
    status(Code::PermissionDenied, "PERMISSION_DENIED", message, &[("permission", permission), ("resource", resource)])
}

/// A caller that is not admitted.
pub(crate) fn not_admitted(denied: &identity::Denied) -> Status {
    use identity::Denied;
    let message = denied.to_string();
    match denied {
        Denied::Missing => unauthenticated("CREDENTIAL_MISSING", message),
        Denied::Invalid => unauthenticated("CREDENTIAL_INVALID", message),
        Denied::NoRole(_) => status(Code::PermissionDenied, "ROLE_MISSING", message, &[]),
        Denied::Network => status(Code::PermissionDenied, "NETWORK_NOT_ALLOWED", message, &[]),
        Denied::Suspended => status(Code::PermissionDenied, "TENANT_SUSPENDED", message, &[]),
        Denied::Unavailable(_) => unavailable("AUTHENTICATION_UNAVAILABLE", message),
    }
}

/// A credential that was revoked or expired during the call.
pub(crate) fn ended() -> Status {
    unauthenticated("CREDENTIAL_ENDED", "the credential was revoked or has expired: call again with a valid one")
}

/// A call without a valid credential. The metadata names the scheme, as `www-authenticate` does.
fn unauthenticated(reason: &str, message: impl Into<String>) -> Status {
    status(Code::Unauthenticated, reason, message, &[("scheme", "Bearer")])
}

/// A path of no known service. The answer does not repeat it.
pub(crate) fn unknown_service() -> Status {
    status(Code::PermissionDenied, "PERMISSION_DENIED", "permission denied (or the service does not exist)", &[])
}

/// A call that needs authentication to be on.
pub(crate) fn auth_not_required() -> Status {
    let message = "authentication is off, so that there are no tenants, API keys and secrets of devices: set `[auth] \
                   required = true` (`weir init` makes a configuration with the first key)";
    status(Code::FailedPrecondition, "AUTH_NOT_REQUIRED", message, &[])
}

/// ABORTED: the resource was changed since the caller read it.
pub(crate) fn conflict(name: &str, message: String) -> Status {
    status(Code::Aborted, "CONFLICT", message, &[("resource", name)])
}

/// FAILED_PRECONDITION: other resources need this one.
pub(crate) fn in_use(name: &str, message: String) -> Status {
    status(Code::FailedPrecondition, "GROUP_IN_USE", message, &[("resource", name)])
}

/// FAILED_PRECONDITION: the resource is in another state than the call needs.
pub(crate) fn failed_precondition(reason: &str, resource: &str, message: &str) -> Status {
    status(Code::FailedPrecondition, reason, message, &[("resource", resource)])
}

/// A resource that exists already.
pub(crate) fn exists(reason: &str, resource: &str) -> Status {
    status(Code::AlreadyExists, reason, format!("`{resource}` exists already"), &[("resource", resource)])
}

/// As [`exists`], with a message of its own.
pub(crate) fn exists_as(reason: &str, resource: &str, message: &str) -> Status {
    status(Code::AlreadyExists, reason, message, &[("resource", resource)])
}

/// There are as many resources of a kind as `subject` may have.
pub(crate) fn quota(reason: &str, subject: &str, limit: usize, message: String) -> Status {
    let mut details = details(reason, &[("limit", &limit.to_string())]);
    details.add_quota_failure_violation(subject, &message);
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// A resource that is not in a collection that the caller may see.
pub(crate) fn not_found(reason: &str, resource: &str) -> Status {
    missing(reason, resource, format!("`{resource}` does not exist"))
}

/// As [`not_found`], with a message of its own.
pub(crate) fn missing(reason: &str, resource: &str, message: impl Into<String>) -> Status {
    status(Code::NotFound, reason, message, &[("resource", resource)])
}

/// The requested position is no longer in the log.
pub(crate) fn not_retained(log: &str, start: u64, hint: &str) -> Status {
    let message = format!(
        "log {log} no longer holds the requested position (it starts at offset {start}): {hint}; read the history \
         with StreamReadings and continue with its live_token"
    );
    let start = start.to_string();
    status(Code::OutOfRange, "PLACE_NOT_RETAINED", message, &[("log", log), ("start_offset", &start)])
}

/// A limit on things open at one time is reached.
pub(crate) fn exhausted(what: &str, limit: usize) -> Status {
    let message = format!("{limit} {what} are open already: try again later");
    let mut details = details("TOO_MANY_STREAMS", &[("limit", &limit.to_string())]);
    details.set_retry_info(Some(RETRY_AFTER));
    details.add_quota_failure_violation("server", &message);
    let mut status = Status::with_error_details(Code::ResourceExhausted, message, details);
    push_back(&mut status, RETRY_AFTER);
    status
}

/// A limit of the tenant is reached.
pub(crate) fn limited(tenant: &str, exceeded: &Exceeded) -> Status {
    let reason = if exceeded.quota.is_rate() { "RATE_LIMIT_EXCEEDED" } else { "QUOTA_EXCEEDED" };
    let message = exceeded.to_string();
    let limit = exceeded.limit.to_string();
    let mut details = details(reason, &[("quota", exceeded.quota.name()), ("limit", &limit)]);
    let after = exceeded.retry_after.unwrap_or(RETRY_AFTER);
    details.set_retry_info(Some(after));
    details.add_quota_failure_violation(names::tenant(tenant), &message);
    let mut status = Status::with_error_details(Code::ResourceExhausted, message, details);
    // Whole milliseconds that are not too few.
    push_back(&mut status, after + Duration::from_millis(1));
    status
}

/// The memory for answers is used up.
pub(crate) fn memory(full: model::Full) -> Status {
    crowded(full.capacity, format!("{full}: try again later"))
}

/// As [`memory`], with a message of its own.
pub(crate) fn crowded(limit: usize, message: String) -> Status {
    let mut details = details("MEMORY_EXHAUSTED", &[("limit", &limit.to_string())]);
    details.set_retry_info(Some(RETRY_AFTER));
    details.add_quota_failure_violation("server", &message);
    let mut status = Status::with_error_details(Code::ResourceExhausted, message, details);
    push_back(&mut status, RETRY_AFTER);
    status
}

/// The server is stopping.
pub(crate) fn stopping() -> Status {
    retry(Code::Unavailable, "SERVER_STOPPING", "the server is stopping: connect again", None)
}

/// The caller's deadline has passed.
pub(crate) fn deadline() -> Status {
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the call took longer than its deadline", &[])
}

/// A fault of the server.
pub(crate) fn internal(what: &str) -> Status {
    tracing::error!(what, "internal error");
    status(Code::Internal, "INTERNAL", what, &[])
}

/// Converts the error of a store.
pub(crate) fn store(error: StoreError) -> Status {
    match error {
        StoreError::Busy { reason, retry_after } => retry(Code::Unavailable, "STORE_BUSY", reason, retry_after),
        StoreError::Moved => {
            retry(Code::Unavailable, "STORE_BUSY", "blocks kept moving while they were read: try again", None)
        }
        StoreError::Aborted(reason) => retry(Code::Unavailable, "STORE_BUSY", reason, None),
        StoreError::NeedsOperator(reason) => status(Code::FailedPrecondition, "STORE_PAUSED", reason, &[]),
        StoreError::TooLarge(reason) => status(Code::InvalidArgument, "TOO_LARGE", reason, &[]),
        StoreError::Refused(reason) => status(Code::FailedPrecondition, "STORE_REFUSED", reason, &[]),
        StoreError::Damaged(reason) => {
            tracing::error!(reason, "stored data is damaged");
            status(Code::DataLoss, "DATA_DAMAGED", format!("stored data is damaged: {reason}"), &[])
        }
    }
}

/// Converts the error of a log.
pub(crate) fn log(id: &str, error: ReadError) -> Status {
    match error {
        ReadError::Trimmed { start, .. } => not_retained(id, start, "it was trimmed"),
        ReadError::Unavailable(reason) => retry(Code::Unavailable, "LOG_UNAVAILABLE", reason, None),
        ReadError::Damaged(reason) => {
            tracing::error!(log = id, reason, "log is damaged");
            status(Code::DataLoss, "DATA_DAMAGED", format!("log {id} is damaged: {reason}"), &[])
        }
    }
}

/// A temporary failure: the caller retries.
pub(crate) fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    retry(Code::Unavailable, reason, message, None)
}

fn retry(code: Code, reason: &str, message: impl Into<String>, after: Option<Duration>) -> Status {
    let after = after.unwrap_or(RETRY_AFTER);
    let mut details = details(reason, &[]);
    details.set_retry_info(Some(after));
    let mut status = Status::with_error_details(code, message, details);
    push_back(&mut status, after);
    status
}

/// Adds the pause that clients with automatic retries wait for.
fn push_back(status: &mut Status, after: Duration) {
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
}
