mod answers;
mod encrypted;
mod faults;
mod guard;
mod kill;
mod schema;
mod writers;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::registry::contract::{contract, group, key, origin, secret, tenant};
use crate::registry::servers::Postgres;
use crate::registry::{Created, Origin, Owner, RegistryWrites, TenantState};

/// The server that tests share, each with a database of its own.
fn shared() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(&["fsync=off"]))
}

/// Returns the name and the URL of a new database.
async fn database() -> (String, String) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("t{}", COUNT.fetch_add(1, Ordering::SeqCst));
    let url = shared().database(&name).await;
    (name, url)
}

async fn connect(url: &str) -> PostgresRegistry {
    PostgresRegistry::connect(url, PostgresOptions::default()).await.unwrap()
}

async fn open() -> ((), PostgresRegistry) {
    ((), connect(&database().await.1).await)
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
