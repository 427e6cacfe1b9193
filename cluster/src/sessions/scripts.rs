//! Keys, and atomic steps as Lua scripts on the server.
//!
//! ```text
//! PREFIX:{sessions}:c:TENANT\0CLIENT  hash, the owner of a client: s session, e epoch, o node, on (connected),
//!                                     b the epoch since which it was connected to that node alone,
//!                                     a the epoch of the last claim, tw that of the will message before, if its node
//!                                     publishes it,
//!                                     cl tk the last claim and its outcome; of a session that lasts also
//!                                     k seconds, n last number, g progress, R released, r:PACKET receipts,
//!                                     f:FILTER subscriptions, h has a shared one, lost, y walks
//! …:q:SESSION     stream, messages by number: p place, b message or m its id
//! …:m:ID          hash, a message of several sessions: b message, n sessions
//! …:t:TENANT      zset of its clients, in their order …:own:NODE   set of clients that are connected to it
//! …:expiry        zset, client → end of its session, ms
//! …:inc           hash, name → start of the node     …:alive      zset, NODE → alive until, ms
//! …:n:NODE        hash, its inbox: i last id, ib bytes …:in:NODE   stream, its inbox
//! …:rn:NODE       hash, TENANT\0FILTER → interest    …:dead       set of NODEs whose clients are to be left
//! …:rs            hash, TENANT\0CLIENT\0FILTER → session, subscription
//! …:routes        stream, the feed of routes         …:drop       set of sessions whose queue is to be deleted
//! …:left          zset, TENANT\0SESSION → ms from which on its messages are read for others
//! …:l:SESSION     hash, a session that has left them over: c client, g progress, f n the first, and how often it
//!                 was read                            …:lt:TENANT   zset of its sessions of that kind
//! …:wm:EPOCH      hash, the will message of a claim: c client, s session, d delay in seconds, b body, o the NODE that
//!                 publishes it, x it does so now, u end of the delay, ms, when its connection has ended
//! …:wc            hash, TENANT\0CLIENT → EPOCH of its last will message
//! …:wn:NODE       set, EPOCHs of a node's will messages …:wills    zset, EPOCH → ms from which on any node publishes it
//! …:w:WRITER      hash: n its last batch, r refusals, l its last message with a receipt was refused
//! …:g             hash: seq, epoch, mid, bytes
//! ```
//! NODE is `NAME@START`. All keys have one hash tag, so that a script may change any of them.
//! Memory is bounded by the bounds of the messages, so the scripts run while the server is out of
//! memory: most of them free it.

use std::sync::LazyLock;

use buffer::redis::Script;

macro_rules! script {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/lib.lua"),
                "local function main()\n",
                include_str!(concat!("scripts/", $file)),
                "end\nlocal result = main()\nsettle()\nreturn result\n",
            ))
        });)*
    };
}

script! {
    /// Applies a batch of changes, once.
    APPLY = "apply.lua";
    /// Makes a node the owner of a client, or asks the present one to hand it over.
    CLAIM = "claim.lua";
    /// Reads messages of a session.
    MESSAGES = "messages.lua";
    /// Finds clients that a node no longer owns.
    VERIFY = "verify.lua";
    /// Registers a start of a node, in place of an earlier one.
    JOIN = "join.lua";
    /// Renews the registration of a node.
    ANNOUNCE = "announce.lua";
    /// Ends the registration of a node.
    QUIT = "quit.lua";
    /// Ends what is due, piece by piece.
    SWEEP = "sweep.lua";
    /// Reads subscriptions of sessions, piece by piece.
    ROUTES = "routes.lua";
    /// Reads sessions of a tenant for operators.
    SUMMARIES = "summaries.lua";
    /// Ends the session of a client that is away.
    END_AWAY = "end_away.lua";
    /// Notes that a node publishes a will message.
    BEGIN_WILL = "begin_will.lua";
    /// Reads will messages of nodes that have ended.
    WILLS = "wills.lua";
    /// Deletes clients of a tenant.
    FORGET = "forget.lua";
    /// Ends interests of a node in topics of a tenant.
    DISINTEREST = "disinterest.lua";
    /// Reads messages that sessions have left over, piece by piece.
    LEFTOVERS = "leftovers.lua";
    /// Removes letters that a node has read.
    PASSED = "passed.lua";
}
