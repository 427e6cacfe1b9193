//! The meaning of an error of the server: whether a repetition helps, and what an operator does.

use std::error::Error as _;

use tokio_postgres::Error as DbError;
use tokio_postgres::error::SqlState;

use crate::registry::Error;
use crate::registry::transaction::Stop;

/// Longest part of a message of the server that is shown.
const MAX_MESSAGE: usize = 300;

/// Returns the meaning of an error of the server that `shown` names.
pub(super) fn meaning(error: &DbError, shown: &str) -> Stop {
    let Some(code) = error.code() else {
        if let Some(cure) = cure_of_tls(error) {
            return Stop::Refused(Error::NeedsOperator(format!("{shown}: {}: {cure}", chain(error))));
        }
        let reason = format!("the connection to {shown} failed: {}", chain(error));
        return Stop::Lost(Error::Unavailable(reason));
    };
    let said = chain(error);
    let unavailable = |cure: &str| Error::Unavailable(format!("{shown}: {said}: {cure}"));
    let operator = |cure: &str| Stop::Refused(Error::NeedsOperator(format!("{shown}: {said}: {cure}")));
    let class = &code.code()[..2];
    match *code {
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
            Stop::Again(unavailable("other changes were made at the same time; repeat this one"))
        }
        // A prepared statement from before a migration.
        SqlState::FEATURE_NOT_SUPPORTED if said.contains("cached plan") => Stop::Lost(unavailable("repeat it")),
        SqlState::READ_ONLY_SQL_TRANSACTION => Stop::Refused(unavailable(
            "the server is read-only, so nothing can be changed; name the primary, or all servers with \
             target_session_attrs=read-write",
        )),
        SqlState::DISK_FULL => Stop::Refused(unavailable("free space on the disk of the server")),
        SqlState::OUT_OF_MEMORY => Stop::Refused(unavailable("the server needs more memory")),
        SqlState::TOO_MANY_CONNECTIONS | SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
            Stop::Refused(unavailable("raise max_connections of the server, or end other clients"))
        }
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            Stop::Lost(unavailable("the server is stopping or starting; changes are possible once it is up"))
        }
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Stop::Lost(unavailable("the session was idle for too long")),
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => {
            Stop::Refused(unavailable("it took too long; look for locks and for load on the server"))
        }
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            operator("check user, password and sslcert in the URL, and pg_hba.conf of the server")
        }
        SqlState::INVALID_CATALOG_NAME => operator("create the database, owned by the user of the URL"),
        SqlState::INSUFFICIENT_PRIVILEGE => {
            operator("make the user of the URL the owner of the database, or grant it the use of the schema weir")
        }
        SqlState::UNDEFINED_TABLE
        | SqlState::UNDEFINED_FUNCTION
        | SqlState::UNDEFINED_COLUMN
        | SqlState::INVALID_SCHEMA_NAME => operator("the schema weir is not as it was made: restore it from a backup"),
        _ if class == "08" => Stop::Lost(unavailable("the connection failed")),
        _ => Stop::Refused(Error::Unavailable(format!("{shown}: {said} ({})", code.code()))),
    }
}

/// Returns what to do about a handshake that fails again and again.
fn cure_of_tls(error: &DbError) -> Option<&'static str> {
    let said = chain(error);
    let is = |part: &str| said.contains(part);
    if is("does not support TLS") {
        Some("turn `ssl` on at the server, or add sslmode=disable to the URL in a network that is trusted")
    } else if is("NotValidForName") || is("not valid for name") {
        Some("use a name of the certificate in the URL")
    } else if is("invalid peer certificate") {
        Some("name the file of its authority with sslrootcert in the URL")
    } else if is("received fatal alert") {
        Some("check sslcert and sslkey in the URL")
    } else {
        None
    }
}

/// Returns the message of an error and of those that caused it, without the values of a statement.
pub(super) fn chain(error: &DbError) -> String {
    let text = match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    };
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
