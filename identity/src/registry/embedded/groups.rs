//! Groups and their members.

use std::ops::Bound;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::EmbeddedRegistry;
use super::changes::FileRows;
use super::file::Outcome;
use super::rows::{GROUPS, MEMBERS, get_of, list_of, seal, unseal};
use crate::registry::transaction::{self, GroupRows};
use crate::registry::{Group, GroupRegistry, Result};

/// Returns the id behind all members of a group: no id of a group has a character below.
fn behind(id: &str) -> String {
    format!("{id}\0")
}

/// Does something with the row of each device; returns those for which it was a change.
fn each(
    write: &WriteTransaction,
    devices: &[String],
    mut act: impl FnMut(&mut redb::Table<'_, (&'static str, &'static str, &'static str), ()>, &str) -> Outcome<bool>,
) -> Outcome<Vec<String>> {
    let mut table = write.open_table(MEMBERS)?;
    let mut changed = Vec::new();
    for device in devices {
        if act(&mut table, device)? {
            changed.push(device.clone());
        }
    }
    Ok(changed)
}

#[async_trait]
impl GroupRows for FileRows<'_> {
    async fn group(&mut self, tenant: &str, id: &str) -> transaction::Outcome<Option<Group>> {
        self.run(|write, _| get_of(&write.open_table(GROUPS)?, tenant, id))
    }

    async fn put_group(&mut self, group: &Group) -> transaction::Outcome<()> {
        self.run(|write, _| {
            write.open_table(GROUPS)?.insert((&*group.tenant, &*group.id), seal(group).as_slice())?;
            Ok(())
        })
    }

    async fn remove_group(&mut self, group: &Group) -> transaction::Outcome<()> {
        self.run(|write, _| {
            write.open_table(GROUPS)?.remove((&*group.tenant, &*group.id))?;
            let (first, end) = ((&*group.tenant, &*group.id, ""), behind(&group.id));
            write.open_table(MEMBERS)?.retain_in(first..(&*group.tenant, &*end, ""), |_, ()| false)?;
            Ok(())
        })
    }

    async fn count_groups(&mut self, tenant: &str) -> transaction::Outcome<usize> {
        self.run(|write, _| {
            let mut count = 0;
            for entry in write.open_table(GROUPS)?.range((tenant, "")..)? {
                if entry?.0.value().0 != tenant {
                    break;
                }
                count += 1;
            }
            Ok(count)
        })
    }

    async fn any_group(&mut self, tenant: &str) -> transaction::Outcome<Option<Group>> {
        self.run(|write, _| {
            let table = write.open_table(GROUPS)?;
            let Some(entry) = table.range((tenant, "")..)?.next().transpose()? else { return Ok(None) };
            let (of, id) = entry.0.value();
            (of == tenant).then(|| unseal(id, entry.1.value())).transpose()
        })
    }

    async fn add_members(&mut self, group: &Group, devices: &[String]) -> transaction::Outcome<Vec<String>> {
        self.run(|write, _| {
            each(write, devices, |table, device| Ok(table.insert((&*group.tenant, &*group.id, device), ())?.is_none()))
        })
    }

    async fn remove_members(&mut self, group: &Group, devices: &[String]) -> transaction::Outcome<Vec<String>> {
        self.run(|write, _| {
            each(write, devices, |table, device| Ok(table.remove((&*group.tenant, &*group.id, device))?.is_some()))
        })
    }
}

#[async_trait]
impl GroupRegistry for EmbeddedRegistry {
    async fn group(&self, tenant: &str, id: &str) -> Result<Option<Group>> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.read(move |database| get_of(&database.begin_read()?.open_table(GROUPS)?, &tenant, &id)).await
    }

    async fn groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>> {
        let (tenant, after) = (tenant.to_owned(), after.to_owned());
        self.read(move |database| list_of(&database.begin_read()?.open_table(GROUPS)?, &tenant, &after, limit)).await
    }

    async fn members(&self, tenant: &str, group: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let (tenant, group, after) = (tenant.to_owned(), group.to_owned(), after.to_owned());
        self.read(move |database| members(database, (&tenant, &group), &after, limit)).await
    }
}

fn members(database: &Database, (tenant, group): (&str, &str), after: &str, limit: usize) -> Outcome<Vec<String>> {
    let table = database.begin_read()?.open_table(MEMBERS)?;
    let (after, end) = ((tenant, group, after), behind(group));
    let mut found = Vec::new();
    let range = (Bound::Excluded(after), Bound::Excluded((tenant, &*end, "")));
    for entry in table.range(range)?.take(limit) {
        found.push(entry?.0.value().2.to_owned());
    }
    Ok(found)
}
