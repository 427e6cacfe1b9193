//! From settings to a server that can keep what is promised, or a sentence that says which key to change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern};
use mongodb::{Client, Database};

use super::answer::{busy, describe};
use super::config::{Config, without_password};
use super::metrics::Metrics;
use super::{Inner, schema};
use crate::contract::{Result, StoreError};

/// Wire version of MongoDB 6.0.
const OLDEST_WIRE: i32 = 17;

/// What a store that writes does.
const ACTIONS: [&str; 6] = ["find", "insert", "update", "remove", "createCollection", "createIndex"];

/// By a majority, and in the journal.
pub(super) fn durably() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// A store whose server answered and is one that can be used.
pub(super) async fn connect(config: Config, metrics: Arc<Metrics>) -> Result<Inner> {
    let shown = without_password(&config.uri);
    let unread = |error: &Error| StoreError::Paused(format!("cannot use mongodb.uri `{shown}`: {}", describe(error)));
    let mut options = ClientOptions::parse(&config.uri).await.map_err(|error| match *error.kind {
        ErrorKind::DnsResolve { .. } | ErrorKind::Io(_) => {
            busy(format!("cannot look up mongodb.uri `{shown}`: {}", describe(&error)))
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
        return Err(StoreError::Paused(format!("mongodb.database `{}` is no name of a database", config.database)));
    }
    let database = client.database(&config.database);
    let inner = Inner { config, client, database, metrics };
    let hello = inner.ask_server(&inner.client.database("admin"), doc! { "hello": 1 }).await?;
    check_server(&hello, &shown)?;
    Ok(inner)
}

fn check_server(hello: &Document, shown: &str) -> Result<()> {
    let sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !sharded && !hello.contains_key("setName") {
        return Err(StoreError::Paused(format!(
            "the server of mongodb.uri `{shown}` is no replica set, which its acknowledgements and transactions need: start \
             mongod with --replSet rs0 and run rs.initiate() once"
        )));
    }
    if hello.get_i32("maxWireVersion").unwrap_or_default() < OLDEST_WIRE {
        return Err(StoreError::Paused(format!(
            "the server of mongodb.uri `{shown}` is older than MongoDB 6.0: upgrade it"
        )));
    }
    Ok(())
}

impl Inner {
    /// Runs a command at the start; what goes wrong is said with the key to change.
    pub(super) async fn ask_server(&self, database: &Database, command: Document) -> Result<Document> {
        self.send("start", database.run_command(command)).await.map_err(|error| self.at_start(&error))
    }

    /// What an error means before anything worked.
    pub(super) fn at_start(&self, error: &Error) -> StoreError {
        let shown = without_password(&self.config.uri);
        let said = describe(error);
        let refused = matches!(&*error.kind, ErrorKind::Command(command) if command.code == 18);
        match &*error.kind {
            ErrorKind::Authentication { .. } => StoreError::Paused(format!(
                "the server does not accept the user or the password of mongodb.uri `{shown}` (authSource is the database \
                 that holds the user): {said}"
            )),
            _ if refused => StoreError::Paused(format!("wrong user or password in mongodb.uri `{shown}`: {said}")),
            ErrorKind::Command(command) if command.code == 13 => StoreError::Paused(format!(
                "the user of mongodb.uri `{shown}` may not use the database of mongodb.database `{}`: {said}; grant it the role \
                 readWrite there, or name a user",
                self.config.database
            )),
            ErrorKind::ServerSelection { .. } | ErrorKind::Io(_) => busy(format!(
                "no server that takes writes answers at mongodb.uri `{shown}` within mongodb.server_selection_timeout_ms = {}: {}",
                self.config.server_selection_timeout_ms,
                cause(&said)
            )),
            _ => match super::answer::answer(error) {
                StoreError::Busy { reason, .. } => busy(format!("mongodb.uri `{shown}`: {reason}")),
                other => StoreError::Paused(format!("mongodb.uri `{shown}`: {other}")),
            },
        }
    }

    /// Refuses a user who could not write, now and not when the first block comes.
    pub(super) async fn check_privileges(&self) -> Result<()> {
        let status = self.ask_server(&self.database, doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
        let info = status.get_document("authInfo").cloned().unwrap_or_default();
        if info.get_array("authenticatedUsers").is_ok_and(Vec::is_empty) {
            return self.check_open_door().await;
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
        Err(StoreError::Paused(format!(
            "the user of mongodb.uri `{}` may not {missing} in the database of mongodb.database `{}`: grant it the role readWrite there",
            without_password(&self.config.uri),
            self.config.database
        )))
    }

    /// Nobody is logged in: either the server asks nobody, or it will refuse everything.
    async fn check_open_door(&self) -> Result<()> {
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

/// The first cause in the driver's account of all servers.
fn cause(said: &str) -> String {
    let of = |mark: &str| said.split(mark).nth(1).and_then(|rest| rest.split([',', '}']).next());
    match of("I/O error: ").or_else(|| of("Error: ")) {
        Some(cause) => cause.trim().to_owned(),
        None => said.split(" Topology").next().unwrap_or(said).to_owned(),
    }
}
