//! Groups and their members.

use async_trait::async_trait;

use super::PostgresRegistry;
use super::rows::{PgRows, body, json, signed};
use crate::registry::transaction::{GroupRows, Outcome};
use crate::registry::{Group, GroupRegistry, Result};

const ONE: &str = "SELECT body::text FROM weir.groups WHERE tenant = $1 AND id = $2";

impl PgRows<'_> {
    /// Runs a statement about devices of a group, and returns those that it has changed.
    async fn changed(&mut self, sql: &'static str, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.session.query(sql, &[&group.tenant, &group.id, &devices]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

#[async_trait]
impl GroupRows for PgRows<'_> {
    async fn group(&mut self, tenant: &str, id: &str) -> Outcome<Option<Group>> {
        let row = self.session.first(ONE, &[&tenant, &id]).await?;
        Ok(row.map(|row| body(self.session.shown(), id, &row, 0)).transpose()?)
    }

    async fn put_group(&mut self, group: &Group) -> Outcome<()> {
        let sql = "INSERT INTO weir.groups (tenant, id, body) VALUES ($1, $2, $3::text::jsonb) \
                   ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body";
        self.session.query(sql, &[&group.tenant, &group.id, &json(group)]).await.map(drop)
    }

    async fn remove_group(&mut self, group: &Group) -> Outcome<()> {
        let sql = "DELETE FROM weir.group_members WHERE tenant = $1 AND group_id = $2";
        self.session.query(sql, &[&group.tenant, &group.id]).await?;
        let sql = "DELETE FROM weir.groups WHERE tenant = $1 AND id = $2";
        self.session.query(sql, &[&group.tenant, &group.id]).await.map(drop)
    }

    async fn count_groups(&mut self, tenant: &str) -> Outcome<usize> {
        let row = self.session.first("SELECT count(*) FROM weir.groups WHERE tenant = $1", &[&tenant]).await?;
        let count: i64 = row.map_or(0, |row| row.get(0));
        Ok(usize::try_from(count).unwrap_or_default())
    }

    async fn any_group(&mut self, tenant: &str) -> Outcome<Option<Group>> {
        let row =
            self.session.first("SELECT body::text FROM weir.groups WHERE tenant = $1 LIMIT 1", &[&tenant]).await?;
        Ok(row.map(|row| body(self.session.shown(), "a group", &row, 0)).transpose()?)
    }

    async fn add_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        let sql = "INSERT INTO weir.group_members (tenant, group_id, device) SELECT $1, $2, unnest($3::text[]) \
                   ON CONFLICT DO NOTHING RETURNING device";
        self.changed(sql, group, devices).await
    }

    async fn remove_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>> {
        let sql = "DELETE FROM weir.group_members WHERE tenant = $1 AND group_id = $2 AND device = ANY ($3) \
                   RETURNING device";
        self.changed(sql, group, devices).await
    }
}

#[async_trait]
impl GroupRegistry for PostgresRegistry {
    async fn group(&self, tenant: &str, id: &str) -> Result<Option<Group>> {
        let rows = self.select(Some(tenant), ONE, &[&tenant, &id]).await?;
        rows.first().map(|row| self.body(id, row, 0)).transpose()
    }

    async fn groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>> {
        let sql = "SELECT body::text FROM weir.groups WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3";
        let rows = self.select(Some(tenant), sql, &[&tenant, &after, &signed(limit as u64)]).await?;
        rows.iter().map(|row| self.body("a group", row, 0)).collect()
    }

    async fn members(&self, tenant: &str, group: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        let sql = "SELECT device FROM weir.group_members WHERE tenant = $1 AND group_id = $2 AND device > $3 \
                   ORDER BY device LIMIT $4";
        let rows = self.select(Some(tenant), sql, &[&tenant, &group, &after, &signed(limit as u64)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
