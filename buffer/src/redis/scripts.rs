//! What must happen in one step, as Lua run by the server.
//!
//! A log's hash `meta` holds: `version`; `writer`, the incarnation that may append; `end`, `start`; `bytes` appended ever and
//! `freed` of them; `hash` and `time` (ms) of the last frame; `epoch` of the last lease; `closed`, when the writer said that
//! it ends; `lonely`, since when it was missed (ms); `state`, once the log is being removed.
//! Scripts that do not make the log longer are allowed when the server's memory is full: they are what makes room.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)*
    };
}

script! {
    /// Adds a frame at the end, or finds that it is there.
    APPEND = "append.lua";
    /// A number for a node's next log.
    EPOCH = "epoch.lua";
    /// Makes an empty log.
    CREATE = "create.lua";
    /// Says that the writer lives, or ends.
    BEAT = "beat.lua";
    /// Ends the log of a writer that is dead, and says where.
    TAKE = "take.lua";
    /// Moves a cursor as `cursor::check_move` says; a lease given since refuses it, too.
    MOVE = "move.lua";
    FORGET = "forget.lua";
    /// Deletes frames that every sink has passed.
    TRIM = "trim.lua";
    /// Says that a flusher runs, and which do.
    ANNOUNCE = "announce.lua";
    /// Takes a lease.
    CLAIM = "claim.lua";
    /// Prolongs a lease, or gives it back.
    RENEW = "renew.lua";
    /// Closes a log that nobody needs.
    SETTLE = "settle.lua";
    /// Takes a log out of the list and adds up its tallies.
    UNLIST = "unlist.lua";
}
