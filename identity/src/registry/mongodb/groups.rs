//! Groups and their members.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};

use super::MongoRegistry;
use super::rows::{MongoRows, body, json};
use crate::registry::transaction::{GroupRows, Outcome};
use crate::registry::{Group, GroupRegistry, Result};

fn of(group: &Group) -> Document {
    doc! { "tenant": &group.tenant, "group": &group.id }
}

fn device(row: &Document) -> Option<String> {
    row.get_str("device").ok().map(str::to_owned)
}

impl MongoRows<'_> {
    /// Returns those of the devices that are members.
    async fn listed(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut filter = of(group);
        filter.insert("device", doc! { "$in": devices });
        let rows = self.all(self.store.group_members(), filter, doc! { "device": 1 }, 0).await?;
        Ok(rows.iter().filter_map(device).collect())
    }
}

#[async_trait]
impl GroupRows for MongoRows<'_> {
    async fn group(&mut self, tenant: &str, id: &str) -> Outcome<Option<Group>> {
        let row = self.one(self.store.groups(), doc! { "tenant": tenant, "id": id }).await?;
        Ok(row.map(|row| body(&self.store.shown, id, &row)).transpose()?)
    }

    async fn put_group(&mut self, group: &Group) -> Outcome<()> {
        let filter = doc! { "tenant": &group.tenant, "id": &group.id };
        let put = self.store.groups();
        let put = put.update_one(filter, doc! { "$set": { "body": json(group) } }).upsert(true);
        self.store.within(put.session(&mut *self.session)).await.map(drop)
    }

    async fn remove_group(&mut self, group: &Group) -> Outcome<()> {
        let (groups, members) = (self.store.groups(), self.store.group_members());
        self.store.within(members.delete_many(of(group)).session(&mut *self.session)).await?;
        let filter = doc! { "tenant": &group.tenant, "id": &group.id };
        self.store.within(groups.delete_one(filter).session(&mut *self.session)).await.map(drop)
    }

    async fn count_groups(&mut self, tenant: &str) -> Outcome<usize> {
        let groups = self.store.groups();
        let count = groups.count_documents(doc! { "tenant": tenant }).session(&mut *self.session);
        Ok(usize::try_from(self.store.within(count).await?).unwrap_or(usize::MAX))
    }

    async fn any_group(&mut self, tenant: &str) -> Outcome<Option<Group>> {
        let row = self.one(self.store.groups(), doc! { "tenant": tenant }).await?;
        Ok(row.map(|row| body(&self.store.shown, "a group", &row)).transpose()?)
    }

    async fn add_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        // A duplicate would end the transaction. Others wait for the tenant that was entered.
        let listed = self.listed(group, devices).await?;
        let new: Vec<String> = devices.iter().filter(|device| !listed.contains(device)).cloned().collect();
        if new.is_empty() {
            return Ok(new);
        }
        let row = |device: &String| {
            let mut row = of(group);
            row.insert("device", device);
            row
        };
        let members = self.store.group_members();
        let insert = members.insert_many(new.iter().map(row));
        self.store.within(insert.session(&mut *self.session)).await?;
        Ok(new)
    }

    async fn remove_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        let listed = self.listed(group, devices).await?;
        if listed.is_empty() {
            return Ok(listed);
        }
        let mut filter = of(group);
        filter.insert("device", doc! { "$in": &listed });
        let members = self.store.group_members();
        self.store.within(members.delete_many(filter).session(&mut *self.session)).await?;
        Ok(listed)
    }
}

#[async_trait]
impl GroupRegistry for MongoRegistry {
    async fn group(&self, tenant: &str, id: &str) -> Result<Option<Group>> {
        let row = self.one(&self.0.store.groups(), doc! { "tenant": tenant, "id": id }).await?;
        row.map(|row| self.body(id, &row)).transpose()
    }

    async fn groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>> {
        let filter = doc! { "tenant": tenant, "id": { "$gt": after } };
        let rows = self.all(&self.0.store.groups(), filter, doc! { "id": 1 }, limit).await?;
        rows.iter().map(|row| self.body("a group", row)).collect()
    }

    async fn members(&self, tenant: &str, group: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let filter = doc! { "tenant": tenant, "group": group, "device": { "$gt": after } };
        let rows = self.all(&self.0.store.group_members(), filter, doc! { "device": 1 }, limit).await?;
        Ok(rows.iter().filter_map(device).collect())
    }
}
