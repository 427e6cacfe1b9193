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
use super::config::{Config, hosts, without_password};
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
        match self.send("start", database.run_command(command)).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.with_tls(&error, self.at_start(&error)).await),
        }
    }

    /// Returns the meaning of an error before anything worked.
    pub(super) fn at_start(&self, error: &Error) -> StoreError {
        match self.meaning(error) {
            error @ (StoreError::Busy { .. } | StoreError::NeedsOperator(_)) => error,
            other => {
                StoreError::NeedsOperator(format!("mongodb.uri `{}`: {other}", without_password(&self.config.uri)))
            }
        }
    }

    /// Returns the meaning of an error. One that an operator has to cure, or wait for, names the
    /// key.
    pub(super) fn meaning(&self, error: &Error) -> StoreError {
        let said = describe(error);
        match &*error.kind {
            ErrorKind::Authentication { .. } => self.bad_user(&said),
            // The pool of connections is emptied by the first refusal, which other requests report.
            ErrorKind::ConnectionPoolCleared { message, .. } if message.contains("Authentication failed") => {
                self.bad_user(message.rsplit("Kind: ").next().unwrap_or(message))
            }
            ErrorKind::ServerSelection { .. } => StoreError::busy(waiting(
                &self.config,
                &format!(
                    "no primary answers within mongodb.server_selection_timeout_ms = {}: {}",
                    self.config.server_selection_timeout_ms,
                    cause(&said)
                ),
            )),
            ErrorKind::Io(_) => StoreError::busy(waiting(&self.config, &cause(&said))),
            ErrorKind::Command(command) => self.named(command.code, super::answer::answer(error)),
            _ => self.named(0, super::answer::answer(error)),
        }
    }

    /// Returns the meaning of an answer with the key to change; `code` is the server's, 0 without
    /// one.
    pub(super) fn named(&self, code: i32, meaning: StoreError) -> StoreError {
        match meaning {
            StoreError::Busy { reason, retry_after } => {
                StoreError::Busy { reason: waiting(&self.config, &reason), retry_after }
            }
            // UserNotFound, AuthenticationFailed, AtlasError.
            StoreError::NeedsOperator(said) if matches!(code, 11 | 18 | 8000) => self.bad_user(&said),
            StoreError::NeedsOperator(said) => {
                let shown = without_password(&self.config.uri);
                let Config { database, .. } = &self.config;
                StoreError::NeedsOperator(match code {
                    13 => format!(
                        "the user of mongodb.uri `{shown}` may not use the database of mongodb.database `{database}`: \
                         {said}; grant it the role readWrite there, or name a user"
                    ),
                    85 | 86 => format!(
                        "the database of mongodb.database `{database}` has an index of its own: {said}; drop that index, \
                         or set another mongodb.database or mongodb.collection_prefix"
                    ),
                    20 | 59 | 73 | 166 => format!(
                        "the database of mongodb.database `{database}` cannot be used as Weir does: {said}; set another \
                         mongodb.database, or a mongodb.uri of MongoDB 6.0 or later"
                    ),
                    _ => format!("mongodb.uri `{shown}`: {said}; check its options"),
                })
            }
            other => other,
        }
    }

    fn bad_user(&self, said: &str) -> StoreError {
        let shown = without_password(&self.config.uri);
        StoreError::NeedsOperator(format!(
            "the server does not accept the user or the password of mongodb.uri `{shown}` (authSource is the database that \
             holds the user): {said}"
        ))
    }

    /// Adds that the port and `mongodb.uri` differ about TLS, when a connection was made and
    /// failed.
    async fn with_tls(&self, error: &Error, meaning: StoreError) -> StoreError {
        let reached = matches!(&*error.kind, ErrorKind::ServerSelection { message, .. } if message.contains("Error:"))
            || matches!(*error.kind, ErrorKind::Io(_));
        let StoreError::Busy { reason, retry_after } = meaning else { return meaning };
        let uri = &self.config.uri;
        if !reached || uri.starts_with("mongodb+srv:") {
            return StoreError::Busy { reason, retry_after };
        }
        let options = uri.split_once('?').map_or("", |(_, options)| options).to_lowercase();
        let tls = options.split('&').any(|option| matches!(option, "tls=true" | "ssl=true"));
        let first = hosts(uri).split(',').next().unwrap_or_default();
        let (host, port) = crate::tls::host_and_port(first, 27_017);
        let reason = match crate::tls::differs(host, port, tls).await {
            Some(difference) if tls => {
                format!("{reason}; {}: enable TLS there, or take tls=true out of mongodb.uri", difference.words())
            }
            Some(difference) => {
                format!("{reason}; {}: add tls=true to the options of mongodb.uri", difference.words())
            }
            None => reason,
        };
        StoreError::Busy { reason, retry_after }
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
