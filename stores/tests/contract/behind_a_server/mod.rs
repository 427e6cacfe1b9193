//! The promises of a store behind a server.

mod away;
mod documents;
mod faults;
mod plans;
mod retained;
mod schema;
mod start;
mod states;

use mongodb::Database;
use weir_stores::mongodb::Config;

/// Starts a server for one test; the test ends when there is no program.
macro_rules! own_server {
    ($kind:expr) => {
        match tokio::task::spawn_blocking(|| crate::server::Server::start($kind)).await.unwrap() {
            Some(server) => server,
            None => return,
        }
    };
}
use own_server;

/// Returns a world on the shared server; the test ends when there is no program.
macro_rules! shared_world {
    () => {
        match crate::world::Mongo::new().await {
            Some(world) => world,
            None => return,
        }
    };
}
use shared_world;

/// Returns the database of a store, to read it directly.
async fn behind(config: &Config) -> Database {
    mongodb::Client::with_uri_str(&config.uri).await.unwrap().database(&config.database)
}
