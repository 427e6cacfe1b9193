mod faults;
mod kill;
mod writers;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::registry::contract::{contract, key, origin, secret, tenant};
use crate::registry::servers::Mongod;
use crate::registry::{RegistryWrites, TenantState};

/// The server that tests share, each with a database of its own.
fn shared() -> &'static Mongod {
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    SERVER.get_or_init(|| Mongod::start(true))
}

/// Returns the URI of the shared server, and the name of a new database.
async fn database() -> (String, String) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let server = shared();
    (server.uri(), format!("t{}", COUNT.fetch_add(1, Ordering::SeqCst)))
}

async fn connect((uri, database): &(String, String)) -> MongoRegistry {
    MongoRegistry::connect(uri, database, MongoOptions::default()).await.unwrap()
}

async fn open() -> ((), MongoRegistry) {
    ((), connect(&database().await).await)
}

contract!(open().await);

/// The reason of a refusal that waiting does not cure.
fn operator<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    match outcome {
        Err(Error::NeedsOperator(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// The reason of a refusal that passes.
fn unavailable<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    match outcome {
        Err(Error::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}
