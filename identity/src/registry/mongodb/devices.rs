//! Devices. The terms of each are a list beside its row, of which the server keeps an index.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};

use super::MongoRegistry;
use super::rows::{MongoRows, body, json, signed};
use crate::registry::device::{DeviceChange, in_order};
use crate::registry::device_search::{behind, terms};
use crate::registry::transaction::{DeviceRows, Outcome};
use crate::registry::{Device, DeviceRegistry, Result};

fn key(tenant: &str, id: &str) -> Document {
    doc! { "tenant": tenant, "id": id }
}

/// Returns the fields of a row beside those of its key.
fn fields(device: &Device) -> Document {
    doc! { "terms": terms(device).into_iter().collect::<Vec<_>>(), "body": json(device) }
}

fn read(shown: &str, rows: &[Document]) -> Result<Vec<Device>> {
    rows.iter().map(|row| body(shown, "a device", row)).collect()
}

/// Id of the count of the devices of a tenant, among the values of the registry.
fn count_id(tenant: &str) -> String {
    format!("devices-{tenant}")
}

fn counted(row: Option<&Document>) -> u64 {
    let count = row.and_then(|row| row.get_i64("count").ok());
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}

#[async_trait]
impl DeviceRows for MongoRows<'_> {
    async fn device(&mut self, tenant: &str, id: &str) -> Outcome<Option<Device>> {
        let row = self.one(self.store.devices(), key(tenant, id)).await?;
        Ok(row.map(|row| body(&self.store.shown, id, &row)).transpose()?)
    }

    async fn devices(&mut self, tenant: &str, ids: &[String]) -> Outcome<Vec<Option<Device>>> {
        let filter = doc! { "tenant": tenant, "id": { "$in": ids } };
        let rows = self.all(self.store.devices(), filter, doc! { "id": 1 }, 0).await?;
        Ok(in_order(ids, read(&self.store.shown, &rows)?))
    }

    async fn put_devices(&mut self, changes: &[DeviceChange]) -> Outcome<()> {
        let devices = self.store.devices();
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for DeviceChange { before, after } in changes {
            match (before, after) {
                (None, Some(after)) => {
                    let mut row = key(&after.tenant, &after.id);
                    row.extend(fields(after));
                    new.push(row);
                }
                (Some(_), Some(after)) => {
                    let update = doc! { "$set": fields(after) };
                    let put = devices.update_one(key(&after.tenant, &after.id), update);
                    self.store.within(put.session(&mut *self.session)).await?;
                }
                (Some(before), None) => gone.push(before.id.as_str()),
                (None, None) => {}
            }
        }
        let tenant = self.entered().to_owned();
        let grown = signed(new.len() as u64) - signed(gone.len() as u64);
        if !gone.is_empty() {
            let filter = doc! { "tenant": &tenant, "id": { "$in": gone } };
            self.store.within(devices.delete_many(filter).session(&mut *self.session)).await?;
        }
        if !new.is_empty() {
            self.store.within(devices.insert_many(new).session(&mut *self.session)).await?;
        }
        if grown != 0 {
            self.changed(self.store.state(), &count_id(&tenant), doc! { "$inc": { "count": grown } }).await?;
        }
        Ok(())
    }

    async fn count_devices(&mut self, tenant: &str) -> Outcome<u64> {
        let row = self.one(self.store.state(), doc! { "_id": count_id(tenant) }).await?;
        Ok(counted(row.as_ref()))
    }

    async fn some_devices(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Device>> {
        let limit = signed(most as u64);
        let rows = self.all(self.store.devices(), doc! { "tenant": tenant }, doc! { "id": 1 }, limit).await?;
        Ok(read(&self.store.shown, &rows)?)
    }
}

impl MongoRegistry {
    /// Returns ids of devices that a filter finds.
    async fn ids(&self, filter: Document, order: Document, limit: usize) -> Result<Vec<String>> {
        let id = doc! { "_id": 0, "id": 1 };
        let rows = self.fields(&self.0.store.devices(), filter, order, id, limit).await?;
        Ok(rows.iter().filter_map(|row| row.get_str("id").ok().map(str::to_owned)).collect())
    }
}

#[async_trait]
impl DeviceRegistry for MongoRegistry {
    async fn devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>> {
        let filter = doc! { "tenant": tenant, "id": { "$in": ids } };
        let rows = self.all(&self.0.store.devices(), filter, doc! { "id": 1 }, ids.len()).await?;
        Ok(in_order(ids, read(&self.0.store.shown, &rows)?))
    }

    async fn devices_after(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Device>> {
        let filter = doc! { "tenant": tenant, "id": { "$gt": after } };
        let rows = self.all(&self.0.store.devices(), filter, doc! { "id": 1 }, limit).await?;
        read(&self.0.store.shown, &rows)
    }

    async fn devices_with(&self, tenant: &str, term: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let filter = doc! { "tenant": tenant, "terms": term, "id": { "$gt": after } };
        self.ids(filter, doc! { "id": 1 }, limit).await
    }

    async fn devices_beginning(&self, tenant: &str, start: &str, limit: usize) -> Result<Vec<String>> {
        let begins = doc! { "$gte": start, "$lt": behind(start) };
        self.ids(doc! { "tenant": tenant, "terms": { "$elemMatch": begins } }, doc! {}, limit).await
    }

    async fn count_devices(&self, tenant: &str) -> Result<u64> {
        let row = self.one(&self.0.store.state(), doc! { "_id": count_id(tenant) }).await?;
        Ok(counted(row.as_ref()))
    }
}
