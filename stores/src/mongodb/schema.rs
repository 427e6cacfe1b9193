//! Collections, indexes and the view, and the version of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::IndexOptions;

use super::LONG_REQUEST;
use super::connect::Access;
use super::server::Server;
use crate::contract::{Result, StoreError};

pub(super) const BLOCKS: &str = "blocks";
pub(super) const READINGS: &str = "readings";
pub(super) const DEVICES: &str = "devices";
pub(super) const LETTERS: &str = "dead_letters";
pub(super) const RETAINED: &str = "retained";
pub(super) const EXPIRED: &str = "expired";
pub(super) const SCHEMA: &str = "schema";

/// The collections that are written to.
pub(super) const COLLECTIONS: [&str; 6] = [BLOCKS, DEVICES, LETTERS, RETAINED, EXPIRED, SCHEMA];

/// The collections that hold what was written.
pub(super) const HOLDING: [&str; 5] = [BLOCKS, DEVICES, LETTERS, RETAINED, EXPIRED];

/// Index of `blocks` by device and time. It holds the last time, the rows and the bytes too, so
/// that blocks outside of a range are left out, and readings and their bytes are counted, from the
/// index alone. Its beginning is a shard key. Earlier releases have `by_device_and_time`, without
/// the bytes: it stays where it is, and nothing uses it.
pub(super) const BY_TIME: &str = "by_device_time_and_size";
/// Index of the few blocks that cover a long time.
pub(super) const LONG_BLOCKS: &str = "long_blocks";

/// The version that this release makes and reads.
const VERSION: i32 = 1;

