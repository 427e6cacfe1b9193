//! Errors of Redis with advice.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The reason why a log on Redis does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration is inconsistent.
    #[error("{0}")]
    Config(String),
    /// The server cannot be reached now.
    #[error("{0}")]
    Unreachable(String),
    /// The server refuses access or a required command.
    #[error("{0}")]
    Denied(String),
    /// The server may lose confirmed data.
    #[error("{0}")]
    Unsafe(String),
    /// Files of the spill.
    #[error("{0}")]
    Spill(String),
    /// A thread could not be started.
    #[error("cannot start the log's writer: {0}")]
    Start(String),
}

/// The error code and the text of the first failed command.
fn answer(error: &RedisError) -> Option<(String, String)> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    Some((first.code().to_owned(), first.details().unwrap_or_default().to_owned()))
}

/// Short text of a server or system error.
pub(super) fn words(error: &RedisError) -> String {
    match answer(error) {
        Some((code, rest)) if code == "ERR" => rest,
        Some((code, rest)) => format!("{code} {rest}"),
        None => error.to_string(),
    }
}

/// True when the server is out of memory for appends.
pub(super) fn is_full(error: &RedisError) -> bool {
    answer(error).is_some_and(|(code, _)| code == "OOM")
}

/// True when another connection or server may succeed.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::Moved
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
            )
        )
}

/// True when the server does not have the script.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// An error for an unexpected response.
pub(super) fn strange(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// The error of a refused connection, with the key to change.
pub(super) fn refused(address: &str, error: &RedisError) -> OpenError {
    let words = words(error);
    let denied = error.kind() == ErrorKind::AuthenticationFailed
        || ["WRONGPASS", "NOAUTH", "NOPERM", "AUTH"].iter().any(|code| words.contains(code));
    if denied {
        let what =
            if words.contains("NOPERM") { "lacks a permission for Weir" } else { "refuses the user or password" };
        OpenError::Denied(format!("redis at {address} {what}: {words}: set redis.username and redis.password"))
    } else {
        OpenError::Unreachable(format!("cannot use redis at {address}: {words}: look at redis.urls"))
    }
}
