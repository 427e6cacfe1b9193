//! Every error that the services answer with: a code, a message for a person, and a `google.rpc.ErrorInfo` of domain
//! `weir.dev` whose reason a program can rely on.

use std::collections::HashMap;
use std::time::Duration;

use buffer::ReadError;
use stores::StoreError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "weir.dev";

/// When to try again, where nobody said.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn status(code: Code, reason: &str, message: impl Into<String>, metadata: &[(&str, &str)]) -> Status {
    Status::with_error_details(code, message, details(reason, metadata))
}

fn details(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// A field of the request is not as it must be.
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

/// The same answer for what the caller may not see and for what is not there (AIP-211).
pub(crate) fn denied(permission: &str, resource: &str) -> Status {
    let message = format!("permission `{permission}` denied on `{resource}` (or it does not exist)");
    status(Code::PermissionDenied, "PERMISSION_DENIED", message, &[("permission", permission), ("resource", resource)])
}

/// The caller may see the collection, and this is not in it.
pub(crate) fn not_found(reason: &str, resource: &str) -> Status {
    status(Code::NotFound, reason, format!("`{resource}` does not exist"), &[("resource", resource)])
}

/// The place to start from is no longer in the log.
pub(crate) fn not_retained(log: &str, start: u64, hint: &str) -> Status {
    let message = format!(
        "log {log} no longer holds this place (it starts at offset {start}): {hint}; read the history with \
         StreamReadings and go on with its live_token"
    );
    let start = start.to_string();
    status(Code::OutOfRange, "PLACE_NOT_RETAINED", message, &[("log", log), ("start_offset", &start)])
}

/// Too many of something at one time.
pub(crate) fn exhausted(what: &str, limit: usize) -> Status {
    let message = format!("{limit} {what} are open already: try again later");
    let mut details = details("TOO_MANY_STREAMS", &[("limit", &limit.to_string())]);
    details.set_retry_info(Some(RETRY_AFTER));
    details.add_quota_failure_violation("server", &message);
    let mut status = Status::with_error_details(Code::ResourceExhausted, message, details);
    push_back(&mut status, RETRY_AFTER);
    status
}

/// The server stops.
pub(crate) fn stopping() -> Status {
    retry(Code::Unavailable, "SERVER_STOPPING", "the server is stopping: connect again", None)
}

/// The caller's deadline has passed.
pub(crate) fn deadline() -> Status {
    status(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the call took longer than its deadline", &[])
}

/// A fault of the server itself.
pub(crate) fn internal(what: &str) -> Status {
    tracing::error!(what, "internal error");
    status(Code::Internal, "INTERNAL", what, &[])
}

/// What a store's refusal means to a caller.
pub(crate) fn store(error: StoreError) -> Status {
    match error {
        StoreError::Busy { reason, retry_after } => retry(Code::Unavailable, "STORE_BUSY", reason, retry_after),
        StoreError::Moved => retry(Code::Unavailable, "STORE_BUSY", "blocks kept moving while they were read", None),
        StoreError::Paused(reason) => status(Code::FailedPrecondition, "STORE_PAUSED", reason, &[]),
        StoreError::TooLarge(reason) => status(Code::InvalidArgument, "TOO_LARGE", reason, &[]),
        StoreError::Refused(reason) => status(Code::FailedPrecondition, "STORE_REFUSED", reason, &[]),
        StoreError::Damaged(reason) => {
            tracing::error!(reason, "stored data is damaged");
            status(Code::DataLoss, "DATA_DAMAGED", format!("stored data is damaged: {reason}"), &[])
        }
    }
}

/// What a log's refusal means to a caller.
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

/// Try again later.
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

/// Tells clients that retry by themselves how long to wait.
fn push_back(status: &mut Status, after: Duration) {
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
}
