//! Atomic steps as Lua scripts on the server.
//!
//! The hash `meta` of a log has: `version`; `writer`, the incarnation that may append; `end`,
//! `start`; `passed`, by every sink, at the last trim; `bytes`, all bytes appended, and `freed` of
//! them; `hash` and `time` (ms) of the last frame; `epoch` of the last lease; `closed`, when the
//! writer has ended; `lonely`, the time since when it is missing (ms); `state`, once the log is
//! being removed; `restored`, while a log that the server lost has no cursors; `lost`, once the
//! server lost records of it. Scripts that do not extend the log are allowed when the server is out
//! of memory, because they free it.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)*
    };
}

script! {
    /// Appends a frame, or detects that it is already there.
    APPEND = "append.lua";
    /// Assigns a number for the next log of a node.
    EPOCH = "epoch.lua";
    /// Creates an empty log.
    CREATE = "create.lua";
    /// Renews the heartbeat of the writer, or ends it.
    BEAT = "beat.lua";
    /// Ends the log of a dead writer and returns its end.
    TAKE = "take.lua";
    /// Moves a cursor according to `cursor::check_move`; a newer lease refuses it too.
    MOVE = "move.lua";
    FORGET = "forget.lua";
    /// Sets a cursor within the log according to `cursor::check_rewind`.
    REWIND = "rewind.lua";
    /// Deletes frames that every sink has passed.
    TRIM = "trim.lua";
    /// Registers a name with a value for a time, and returns all that are registered.
    ANNOUNCE = "announce.lua";
    /// Takes a lease.
    CLAIM = "claim.lua";
    /// Renews or releases a lease.
    RENEW = "renew.lua";
    /// Makes a log again that the server has lost.
    RESTORE = "restore.lua";
    /// Takes a lease again that no other flusher has taken since.
    REGAIN = "regain.lua";
    /// Closes a log that is no longer needed.
    SETTLE = "settle.lua";
    /// Removes a log from the list and adds its tallies to the sums.
    UNLIST = "unlist.lua";
}
