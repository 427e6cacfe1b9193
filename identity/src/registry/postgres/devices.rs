//! Devices, and the index of their terms.

use async_trait::async_trait;
use tokio_postgres::Row;

use super::PostgresRegistry;
use super::rows::{PgRows, body, json, signed};
use crate::registry::device::{DeviceChange, in_order};
use crate::registry::device_search::{behind, terms};
use crate::registry::transaction::{DeviceRows, Outcome};
use crate::registry::{Device, DeviceRegistry, Result};

/// Terms and devices in two lists of one length, as statements take them.
#[derive(Debug, Default)]
struct Pairs {
    terms: Vec<String>,
    devices: Vec<String>,
}

impl Pairs {
    fn add(&mut self, term: &str, device: &str) {
        self.terms.push(term.to_owned());
        self.devices.push(device.to_owned());
    }
}

#[async_trait]
impl DeviceRows for PgRows<'_> {
    async fn device(&mut self, tenant: &str, id: &str) -> Outcome<Option<Device>> {
        let sql = "SELECT body::text FROM weir.devices WHERE tenant = $1 AND id = $2";
        let row = self.session.first(sql, &[&tenant, &id]).await?;
        Ok(row.map(|row| body(self.session.shown(), id, &row, 0)).transpose()?)
    }

    async fn devices(&mut self, tenant: &str, ids: &[String]) -> Outcome<Vec<Option<Device>>> {
        let rows = self.session.query(NAMED, &[&tenant, &ids]).await?;
        Ok(in_order(ids, read(self.session.shown(), &rows)?))
    }

    async fn put_devices(&mut self, changes: &[DeviceChange]) -> Outcome<()> {
        let tenant = self.entered().to_owned();
        let (mut ids, mut bodies, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let (mut added, mut removed) = (Pairs::default(), Pairs::default());
        let mut grown = 0_i64;
        for DeviceChange { before, after } in changes {
            let (old, new) = (before.as_ref().map(terms), after.as_ref().map(terms));
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            if let Some(before) = before {
                old.difference(&new).for_each(|term| removed.add(term, &before.id));
            }
            match (before, after) {
                (_, Some(after)) => {
                    new.difference(&old).for_each(|term| added.add(term, &after.id));
                    ids.push(after.id.clone());
                    bodies.push(json(after));
                    grown += i64::from(before.is_none());
                }
                (Some(before), None) => {
                    gone.push(before.id.clone());
                    grown -= 1;
                }
                (None, None) => {}
            }
        }
        if !gone.is_empty() {
            let sql = "DELETE FROM weir.devices WHERE tenant = $1 AND id = ANY ($2)";
            self.session.query(sql, &[&tenant, &gone]).await?;
        }
        if !ids.is_empty() {
            let sql = "INSERT INTO weir.devices (tenant, id, body) \
                       SELECT $1, id, body::jsonb FROM unnest($2::text[], $3::text[]) AS given (id, body) \
                       ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body";
            self.session.query(sql, &[&tenant, &ids, &bodies]).await?;
        }
        if !removed.terms.is_empty() {
            let sql = "DELETE FROM weir.device_terms t USING unnest($2::text[], $3::text[]) AS given (term, device) \
                       WHERE t.tenant = $1 AND t.term = given.term AND t.device = given.device";
            self.session.query(sql, &[&tenant, &removed.terms, &removed.devices]).await?;
        }
        if !added.terms.is_empty() {
            let sql = "INSERT INTO weir.device_terms (tenant, term, device) \
                       SELECT $1, term, device FROM unnest($2::text[], $3::text[]) AS given (term, device) \
                       ON CONFLICT DO NOTHING";
            self.session.query(sql, &[&tenant, &added.terms, &added.devices]).await?;
        }
        if grown != 0 {
            let sql = "INSERT INTO weir.device_counts AS c (tenant, devices) VALUES ($1, $2) \
                       ON CONFLICT (tenant) DO UPDATE SET devices = c.devices + excluded.devices";
            self.session.query(sql, &[&tenant, &grown]).await?;
        }
        Ok(())
    }

    async fn count_devices(&mut self, tenant: &str) -> Outcome<u64> {
        let row = self.session.first(COUNT, &[&tenant]).await?;
        Ok(row.and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok()).unwrap_or_default())
    }

    async fn some_devices(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Device>> {
        let rows = self.session.query(AFTER, &[&tenant, &"", &signed(most as u64)]).await?;
        Ok(read(self.session.shown(), &rows)?)
    }
}

fn read(shown: &str, rows: &[Row]) -> Result<Vec<Device>> {
    rows.iter().map(|row| body(shown, "a device", row, 0)).collect()
}

const NAMED: &str = "SELECT body::text FROM weir.devices WHERE tenant = $1 AND id = ANY ($2)";
const COUNT: &str = "SELECT devices FROM weir.device_counts WHERE tenant = $1";
const AFTER: &str = "SELECT body::text FROM weir.devices WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3";

#[async_trait]
impl DeviceRegistry for PostgresRegistry {
    async fn devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>> {
        let rows = self.select(Some(tenant), NAMED, &[&tenant, &ids]).await?;
        Ok(in_order(ids, read(self.0.pool.shown(), &rows)?))
    }

    async fn devices_after(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Device>> {
        let rows = self.select(Some(tenant), AFTER, &[&tenant, &after, &signed(limit as u64)]).await?;
        read(self.0.pool.shown(), &rows)
    }

    async fn devices_with(&self, tenant: &str, term: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let sql = "SELECT device FROM weir.device_terms WHERE tenant = $1 AND term = $2 AND device > $3 \
                   ORDER BY device LIMIT $4";
        let rows = self.select(Some(tenant), sql, &[&tenant, &term, &after, &signed(limit as u64)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn devices_beginning(&self, tenant: &str, start: &str, limit: usize) -> Result<Vec<String>> {
        let sql = "SELECT device FROM weir.device_terms WHERE tenant = $1 AND term >= $2 AND term < $3 LIMIT $4";
        let end = behind(start);
        let rows = self.select(Some(tenant), sql, &[&tenant, &start, &end, &signed(limit as u64)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn count_devices(&self, tenant: &str) -> Result<u64> {
        let rows = self.select(Some(tenant), COUNT, &[&tenant]).await?;
        Ok(rows.first().and_then(|row| u64::try_from(row.get::<_, i64>(0)).ok()).unwrap_or_default())
    }
}
