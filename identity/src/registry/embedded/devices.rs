//! Devices, and the index of their terms.

use std::ops::Bound;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, ReadableTable};

use super::EmbeddedRegistry;
use super::changes::FileRows;
use super::file::Outcome;
use super::rows::{DEVICE_COUNTS, DEVICE_TERMS, DEVICES, get_of, list_of, seal};
use crate::registry::device::DeviceChange;
use crate::registry::device_search::terms;
use crate::registry::transaction::{self, DeviceRows};
use crate::registry::{Device, DeviceRegistry, Result};

/// Returns ids of devices behind a place in the index of terms, while `has` is true of the term.
fn with(
    database: &Database,
    (tenant, term, after): (&str, &str, &str),
    has: impl Fn(&str) -> bool,
    limit: usize,
) -> Outcome<Vec<String>> {
    let table = database.begin_read()?.open_table(DEVICE_TERMS)?;
    let mut found = Vec::new();
    for entry in table.range((Bound::Excluded((tenant, term, after)), Bound::Unbounded))?.take(limit) {
        let key = entry?.0;
        let (of, term, id) = key.value();
        if of != tenant || !has(term) {
            break;
        }
        found.push(id.to_owned());
    }
    Ok(found)
}

#[async_trait]
impl DeviceRows for FileRows<'_> {
    async fn device(&mut self, tenant: &str, id: &str) -> transaction::Outcome<Option<Device>> {
        self.run(|write, _| get_of(&write.open_table(DEVICES)?, tenant, id))
    }

    async fn devices(&mut self, tenant: &str, ids: &[String]) -> transaction::Outcome<Vec<Option<Device>>> {
        self.run(|write, _| {
            let table = write.open_table(DEVICES)?;
            ids.iter().map(|id| get_of(&table, tenant, id)).collect()
        })
    }

    async fn put_devices(&mut self, changes: &[DeviceChange]) -> transaction::Outcome<()> {
        self.run(|write, tenant| {
            let mut rows = write.open_table(DEVICES)?;
            let mut index = write.open_table(DEVICE_TERMS)?;
            let mut counts = write.open_table(DEVICE_COUNTS)?;
            let mut count = counts.get(tenant)?.map_or(0, |count| count.value());
            for DeviceChange { before, after } in changes {
                let (old, new) = (before.as_ref().map(terms), after.as_ref().map(terms));
                let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
                if let Some(before) = before {
                    for term in old.difference(&new) {
                        index.remove((tenant, term.as_str(), before.id.as_str()))?;
                    }
                }
                match (before, after) {
                    (_, Some(after)) => {
                        rows.insert((tenant, after.id.as_str()), seal(after).as_slice())?;
                        for term in new.difference(&old) {
                            index.insert((tenant, term.as_str(), after.id.as_str()), ())?;
                        }
                        count += u64::from(before.is_none());
                    }
                    (Some(before), None) => {
                        rows.remove((tenant, before.id.as_str()))?;
                        count = count.saturating_sub(1);
                    }
                    (None, None) => {}
                }
            }
            match count {
                0 => counts.remove(tenant)?.map(drop),
                count => counts.insert(tenant, count)?.map(drop),
            };
            Ok(())
        })
    }

    async fn count_devices(&mut self, tenant: &str) -> transaction::Outcome<u64> {
        self.run(|write, _| Ok(write.open_table(DEVICE_COUNTS)?.get(tenant)?.map_or(0, |count| count.value())))
    }

    async fn some_devices(&mut self, tenant: &str, most: usize) -> transaction::Outcome<Vec<Device>> {
        self.run(|write, _| list_of(&write.open_table(DEVICES)?, tenant, "", most))
    }
}

#[async_trait]
impl DeviceRegistry for EmbeddedRegistry {
    async fn devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>> {
        let (tenant, ids) = (tenant.to_owned(), ids.to_vec());
        self.read(move |database| {
            let table = database.begin_read()?.open_table(DEVICES)?;
            ids.iter().map(|id| get_of(&table, &tenant, id)).collect()
        })
        .await
    }

    async fn devices_after(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Device>> {
        let (tenant, after) = (tenant.to_owned(), after.to_owned());
        self.read(move |database| list_of(&database.begin_read()?.open_table(DEVICES)?, &tenant, &after, limit)).await
    }

    async fn devices_with(&self, tenant: &str, term: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let (tenant, term, after) = (tenant.to_owned(), term.to_owned(), after.to_owned());
        self.read(move |database| with(database, (&tenant, &term, &after), |of| of == term, limit)).await
    }

    async fn devices_beginning(&self, tenant: &str, start: &str, limit: usize) -> Result<Vec<String>> {
        let (tenant, start) = (tenant.to_owned(), start.to_owned());
        self.read(move |database| with(database, (&tenant, &start, ""), |of| of.starts_with(&start), limit)).await
    }

    async fn count_devices(&self, tenant: &str) -> Result<u64> {
        let tenant = tenant.to_owned();
        self.read(move |database| {
            let table = database.begin_read()?.open_table(DEVICE_COUNTS)?;
            Ok(table.get(tenant.as_str())?.map_or(0, |count| count.value()))
        })
        .await
    }
}
