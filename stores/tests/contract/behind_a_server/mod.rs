//! What only a store behind a server has to promise.

mod aggregates;
mod documents;
mod faults;
mod plans;
mod retained;
mod start;
mod states;

use mongodb::Database;
use weir_stores::mongodb::Config;

/// A server of the test's own; the test ends when there is no program.
macro_rules! own_server {
    ($kind:expr) => {
        match tokio::task::spawn_blocking(|| crate::server::Server::start($kind)).await.unwrap() {
            Some(server) => server,
            None => return,
        }
    };
}
use own_server;

/// A world on the shared server; the test ends when there is no program.
macro_rules! shared_world {
    () => {
        match crate::world::Mongo::new().await {
            Some(world) => world,
            None => return,
        }
    };
}
use shared_world;

/// The database of a store, to look behind it.
async fn behind(config: &Config) -> Database {
    mongodb::Client::with_uri_str(&config.uri).await.unwrap().database(&config.database)
}
