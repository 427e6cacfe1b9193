//! Collections, indexes and the view, and the version of all of them.

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::IndexOptions;

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

/// Index of `blocks` by device and time. It holds the last time and the rows too, so that blocks
/// outside of a range are left out, and readings are counted, from the index alone. Its beginning
/// is a shard key.
pub(super) const BY_TIME: &str = "by_device_and_time";
/// Index of the few blocks that cover a long time.
pub(super) const LONG_BLOCKS: &str = "long_blocks";

/// The version that this release makes and reads.
const VERSION: i32 = 1;

fn index(keys: Document, name: &str, filter: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder().name(name.to_owned()).partial_filter_expression(filter).build();
    IndexModel::builder().keys(keys).options(options).build()
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

    /// Makes the collections, indexes and the view that do not exist.
    pub(super) async fn prepare(&self) -> Result<()> {
        if self.check_version().await? == Some(VERSION) {
            return Ok(());
        }
        for collection in COLLECTIONS {
            self.create(doc! { "create": self.name(collection) }).await?;
        }
        self.create(doc! { "create": self.name(READINGS), "viewOn": self.name(BLOCKS), "pipeline": view() }).await?;
        let long = Some(doc! { "l": true });
        let blocks = [
            index(doc! { "w": 1, "d": 1, "t0": 1, "t1": 1, "n": 1 }, BY_TIME, None),
            index(doc! { "w": 1, "d": 1, "t1": 1, "t0": 1 }, LONG_BLOCKS, long),
        ];
        let made = self.send("start", self.collection(BLOCKS).create_indexes(blocks)).await;
        made.map_err(|error| self.at_start(&error))?;
        let made = self
            .send("start", self.collection(LETTERS).create_indexes([index(doc! { "w": 1 }, "by_tenant", None)]))
            .await;
        made.map_err(|error| self.at_start(&error))?;
        let note = self.database.collection::<Document>(&self.name(SCHEMA));
        let note = note.update_one(doc! { "_id": "weir" }, doc! { "$max": { "version": VERSION } }).upsert(true);
        self.send("start", note).await.map_err(|error| self.at_start(&error))?;
        Ok(())
    }

    async fn create(&self, mut command: Document) -> Result<()> {
        command.insert("writeConcern", doc! { "w": "majority", "j": true });
        match self.send("start", self.database.run_command(command)).await {
            Err(error) if !is_there(&error) => Err(self.at_start(&error)),
            _ => Ok(()),
        }
    }
}
