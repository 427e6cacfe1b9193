//! Deletion of all that is held of a tenant, in slices of some documents.

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;

use super::dead_letters::TRIMMED;
use super::schema::{BLOCKS, BY_TIME, DEVICES, EXPIRED, LETTERS, RETAINED, SCHEMA};
use super::server::Server;
use super::{LONG_REQUEST, MongoStore, decode};
use crate::contract::{Result, TenantCounts, TenantData};

#[async_trait]
impl TenantData for MongoStore {
    async fn count_of(&self, tenant: &str) -> Result<TenantCounts> {
        let server = self.server().await?;
        Ok(TenantCounts {
            readings: server.readings_of(tenant).await?,
            latest_states: server.documents_of(DEVICES, tenant).await?,
            dead_letters: server.documents_of(LETTERS, tenant).await?,
            retained_messages: server.documents_of(RETAINED, tenant).await?,
        })
    }

    async fn size_of(&self, tenant: &str) -> Result<u64> {
        let server = self.server().await?;
        let size = server.size_of(tenant).await;
        if server.repaired(&size).await? { server.size_of(tenant).await } else { size }
    }

    async fn delete_some_of(&self, tenant: &str, most: usize) -> Result<bool> {
        let server = self.server().await?;
        let of_tenant = doc! { "w": tenant };
        if server.delete_some(BLOCKS, of_tenant, Some(BY_TIME), most).await? {
            return Ok(true);
        }
        for collection in [DEVICES, LETTERS, RETAINED] {
            if server.delete_some(collection, keys_of(tenant), None, most).await? {
                return Ok(true);
            }
        }
        // Its counts.
        let counts = [(EXPIRED, tenant.to_owned()), (SCHEMA, format!("{TRIMMED}{tenant}"))];
        for (collection, id) in counts {
            let collection = server.collection(collection);
            server
                .send("delete", collection.delete_one(doc! { "_id": id }))
                .await
                .map_err(|error| server.failed(&error))?;
        }
        Ok(false)
    }

    async fn expire_of(&self, tenant: &str, before: Nanos) -> Result<u64> {
        self.server().await?.expire_tenant(tenant, before).await
    }
}

/// Selects documents whose key begins with the tenant: `$` follows `#`.
fn keys_of(tenant: &str) -> Document {
    doc! { "_id": { "$gt": format!("{tenant}#"), "$lt": format!("{tenant}$") } }
}

impl Server {
    /// Counts the readings of a tenant, from an index.
    async fn readings_of(&self, tenant: &str) -> Result<u64> {
        let of_tenant = doc! { "$match": { "w": tenant } };
        let pipeline = [of_tenant, doc! { "$group": { "_id": "$w", "n": { "$sum": "$n" } } }];
        Ok(self.sums(BLOCKS, pipeline, Some(BY_TIME)).await?.into_values().sum())
    }

    /// Sums the bytes of a tenant's readings, from an index: the server takes one to two seconds
    /// for each million blocks.
    async fn size_of(&self, tenant: &str) -> Result<u64> {
        // A number of 8 bytes with a name of 8 bytes in each reading.
        let unknown = model::size::READING + model::size::NUMBER + 8;
        let unknown = doc! { "$multiply": ["$n", i64::try_from(unknown).unwrap_or_default()] };
        let size = doc! { "$sum": { "$ifNull": ["$b", unknown] } };
        let pipeline = [doc! { "$match": { "w": tenant } }, doc! { "$group": { "_id": "$w", "n": size } }];
        Ok(self.sums(BLOCKS, pipeline, Some(BY_TIME)).await?.into_values().sum())
    }

    async fn documents_of(&self, collection: &str, tenant: &str) -> Result<u64> {
        let documents = self.collection(collection);
        let count = documents.count_documents(keys_of(tenant)).hint(Hint::Name("_id_".into()));
        self.send_within(LONG_REQUEST, "count", count).await.map_err(|error| self.failed(&error))
    }

    /// Deletes some documents that a filter selects; false when there were none.
    async fn delete_some(&self, of: &str, filter: Document, hint: Option<&str>, most: usize) -> Result<bool> {
        let collection = self.collection(of);
        let hint = Hint::Name(hint.unwrap_or("_id_").into());
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let request = collection.find(filter).hint(hint).projection(doc! { "_id": 1 }).limit(limit);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let read = |document: &mongodb::bson::RawDocument| Ok(decode::key(document).to_owned());
        let keys: Vec<String> = self.gather(self.request_limit(), cursor, read).await?;
        if keys.is_empty() {
            return Ok(false);
        }
        let request = collection.delete_many(doc! { "_id": { "$in": keys } }).hint(Hint::Name("_id_".into()));
        self.send("delete", request).await.map_err(|error| self.failed(&error))?;
        Ok(true)
    }
}
