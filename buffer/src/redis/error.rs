//! What Redis answers, in words that say what can be done.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why there is no log on Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
    /// The server cannot be reached or lets nobody in.
    #[error("{0}")]
    Unreachable(String),
    /// The server may lose what it said it has.
    #[error("{0}")]
    Unsafe(String),
    /// A thread could not be made.
    #[error("cannot start the log's writer: {0}")]
    Start(String),
}

/// The server's or the system's words, short.
pub(super) fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some("ERR"), Some(detail)) => detail.to_owned(),
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// True when another connection, or another server, may answer better.
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

/// True when the server has not got the script.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// An answer that does not have the form it should.
pub(super) fn strange(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// Why the connection was refused, naming the key that is to be changed.
pub(super) fn refused(address: &str, error: &RedisError) -> OpenError {
    let words = words(error);
    let code = error.code().unwrap_or_default();
    let denied = error.kind() == ErrorKind::AuthenticationFailed
        || ["WRONGPASS", "NOAUTH", "NOPERM"].contains(&code)
        || words.contains("AUTH");
    if denied {
        let what = if words.contains("NOPERM") { "lacks a permission for Weir" } else { "refuses the user or password" };
        OpenError::Unreachable(format!(
            "redis at {address} {what}: {words}: set redis.username and redis.password"
        ))
    } else {
        OpenError::Unreachable(format!("cannot use redis at {address}: {words}: look at redis.urls"))
    }
}
