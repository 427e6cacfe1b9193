//! The meaning of an error of MongoDB: whether a repetition helps, and what an operator does.

use mongodb::error::{Error as DbError, ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

use crate::registry::Error;
use crate::registry::transaction::Stop;

/// Longest part of a message of the server that is shown.
const MAX_MESSAGE: usize = 300;
const DUPLICATE_KEY: i32 = 11_000;

/// Returns the meaning of an error of the server that `shown` names.
pub(super) fn meaning(error: &DbError, shown: &str) -> Stop {
    let said = describe(error);
    let unavailable = |cure: &str| Error::Unavailable(format!("{shown}: {said}: {cure}"));
    let operator = |cure: &str| Stop::Refused(Error::NeedsOperator(format!("{shown}: {said}: {cure}")));
    match &*error.kind {
        ErrorKind::ServerSelection { .. } => {
            return Stop::Lost(unavailable("no primary answers; check the servers, and the network before them"));
        }
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::DnsResolve { .. } => {
            return Stop::Lost(unavailable("the connection failed"));
        }
        ErrorKind::Authentication { .. } => return operator("check user and password in the URI"),
        ErrorKind::InvalidTlsConfig { .. } => return operator("check the options of TLS in the URI"),
        _ => {}
    }
    match code(error) {
        // The servers elect a primary, or one stops or starts.
        10_107 | 13_435 | 11_602 | 189 | 91 | 11_600 | 13_436 | 6 | 7 | 89 | 9001 => {
            Stop::Lost(unavailable("the server is not the primary at the moment; one is chosen within seconds"))
        }
        _ if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
            Stop::Again(unavailable("other changes were made at the same time; repeat this one"))
        }
        11 | 18 | 8000 => operator("check user and password in the URI"),
        13 => operator("grant the user of the URI the role readWrite in this database"),
        20 | 263 => operator("it has no transactions: use a replica set, which may have one member"),
        50 | 202 | 64 => Stop::Lost(unavailable("it took too long; look at the load and the members of the set")),
        14_031 | 12_501 => Stop::Refused(unavailable("free space on the disk of the server")),
        code => Stop::Refused(Error::Unavailable(format!("{shown}: {said} (code {code})"))),
    }
}

pub(super) fn code(error: &DbError) -> i32 {
    match &*error.kind {
        ErrorKind::Command(command) => command.code,
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code,
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => error.code,
        _ => 0,
    }
}

/// True when a row with this id exists.
pub(super) fn is_duplicate(error: &DbError) -> bool {
    code(error) == DUPLICATE_KEY
}

fn describe(error: &DbError) -> String {
    let text = match &*error.kind {
        ErrorKind::Command(command) => command.message.clone(),
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.message.clone(),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => error.message.clone(),
        kind => kind.to_string(),
    };
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
