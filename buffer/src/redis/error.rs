//! What Redis answers, in words that say what can be done.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why there is no log on Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
    /// The server cannot be reached: it may be there later.
    #[error("{0}")]
    Unreachable(String),
    /// The server does not let Weir in, or not do what it has to.
    #[error("{0}")]
    Denied(String),
    /// The server may lose what it said it has.
    #[error("{0}")]
    Unsafe(String),
    /// The spill's files.
    #[error("{0}")]
    Spill(String),
    /// A thread could not be made.
    #[error("cannot start the log's writer: {0}")]
    Start(String),
}

/// The code that the server's answer begins with, and the rest of it; of the first command that failed.
fn answer(error: &RedisError) -> Option<(String, String)> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    Some((first.code().to_owned(), first.details().unwrap_or_default().to_owned()))
}

/// The server's or the system's words, short.
pub(super) fn words(error: &RedisError) -> String {
    match answer(error) {
        Some((code, rest)) if code == "ERR" => rest,
        Some((code, rest)) => format!("{code} {rest}"),
        None => error.to_string(),
    }
}

/// True when the server has no memory left for what makes logs longer.
pub(super) fn is_full(error: &RedisError) -> bool {
    answer(error).is_some_and(|(code, _)| code == "OOM")
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
