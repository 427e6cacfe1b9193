//! What an answer of the server means. The only place that reads error codes; their names stand in the server's
//! `error_codes.yml`.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::contract::StoreError;

/// Longest reason that is kept of what a server says.
const MAX_REASON: usize = 400;

/// A document that was not written.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Failure {
    /// The document's own key is there already.
    pub(super) fn is_there_already(&self) -> bool {
        // `E11000 duplicate key error collection: db.blocks index: _id_ dup key: …`: what stands behind may be anything.
        self.code == 11000 && self.message.split(" index: ").nth(1).is_some_and(|rest| rest.starts_with("_id_ "))
    }

    /// What it means for this document; never that it may be lost.
    pub(super) fn meaning(&self) -> StoreError {
        let reason = format!("{} (code {})", self.message, self.code);
        match general(self.code) {
            Some(meaning) => meaning.with(&reason),
            None => Meaning::Refused.with(&reason),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning {
    Busy,
    Paused,
    TooLarge,
    Refused,
}

impl Meaning {
    fn with(self, reason: &str) -> StoreError {
        let reason = cut(reason);
        match self {
            Self::Busy => busy(reason),
            Self::Paused => StoreError::Paused(reason),
            Self::TooLarge => StoreError::TooLarge(reason),
            Self::Refused => StoreError::Refused(reason),
        }
    }
}

/// What a code means wherever it comes; `None` when that depends on whether it was said of a document or of a request.
fn general(code: i32) -> Option<Meaning> {
    Some(match code {
        // Not found: user. Unauthorized, AuthenticationFailed, MechanismUnavailable, what Atlas refuses.
        11 | 13 | 18 | 334 | 8000 => Meaning::Paused,
        // IllegalOperation, InvalidNamespace, CommandNotFound, CommandNotSupportedOnView: a person set something up differently.
        20 | 59 | 73 | 166 => Meaning::Paused,
        // IndexOptionsConflict, IndexKeySpecsConflict: an index of ours is there and is another one.
        85 | 86 => Meaning::Paused,
        // BSONObjectTooLarge, and both codes of a document that an update made too large.
        10334 | 17419 | 17420 => Meaning::TooLarge,
        // Host unreachable or not found, network time-outs, sockets.
        6 | 7 | 89 | 9001 => Meaning::Busy,
        // Lock time-outs, interrupted, time limits, write concerns that are not met in time, write conflicts.
        24 | 46 | 50 | 64 | 79 | 91 | 100 | 112 | 262 => Meaning::Busy,
        // Primary stepped down, node recovering or shutting down.
        189 | 10058 | 10107 | 11600 | 11601 | 11602 | 13435 | 13436 => Meaning::Busy,
        // Sharding in motion: stale configuration, database version, epoch, shard not found, migration conflict.
        63 | 70 | 133 | 134 | 150 | 249 | 13388 | 13390 => Meaning::Busy,
        // Memory, disk, tickets, sessions, transactions that were aborted, reauthentication.
        39 | 146 | 202 | 225 | 226 | 251 | 256 | 312 | 313 | 314 | 391 | 462 | 14031 => Meaning::Busy,
        _ => return None,
    })
}

/// What a failed request means as a whole.
pub(super) fn answer(error: &Error) -> StoreError {
    let reason = describe(error);
    let meaning = match &*error.kind {
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => Meaning::Paused,
        ErrorKind::Command(command) => general(command.code).unwrap_or(Meaning::Busy),
        ErrorKind::Write(WriteFailure::WriteError(error)) => {
            return Failure { code: error.code, message: error.message.clone() }.meaning();
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => general(error.code).unwrap_or(Meaning::Busy),
        // The driver measures a document before it sends it.
        ErrorKind::InvalidArgument { message, .. } if message.contains("must be within") => Meaning::TooLarge,
        _ => Meaning::Busy,
    };
    match (meaning, error.base_backoff()) {
        (Meaning::Busy, Some(after)) => StoreError::Busy { reason: cut(&reason), retry_after: Some(after) },
        (meaning, _) => meaning.with(&reason),
    }
}

/// Not now.
pub(super) fn busy(reason: impl Into<String>) -> StoreError {
    StoreError::Busy { reason: reason.into(), retry_after: None }
}

/// An error as a sentence, without what only the driver's authors read.
pub(super) fn describe(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => format!("{} (code {})", command.message, command.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => format!("{} (code {})", error.message, error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => format!("{} (code {})", error.message, error.code),
        kind => kind.to_string(),
    }
}

fn cut(reason: &str) -> String {
    match reason.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// The label of a failure in the figures.
pub(super) fn label(error: &StoreError) -> &'static str {
    match error {
        StoreError::Refused(_) => "refused",
        StoreError::TooLarge(_) => "too_large",
        StoreError::Paused(_) => "paused",
        StoreError::Busy { .. } => "busy",
        StoreError::Damaged(_) => "damaged",
        StoreError::Moved => "moved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32, message: &str) -> Failure {
        Failure { code, message: message.into() }
    }

    #[test]
    fn only_a_duplicate_of_the_own_key_means_there_already() {
        let own = "E11000 duplicate key error collection: weir.blocks index: _id_ dup key: { _id: \"a\" }";
        assert!(failure(11000, own).is_there_already());
        let other = "E11000 duplicate key error collection: weir.blocks index: d_1 dup key: { d: \"x index: _id_ y\" }";
        assert!(!failure(11000, other).is_there_already());
        assert!(matches!(failure(11000, other).meaning(), StoreError::Refused(_)));
        assert!(!failure(11000, "").is_there_already());
    }

    #[test]
    fn a_document_is_refused_only_when_it_is_its_own_fault() {
        assert!(matches!(failure(121, "Document failed validation").meaning(), StoreError::Refused(_)));
        for code in [10107, 11600, 189, 91, 64, 14031, 13388, 262, 112] {
            assert!(matches!(failure(code, "").meaning(), StoreError::Busy { .. }), "{code}");
        }
        assert!(matches!(failure(13, "not authorized").meaning(), StoreError::Paused(_)));
        assert!(matches!(failure(10334, "BSONObj size").meaning(), StoreError::TooLarge(_)));
    }

    #[test]
    fn a_connection_that_broke_is_tried_again() {
        let broken = Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(answer(&broken), StoreError::Busy { .. }));
    }
}
