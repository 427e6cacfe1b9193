//! A sentinel that lets a replica take over.

use super::server::Server;

/// A sentinel with a quorum of one.
pub(crate) fn sentinel(master: u16) -> Option<Server> {
    Server::start_prepared(&["--sentinel"], |dir| {
        let text = format!(
            "sentinel monitor weir 127.0.0.1 {master} 1\nsentinel down-after-milliseconds weir 500\n\
             sentinel failover-timeout weir 3000\n"
        );
        std::fs::write(dir.join("sentinel.conf"), text).unwrap();
    })
}
