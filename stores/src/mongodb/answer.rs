//! The meaning of an answer of the server. Error codes are read here and nowhere else; their names
//! are those of the server's `error_codes.yml`.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::contract::StoreError;

/// Longest reason that is kept.
const MAX_REASON: usize = 400;

/// A document that was not written.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Failure {
    /// True when a document with this key is stored already.
    pub(super) fn is_there_already(&self) -> bool {
        // `E11000 duplicate key error collection: db.blocks index: _id_ dup key: …`: the rest is
        // not trusted.
        self.code == 11000 && self.message.split(" index: ").nth(1).is_some_and(|rest| rest.starts_with("_id_ "))
    }

    /// Returns the meaning for this document; never that it may be lost.
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
    NeedsOperator,
    TooLarge,
    Refused,
}

impl Meaning {
    fn with(self, reason: &str) -> StoreError {
        let reason = cut(reason);
        match self {
            Self::Busy => StoreError::busy(reason),
            Self::NeedsOperator => StoreError::NeedsOperator(reason),
            Self::TooLarge => StoreError::TooLarge(reason),
            Self::Refused => StoreError::Refused(reason),
        }
    }
}

/// Returns the meaning of a code; `None` when it depends on whether it concerns a document or a
/// request.
fn general(code: i32) -> Option<Meaning> {
    Some(match code {
        // UserNotFound, Unauthorized, AuthenticationFailed, MechanismUnavailable, AtlasError.
        11 | 13 | 18 | 334 | 8000 => Meaning::NeedsOperator,
        // IllegalOperation, InvalidNamespace, CommandNotFound, CommandNotSupportedOnView: the
        // operator has set up the database differently.
        20 | 59 | 73 | 166 => Meaning::NeedsOperator,
        // IndexOptionsConflict, IndexKeySpecsConflict: another index has the name of one of these.
        85 | 86 => Meaning::NeedsOperator,
        // BSONObjectTooLarge, and both codes of a document that an update made too large.
        10334 | 17419 | 17420 => Meaning::TooLarge,
        // Host unreachable or not found, network time-outs, sockets.
        6 | 7 | 89 | 9001 => Meaning::Busy,
        // Lock time-outs, interrupted, time limits, write concerns that are not met in time, write
        // conflicts.
        24 | 46 | 50 | 64 | 79 | 91 | 100 | 112 | 262 => Meaning::Busy,
        // Primary stepped down, node recovering or shutting down.
        189 | 10058 | 10107 | 11600 | 11601 | 11602 | 13435 | 13436 => Meaning::Busy,
        // Sharding in motion: stale configuration, database version, epoch, shard not found,
        // migration conflict.
        63 | 70 | 133 | 134 | 150 | 249 | 13388 | 13390 => Meaning::Busy,
        // Memory, disk, tickets, sessions, transactions that were aborted, reauthentication.
        39 | 146 | 202 | 225 | 226 | 251 | 256 | 312 | 313 | 314 | 391 | 462 | 14031 => Meaning::Busy,
        _ => return None,
    })
}

/// True when a collection or an index that Weir makes is missing: NamespaceNotFound, and the
/// planner's BadValue and NoQueryExecutionPlans for a hint.
pub(super) fn is_about_schema(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(command) => match command.code {
            26 => true,
            2 | 291 => command.message.contains("hint"),
            _ => false,
        },
        _ => false,
    }
}

/// Returns the meaning of a failed request as a whole.
pub(super) fn answer(error: &Error) -> StoreError {
    if is_about_schema(error) {
        return StoreError::busy("an index or a collection of Weir is missing from MongoDB; it is made again: retry");
    }
    let reason = describe(error);
    let meaning = match &*error.kind {
        ErrorKind::Authentication { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::IncompatibleServer { .. } => Meaning::NeedsOperator,
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

/// Returns an error as a sentence, without the details for the driver's authors.
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

/// Returns the label of a failure in the metrics.
pub(super) fn label(error: &StoreError) -> &'static str {
    match error {
        StoreError::Refused(_) => "refused",
        StoreError::TooLarge(_) => "too_large",
        StoreError::NeedsOperator(_) => "needs_operator",
        StoreError::Busy { .. } => "busy",
        StoreError::Aborted(_) => "aborted",
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
        assert!(matches!(failure(13, "not authorized").meaning(), StoreError::NeedsOperator(_)));
        assert!(matches!(failure(10334, "BSONObj size").meaning(), StoreError::TooLarge(_)));
    }

    #[test]
    fn a_connection_that_broke_is_tried_again() {
        let broken = Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(answer(&broken), StoreError::Busy { .. }));
    }
}
