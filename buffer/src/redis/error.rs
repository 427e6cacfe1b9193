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
        // The client names a place in the answer on a line of its own.
        None => error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" "),
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

/// Errors of a server that may accept the same command later, without a change of anything else.
const PASSING: &[&str] = &[
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
];

/// True when the server has refused a command, and a repetition is of no use.
pub(super) fn is_fault(error: &RedisError) -> bool {
    answer(error).is_some_and(|(code, _)| !PASSING.contains(&&*code))
}

/// True when the server does not have the script.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// An error for an unexpected response.
pub(super) fn strange(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

/// The refusal of a user, and the keys to change.
fn denial(error: &RedisError, words: &str) -> Option<(&'static str, &'static str)> {
    let has = |code: &&str| words.contains(*code);
    if words.contains("NOPERM") {
        return Some(("lacks a permission for Weir", "grant it to the user of redis.username"));
    }
    let denied = error.kind() == ErrorKind::AuthenticationFailed || ["WRONGPASS", "NOAUTH", "AUTH"].iter().any(has);
    denied.then_some(("refuses the user or password", "set redis.username and redis.password"))
}

/// The error of a refused connection, with the key to change.
pub(super) fn refused(address: &str, error: &RedisError) -> OpenError {
    let words = words(error);
    match denial(error, &words) {
        Some((what, cure)) => OpenError::Denied(format!("redis at {address} {what}: {words}: {cure}")),
        None => OpenError::Unreachable(format!("cannot use redis at {address}: {words}: look at redis.urls")),
    }
}

/// The failure of a command of an open log, with the key to change.
pub(super) fn explain(error: &RedisError) -> String {
    let words = words(error);
    match denial(error, &words) {
        Some((what, cure)) => format!("redis {what}: {words}: {cure}"),
        None if is_full(error) => {
            "redis is out of memory (maxmemory): raise it there, or lower redis.max_bytes and log.retain_bytes".into()
        }
        None => format!("redis is away: {words}: look at redis.urls"),
    }
}

/// The failure of a command that has no answer in time.
pub(super) fn silent(limit: std::time::Duration) -> String {
    format!("redis is away: no answer within {} ms (redis.response_timeout_ms): look at redis.urls", limit.as_millis())
}
