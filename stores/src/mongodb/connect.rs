//! From settings to a server that can keep what is promised, or an error that names the key to
//! change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Database};
use tokio::sync::Mutex;

use super::answer::describe;
use super::config::{Config, without_password};
use super::lazy::waiting;
use super::metrics::Metrics;
use super::schema;
use super::server::Server;
use crate::contract::{Result, StoreError};

/// Wire version of MongoDB 6.0.
const OLDEST_WIRE: i32 = 17;

/// The actions of a store that writes.
const ACTIONS: [&str; 6] = ["find", "insert", "update", "remove", "createCollection", "createIndex"];

/// The use that a store makes of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Writes are acknowledged by a majority, from the journal.
fn durably() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// Connects once, and makes what does not exist when the store writes.
///
/// # Errors
/// [`StoreError::Busy`] when no server answers, [`StoreError::NeedsOperator`] when an operator has
/// to change something.
pub(super) async fn connect(config: Config, metrics: Arc<Metrics>, access: Access) -> Result<Server> {
    let server = find(config, metrics, access).await?;
    match access {
        Access::Read => drop(server.check_version().await?),
        Access::Write => {
            server.check_privileges().await?;
            server.prepare().await?;
        }
    }
    Ok(server)
}

/// Finds a server that answers and can be used.
async fn find(config: Config, metrics: Arc<Metrics>, access: Access) -> Result<Server> {
    let shown = without_password(&config.uri);
    let unread =
        |error: &Error| StoreError::NeedsOperator(format!("cannot use mongodb.uri `{shown}`: {}", describe(error)));
    let mut options = ClientOptions::parse(&config.uri).await.map_err(|error| match *error.kind {
        ErrorKind::DnsResolve { .. } | ErrorKind::Io(_) => {
            StoreError::busy(waiting(&config, &format!("cannot look it up: {}", describe(&error))))
        }
        _ => unread(&error),
    })?;
    options.app_name = Some(config.app_name.clone());
    options.connect_timeout = Some(Duration::from_millis(config.connect_timeout_ms));
    options.server_selection_timeout = Some(Duration::from_millis(config.server_selection_timeout_ms));
    options.max_pool_size = Some(config.max_pool_size.max(1));
    options.write_concern = Some(durably());
    options.read_concern = Some(ReadConcern::local());
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    let client = Client::with_options(options).map_err(|error| unread(&error))?;
    if config.database.is_empty() || config.database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
        return Err(StoreError::NeedsOperator(format!(
            "mongodb.database `{}` is not a name of a database",
            config.database
        )));
    }
    let database = client.database(&config.database);
    let (is_prepared, in_question, preparing) = (AtomicBool::default(), AtomicBool::default(), Mutex::default());
    let server = Server { config, client, database, metrics, access, is_prepared, in_question, preparing };
    let hello = server.ask_server(&server.client.database("admin"), doc! { "hello": 1 }).await?;
    check_server(&hello, &shown)?;
    Ok(server)
}

fn check_server(hello: &Document, shown: &str) -> Result<()> {
    let sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !sharded && !hello.contains_key("setName") {
        return Err(StoreError::NeedsOperator(format!(
            "the server of mongodb.uri `{shown}` is not a replica set, which its acknowledgements and transactions need: start \
             mongod with --replSet rs0 and run rs.initiate() once"
        )));
    }
    if hello.get_i32("maxWireVersion").unwrap_or_default() < OLDEST_WIRE {
        return Err(StoreError::NeedsOperator(format!(
            "the server of mongodb.uri `{shown}` is older than MongoDB 6.0: upgrade it"
        )));
    }
    Ok(())
}

impl Server {
    /// Runs a command while connecting; an error names the key to change.
    pub(super) async fn ask_server(&self, database: &Database, command: Document) -> Result<Document> {
        self.send("start", database.run_command(command)).await.map_err(|error| self.at_start(&error))
    }

    /// Returns the meaning of an error before anything worked.
    pub(super) fn at_start(&self, error: &Error) -> StoreError {
        let shown = without_password(&self.config.uri);
        let said = describe(error);
        let refused = matches!(&*error.kind, ErrorKind::Command(command) if command.code == 18);
        match &*error.kind {
            ErrorKind::Authentication { .. } => StoreError::NeedsOperator(format!(
                "the server does not accept the user or the password of mongodb.uri `{shown}` (authSource is the database \
                 that holds the user): {said}"
            )),
            _ if refused => {
                StoreError::NeedsOperator(format!("wrong user or password in mongodb.uri `{shown}`: {said}"))
            }
            ErrorKind::Command(command) if command.code == 13 => StoreError::NeedsOperator(format!(
                "the user of mongodb.uri `{shown}` may not use the database of mongodb.database `{}`: {said}; grant it the role \
                 readWrite there, or name a user",
                self.config.database
            )),
            ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) => StoreError::busy(waiting(
                &self.config,
                &format!(
                    "no primary answers within mongodb.server_selection_timeout_ms = {}: {}",
                    self.config.server_selection_timeout_ms,
                    cause(&said)
                ),
            )),
            _ => match super::answer::answer(error) {
                StoreError::Busy { reason, .. } => StoreError::busy(waiting(&self.config, &reason)),
                other => StoreError::NeedsOperator(format!("mongodb.uri `{shown}`: {other}")),
            },
        }
    }

    /// Refuses a user who may not write, now and not when the first block is written.
    pub(super) async fn check_privileges(&self) -> Result<()> {
        let status = self.ask_server(&self.database, doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
        let info = status.get_document("authInfo").cloned().unwrap_or_default();
        if info.get_array("authenticatedUsers").is_ok_and(Vec::is_empty) {
            return self.check_without_user().await;
        }
        let Ok(privileges) = info.get_array("authenticatedUserPrivileges") else { return Ok(()) };
        let mut missing = BTreeSet::new();
        for collection in schema::COLLECTIONS {
            let name = self.name(collection);
            let held: BTreeSet<&str> = privileges
                .iter()
                .filter_map(Bson::as_document)
                .filter(|p| covers(p, &self.config.database, &name))
                .filter_map(|p| p.get_array("actions").ok())
                .flatten()
                .filter_map(Bson::as_str)
                .collect();
            missing.extend(ACTIONS.into_iter().filter(|action| !held.contains(action) && !held.contains("anyAction")));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        Err(StoreError::NeedsOperator(format!(
            "the user of mongodb.uri `{}` may not {missing} in the database of mongodb.database `{}`: grant it the role readWrite there",
            without_password(&self.config.uri),
            self.config.database
        )))
    }

    /// Without a user the server either asks for none, or refuses everything.
    async fn check_without_user(&self) -> Result<()> {
        let look = doc! { "find": self.name(schema::SCHEMA), "limit": 1, "singleBatch": true };
        self.ask_server(&self.database, look).await.map(drop)
    }
}

fn covers(privilege: &Document, database: &str, collection: &str) -> bool {
    let Ok(resource) = privilege.get_document("resource") else { return false };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return true;
    }
    let fits = |key: &str, wanted: &str| resource.get_str(key).is_ok_and(|held| held.is_empty() || held == wanted);
    fits("db", database) && fits("collection", collection)
}

/// Returns the first cause in the driver's account of all servers.
fn cause(said: &str) -> String {
    let of = |mark: &str| said.split(mark).nth(1).and_then(|rest| rest.split([',', '}']).next());
    match of("I/O error: ").or_else(|| of("Error: ")) {
        Some(cause) => cause.trim().to_owned(),
        None => said.split(" Topology").next().unwrap_or(said).to_owned(),
    }
}