fn index(keys: Document, name: &str, filter: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder().name(name.to_owned()).partial_filter_expression(filter).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Returns the indexes of each collection that has some.
fn indexes() -> [(&'static str, Vec<IndexModel>); 2] {
    let long = Some(doc! { "l": true });
    let blocks = vec![
        index(doc! { "w": 1, "d": 1, "t0": 1, "t1": 1, "n": 1, "b": 1 }, BY_TIME, None),
        index(doc! { "w": 1, "d": 1, "t1": 1, "t0": 1 }, LONG_BLOCKS, long),
    ];
    [(BLOCKS, blocks), (LETTERS, vec![index(doc! { "w": 1 }, "by_tenant", None)])]
}

/// Returns the pipeline of the view: one document per reading, for operators and their tools.
fn view() -> Vec<Document> {
    let nth = |array: &str| doc! { "$arrayElemAt": [array, "$row"] };
    let date = |field: &str| doc! { "$toDate": { "$divide": [field, 1_000_000_i64] } };
    vec![
        doc! { "$project": {
            "tenant": "$w", "device": "$d", "t0": 1, "t1": 1, "t": 1, "r": 1, "s": 1,
            "row": { "$range": [0, "$n"] }, "v": { "$objectToArray": "$v" },
        } },
        doc! { "$unwind": "$row" },
        doc! { "$project": {
            "_id": { "$concat": ["$_id", "#", { "$toString": "$row" }] },
            "tenant": 1, "device": 1, "t0": 1, "t1": 1,
            "time_ns": nth("$t"), "received_ns": nth("$r"), "sequence": nth("$s"),
            "values": { "$arrayToObject": { "$filter": {
                "input": { "$map": { "input": "$v", "as": "c", "in": {
                    "k": "$$c.k", "v": { "$arrayElemAt": ["$$c.v", "$row"] },
                } } },
                "cond": { "$ne": ["$$this.v", null] },
            } } },
        } },
        doc! { "$addFields": { "time": date("$time_ns"), "received": date("$received_ns") } },
    ]
}

/// True when another process has made it.
fn is_there(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(command) if command.code == 48)
}

impl Server {
    /// Returns the version of the database; `None` in a new one.
    ///
    /// # Errors
    /// [`StoreError::NeedsOperator`] when a later release has made it.
    pub(super) async fn check_version(&self) -> Result<Option<i32>> {
        let look = self.database.collection::<Document>(&self.name(SCHEMA));
        let found = self.send("start", look.find_one(doc! { "_id": "weir" })).await;
        let Some(found) = found.map_err(|error| self.at_start(&error))? else { return Ok(None) };
        let version = found.get_i32("version").unwrap_or_default();
        if version > VERSION {
            return Err(StoreError::NeedsOperator(format!(
                "the database of mongodb.database `{}` has schema version {version}, this release knows versions up to {VERSION}: \
                 run the release that made it, or a later one",
                self.config.database
            )));
        }
        Ok(Some(version))
    }

    /// Makes the collections, indexes and the view that do not exist, whichever version the
    /// database has. What was there before and is missing is named in the log.
    pub(super) async fn prepare(&self) -> Result<()> {
        let _one_at_a_time = self.preparing.lock().await;
        self.in_question.store(false, Ordering::Relaxed);
        let version = self.check_version().await?;
        let known = version.is_some() || self.is_prepared.load(Ordering::Relaxed);
        let held = self.collections().await?;
        for collection in COLLECTIONS.into_iter().filter(|collection| !held.contains_key(*collection)) {
            self.note_missing(known, "collection", collection, "it is made again, empty");
            self.create(doc! { "create": self.name(collection) }).await?;
        }
        if !held.contains_key(READINGS) {
            self.note_missing(known, "view", READINGS, "it is made again");
            let create = doc! { "create": self.name(READINGS), "viewOn": self.name(BLOCKS), "pipeline": view() };
            self.create(create).await?;
        }
        for (collection, indexes) in indexes() {
            self.make_indexes(collection, indexes, known && held.contains_key(collection)).await?;
        }
        if version != Some(VERSION) {
            let note = self.database.collection::<Document>(&self.name(SCHEMA));
            let note = note.update_one(doc! { "_id": "weir" }, doc! { "$max": { "version": VERSION } }).upsert(true);
            self.send("start", note).await.map_err(|error| self.at_start(&error))?;
        }
        self.is_prepared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the schema again when the answer puts it in question; true when the request is to be
    /// repeated.
    ///
    /// # Errors
    /// As [`Server::prepare`].
    pub(super) async fn repaired<T>(&self, answer: &Result<T>) -> Result<bool> {
        if answer.is_ok() || self.access == Access::Read || !self.in_question.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.prepare().await?;
        Ok(true)
    }

    /// Returns the collections and the view that exist, each with the identity that the server gave
    /// to it.
    pub(super) async fn collections(&self) -> Result<BTreeMap<&'static str, Option<Arc<str>>>> {
        let all = COLLECTIONS.into_iter().chain([READINGS]);
        let names: BTreeMap<String, &'static str> = all.map(|name| (self.name(name), name)).collect();
        let filter = doc! { "name": { "$in": names.keys().collect::<Vec<_>>() } };
        let cursor = self.send("start", self.database.list_collections().filter(filter)).await;
        let mut cursor = cursor.map_err(|error| self.at_start(&error))?;
        let mut found = BTreeMap::new();
        while self.send("start", cursor.advance()).await.map_err(|error| self.at_start(&error))? {
            let one = cursor.deserialize_current().map_err(|error| self.at_start(&error))?;
            let id = one.info.uuid.map(|uuid| uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            found.extend(names.get(&one.name).map(|name| (*name, id.map(Arc::from))));
        }
        Ok(found)
    }

    async fn make_indexes(&self, collection: &'static str, indexes: Vec<IndexModel>, known: bool) -> Result<()> {
        let of_collection = self.collection(collection);
        // A user who may not list them may still make them: one that exists is left as it is.
        if let Ok(held) = self.send("start", of_collection.list_index_names()).await {
            let names = indexes.iter().filter_map(|index| index.options.as_ref()?.name.as_ref());
            for name in names.filter(|name| !held.contains(name)) {
                self.note_missing(known, "index", &format!("{name}` of `{collection}"), "it is made again");
            }
        }
        let made = self.send_within(LONG_REQUEST, "start", of_collection.create_indexes(indexes)).await;
        made.map(drop).map_err(|error| self.at_start(&error))
    }

    fn note_missing(&self, known: bool, kind: &str, name: &str, done: &str) {
        if known {
            let database = &self.config.database;
            tracing::error!(database, "the {kind} `{name}` is missing from MongoDB although Weir made it: {done}");
        }
    }

    async fn create(&self, mut command: Document) -> Result<()> {
        command.insert("writeConcern", doc! { "w": "majority", "j": true });
        match self.send("start", self.database.run_command(command)).await {
            Err(error) if !is_there(&error) => Err(self.at_start(&error)),
            _ => Ok(()),
        }
    }
}
