//! The server, and the collections of the registry on it.

use std::future::IntoFuture;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::Result as DbResult;
use mongodb::options::{
    Acknowledgment, ClientOptions, IndexOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};
use tokio::time::timeout;

use super::MongoOptions;
use super::answer::meaning;
use crate::registry::Error;
use crate::registry::transaction::{Outcome, Stop};

/// Wire version of MongoDB 6.0.
const OLDEST_WIRE: i32 = 17;
/// Version of the documents and indexes.
pub(super) const SCHEMA: i64 = 3;
const NAMESPACE_EXISTS: i32 = 48;

pub(super) struct Store {
    pub(super) client: Client,
    database: Database,
    prefix: String,
    limit: Duration,
    pub(super) shown: String,
}

/// A majority has it, in the journal.
pub(super) fn durably() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

impl Store {
    /// Reads the URI; connections are made when they are used.
    pub(super) async fn new(uri: &str, database: &str, options: &MongoOptions) -> Result<Self, Error> {
        let shown = format!("{}/{database}", hosts(uri));
        let invalid = |error: &dyn std::fmt::Display| {
            Error::NeedsOperator(format!("cannot use the URI of the MongoDB server {shown}: {error}"))
        };
        let mut settings = ClientOptions::parse(uri).await.map_err(|error| match meaning(&error, &shown) {
            Stop::Lost(error) => error,
            _ => invalid(&error),
        })?;
        settings.app_name.get_or_insert_with(|| "weir".into());
        settings.connect_timeout = Some(options.request_timeout);
        settings.server_selection_timeout = Some(options.request_timeout);
        settings.max_pool_size = Some(options.max_connections.max(1));
        settings.write_concern = Some(durably());
        settings.read_concern = Some(ReadConcern::majority());
        settings.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let client = Client::with_options(settings).map_err(|error| invalid(&error))?;
        if database.is_empty() || database.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
            return Err(Error::NeedsOperator(format!("{database:?} is not a name of a database of MongoDB")));
        }
        let database = client.database(database);
        let prefix = format!("{}registry_", options.collection_prefix);
        // The driver waits for a server first, then for the answer.
        Ok(Self { client, database, prefix, limit: options.request_timeout * 2, shown })
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(&format!("{}{name}", self.prefix))
    }

    pub(super) fn tenants(&self) -> Collection<Document> {
        self.collection("tenants")
    }

    pub(super) fn credentials(&self) -> Collection<Document> {
        self.collection("credentials")
    }

    pub(super) fn groups(&self) -> Collection<Document> {
        self.collection("groups")
    }

    pub(super) fn group_members(&self) -> Collection<Document> {
        self.collection("group_members")
    }

    pub(super) fn devices(&self) -> Collection<Document> {
        self.collection("devices")
    }

    pub(super) fn requests(&self) -> Collection<Document> {
        self.collection("requests")
    }

    pub(super) fn audit(&self) -> Collection<Document> {
        self.collection("audit")
    }

    pub(super) fn heads(&self) -> Collection<Document> {
        self.collection("audit_heads")
    }

    pub(super) fn control(&self) -> Collection<Document> {
        self.collection("control")
    }

    /// The number of the control log, the fingerprints of peppers, the version of the schema.
    pub(super) fn state(&self) -> Collection<Document> {
        self.collection("state")
    }

    /// The sessions that make changes.
    pub(super) fn holders(&self) -> Collection<Document> {
        self.collection("sessions")
    }

    /// Waits for the answer to a request, for a bounded time.
    pub(super) async fn within<T>(&self, request: impl IntoFuture<Output = DbResult<T>>) -> Outcome<T> {
        self.answer(request).await?.map_err(|error| meaning(&error, &self.shown))
    }

    /// As [`Store::within`], with the error as it is.
    pub(super) async fn answer<T>(&self, request: impl IntoFuture<Output = DbResult<T>>) -> Outcome<DbResult<T>> {
        timeout(self.limit, request.into_future()).await.map_err(|_| {
            Stop::Lost(Error::Unavailable(format!(
                "{} does not answer within {} ms: check the server and the network before it",
                self.shown,
                self.limit.as_millis()
            )))
        })
    }

    /// Checks the server, and makes the collections and indexes that do not exist.
    pub(super) async fn prepare(&self) -> Outcome<()> {
        let hello = self.within(self.client.database("admin").run_command(doc! { "hello": 1 })).await?;
        self.check_server(&hello)?;
        let known = self.within(self.state().find_one(doc! { "_id": "schema" })).await?;
        let version = known.as_ref().and_then(|row| row.get_i64("version").ok());
        match version {
            Some(SCHEMA) => return Ok(()),
            Some(newer) if newer > SCHEMA => {
                return Err(Error::NeedsOperator(format!(
                    "{}: its registry has version {newer}, this release of Weir knows version {SCHEMA}: run the \
                     release that changed it, or restore a backup from before",
                    self.shown
                ))
                .into());
            }
            _ => {}
        }
        for collection in [
            self.tenants(),
            self.credentials(),
            self.groups(),
            self.group_members(),
            self.devices(),
            self.requests(),
            self.audit(),
            self.heads(),
            self.control(),
            self.state(),
            self.holders(),
        ] {
            let made = self.answer(self.database.create_collection(collection.name())).await?;
            if let Err(error) = made
                && super::answer::code(&error) != NAMESPACE_EXISTS
            {
                return Err(meaning(&error, &self.shown));
            }
        }
        let index = |keys: Document, unique: bool| {
            IndexModel::builder().keys(keys).options(IndexOptions::builder().unique(unique).build()).build()
        };
        let of_devices = index(doc! { "tenant": 1, "device": 1, "_id": 1 }, false);
        let of_tenants = index(doc! { "tenant": 1, "class": 1, "_id": 1 }, false);
        self.within(self.credentials().create_indexes([of_devices, of_tenants])).await?;
        self.within(self.groups().create_index(index(doc! { "tenant": 1, "id": 1 }, true))).await?;
        let members = index(doc! { "tenant": 1, "group": 1, "device": 1 }, true);
        self.within(self.group_members().create_index(members)).await?;
        let devices = index(doc! { "tenant": 1, "id": 1 }, true);
        let by_term = index(doc! { "tenant": 1, "terms": 1, "id": 1 }, false);
        self.within(self.devices().create_indexes([devices, by_term])).await?;
        self.within(self.requests().create_index(index(doc! { "tenant": 1, "at": 1 }, false))).await?;
        self.within(self.audit().create_index(index(doc! { "tenant": 1, "sequence": 1 }, true))).await?;
        let version = doc! { "$max": { "version": SCHEMA } };
        self.within(self.state().update_one(doc! { "_id": "schema" }, version).upsert(true)).await?;
        Ok(())
    }

    fn check_server(&self, hello: &Document) -> Result<(), Error> {
        let sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
        if !sharded && !hello.contains_key("setName") {
            return Err(Error::NeedsOperator(format!(
                "{} is not a replica set, and has no transactions, without which a change and its audit event could be \
                 torn apart: start mongod with --replSet rs0 and run rs.initiate() once; one member is enough",
                self.shown
            )));
        }
        if hello.get_i32("maxWireVersion").unwrap_or_default() < OLDEST_WIRE {
            return Err(Error::NeedsOperator(format!("{} is older than MongoDB 6.0: upgrade it", self.shown)));
        }
        Ok(())
    }
}

/// Returns the servers that a connection string names, without user and password.
fn hosts(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::hosts;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(hosts("mongodb://weir:se@cret@db1,db2/?tls=true"), "db1,db2");
        assert_eq!(hosts("mongodb+srv://cluster.example"), "cluster.example");
        assert_eq!(hosts("nonsense:se@cret"), "");
    }
}
