//! The registry on a PostgreSQL server.
//!
//! Each change is one transaction, which locks the end of the audit of its tenant first and the
//! number of the control log last: changes of a tenant are made one after the other, and numbers
//! become visible in order. The server lets a session see rows of one tenant only; see
//! `migrations/`.

mod answer;
mod devices;
mod groups;
mod pool;
mod rows;
mod schema;
mod stream;
#[cfg(test)]
mod tests;
mod url;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::audit::Walk;
use super::rules::KEPT_CHANGES;
use super::transaction::{Outcome, Stop, Work};
use super::tries::Tries;
use super::writes::Transact;
use super::{
    AuditEvent, AuditRange, AuditReport, Changes, Checkpoint, Class, Error, Found, Listed, Registry, Result, Tenant,
};
use crate::CredentialId;
use pool::{Lease, Pool};
use rows::{PgRows, body, checkpoint, damaged, event, set_tenant, signed};

/// Time within which a change is repeated after conflicts and lost connections.
const PATIENCE: Duration = Duration::from_secs(15);
/// Events that a check of a chain reads at one time.
const EVENTS: usize = 1000;

/// Bounds of the use of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Most connections at one time.
    pub max_connections: usize,
    /// Longest time of a statement.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { max_connections: 16, statement_timeout: Duration::from_secs(5) }
    }
}

/// The registry on a PostgreSQL server. Cheap to clone.
#[derive(Clone)]
pub struct PostgresRegistry(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// No try of a read begins after this time.
    read_limit: Duration,
    migrations: &'static [&'static str],
    /// Set once the schema was made or checked.
    ready: OnceCell<()>,
}

impl std::fmt::Debug for PostgresRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PostgresRegistry").field(&self.0.pool.shown()).finish()
    }
}

impl PostgresRegistry {
    /// Connects, and makes the schema or brings it up to date.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no server answers; [`Error::NeedsOperator`] when the URL is not
    /// valid, the user passes the guard between tenants (a superuser, or BYPASSRLS), or the schema
    /// is of a newer release.
    pub async fn connect(url: &str, options: PostgresOptions) -> std::result::Result<Self, Error> {
        let registry = Self::new(url, options)?;
        registry.0.lease().await.map_err(Stop::error)?.give_back();
        Ok(registry)
    }

    /// Returns a registry that connects when it is used first: until the server answers, it is
    /// unavailable.
    ///
    /// # Errors
    /// [`Error::NeedsOperator`]: the URL is not valid.
    pub fn new(url: &str, options: PostgresOptions) -> std::result::Result<Self, Error> {
        Self::with_migrations(url, options, schema::MIGRATIONS)
    }

    fn with_migrations(url: &str, options: PostgresOptions, migrations: &'static [&'static str]) -> Result<Self> {
        let most = options.max_connections.max(1);
        let pool = Pool::new(url::parse(url)?, most, options.statement_timeout);
        let read_limit = options.statement_timeout;
        Ok(Self(Arc::new(Inner { pool, read_limit, migrations, ready: OnceCell::new() })))
    }

    /// Runs a statement that reads: rows of a tenant, or across tenants by a function.
    async fn select(&self, tenant: Option<&str>, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>> {
        let mut tries = Tries::within(self.0.read_limit);
        loop {
            match self.0.read(tenant, sql, params).await {
                Ok(rows) => return Ok(rows),
                Err(stop) => tries.after(self.0.noted(stop)).await?,
            }
        }
    }

    fn damaged(&self, place: &str) -> Error {
        damaged(self.0.pool.shown(), place)
    }

    fn body<T: serde::de::DeserializeOwned>(&self, place: &str, row: &Row, column: usize) -> Result<T> {
        body(self.0.pool.shown(), place, row, column)
    }

    /// Reads credentials and the states of their tenants, with one request. A row that cannot be
    /// read is the error of its credential alone.
    async fn found(&self, ids: &[CredentialId]) -> Result<Vec<Result<Option<Found>>>> {
        let sql = "SELECT wanted.place, found.body, found.tenant_body, found.last_use \
                   FROM unnest($1::text[]) WITH ORDINALITY AS wanted (id, place) \
                   CROSS JOIN LATERAL weir.find_credential(wanted.id) AS found";
        let wanted: Vec<&str> = ids.iter().map(CredentialId::as_str).collect();
        let rows = self.select(None, sql, &[&wanted]).await?;
        let mut found = vec![Ok(None); ids.len()];
        for row in rows {
            // From 1.
            let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            let Some((id, found)) = ids.get(place).zip(found.get_mut(place)) else { continue };
            *found = self.found_in(id, &row).map(Some);
        }
        Ok(found)
    }

    fn found_in(&self, id: &CredentialId, row: &Row) -> Result<Found> {
        let credential = self.body(id.as_str(), row, 1)?;
        let tenant: Tenant = self.body(&format!("the tenant of {id}"), row, 2)?;
        Ok(Found { credential, tenant: tenant.state, last_use: row.get(3) })
    }

    /// Reads credentials from the columns `body`, `last_use`.
    fn listed(&self, rows: &[Row]) -> Result<Vec<Listed>> {
        let of = |row: &Row| {
            let last_use: Option<i64> = row.get(1);
            Ok(Listed { credential: self.body("a credential", row, 0)?, last_use })
        };
        rows.iter().map(of).collect()
    }
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Inner {
    /// Returns a session, after the schema was made or checked.
    async fn lease(&self) -> Outcome<Lease> {
        let prepare = async || {
            let mut lease = self.pool.session().await?;
            schema::prepare(&mut lease.session, self.migrations).await?;
            lease.give_back();
            Ok::<(), Stop>(())
        };
        self.ready.get_or_try_init(prepare).await?;
        self.pool.session().await
    }

    /// After one connection was lost, those that are idle are not used again.
    fn noted(&self, stop: Stop) -> Stop {
        if matches!(stop, Stop::Lost(_) | Stop::InDoubt(_)) {
            self.pool.forget_idle();
        }
        stop
    }

    async fn transaction<W: Work>(&self, work: &W, in_doubt: bool) -> Outcome<W::Output> {
        let mut lease = self.lease().await?;
        let mut rows = PgRows::begin(&mut lease.session).await?;
        match work.run(&mut rows, in_doubt).await {
            Ok(output) => {
                let is_to_trim = rows.is_to_trim;
                lease.session.batch("COMMIT").await.map_err(Stop::at_commit)?;
                if is_to_trim && lease.session.query("SELECT weir.trim_control()", &[]).await.is_err() {
                    // The next one does it. The connection is not used again.
                    return Ok(output);
                }
                lease.give_back();
                Ok(output)
            }
            Err(stop) => {
                if !matches!(stop, Stop::Lost(_)) && lease.session.batch("ROLLBACK").await.is_ok() {
                    lease.give_back();
                }
                Err(stop)
            }
        }
    }

    async fn read(&self, tenant: Option<&str>, sql: &'static str, params: Params<'_>) -> Outcome<Vec<Row>> {
        let mut lease = self.lease().await?;
        let session = &mut lease.session;
        let Some(tenant) = tenant else {
            let rows = session.query(sql, params).await?;
            lease.give_back();
            return Ok(rows);
        };
        session.batch("BEGIN READ ONLY").await?;
        set_tenant(session, tenant).await?;
        let rows = session.query(sql, params).await?;
        session.batch("COMMIT").await?;
        lease.give_back();
        Ok(rows)
    }

    async fn check(&self, tenant: &str, range: &AuditRange) -> Outcome<AuditReport> {
        let mut lease = self.lease().await?;
        let session = &mut lease.session;
        // Events and head of one moment.
        session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        set_tenant(session, tenant).await?;
        let mut walk = Walk::new(range);
        let mut next = walk.next();
        let fault = loop {
            let sql = "SELECT sequence, hash, event FROM weir.audit WHERE tenant = $1 AND sequence >= $2 \
                       ORDER BY sequence LIMIT $3";
            let events = session.query(sql, &[&tenant, &signed(next), &signed(EVENTS as u64)]).await?;
            let mut fault = None;
            for row in &events {
                let sequence = u64::try_from(row.get::<_, i64>(0)).unwrap_or_default();
                next = sequence + 1;
                fault = walk.step(sequence, row.get(1), row.get(2)).err();
                if fault.is_some() || walk.is_done() {
                    break;
                }
            }
            if fault.is_some() || walk.is_done() {
                break fault;
            }
            if events.len() < EVENTS {
                let sql = "SELECT sequence, hash FROM weir.audit_heads WHERE tenant = $1";
                let head = session.first(sql, &[&tenant]).await?;
                let head = head.map(|row| checkpoint(session.shown(), &row)).transpose();
                // A damaged head is that of no event.
                break walk.end(head.unwrap_or_default().unwrap_or_default()).err();
            }
        };
        session.batch("COMMIT").await?;
        lease.give_back();
        Ok(AuditReport { verified: walk.last(), fault })
    }
}

#[async_trait]
impl Transact for PostgresRegistry {
    const USES: usize = 500;

    async fn change<W: Work>(&self, work: W) -> Result<W::Output> {
        let inner = Arc::clone(&self.0);
        let change = async move {
            let mut tries = Tries::within(PATIENCE);
            loop {
                match inner.transaction(&work, tries.in_doubt()).await {
                    Ok(output) => return Ok(output),
                    Err(stop) => tries.after(inner.noted(stop)).await?,
                }
            }
        };
        tokio::spawn(change).await.map_err(|error| Error::Unavailable(error.to_string()))?
    }
}

#[async_trait]
impl Registry for PostgresRegistry {
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>> {
        let rows = self.select(Some(id), "SELECT body::text FROM weir.tenants WHERE tenant = $1", &[&id]).await?;
        rows.first().map(|row| self.body(id, row, 0)).transpose()
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        let sql = "SELECT body FROM weir.list_tenants($1, $2)";
        let rows = self.select(None, sql, &[&after, &signed(limit as u64)]).await?;
        rows.iter().map(|row| self.body("a tenant", row, 0)).collect()
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Found>> {
        self.found(&[id]).await?.pop().unwrap_or(Ok(None))
    }

    async fn credentials(&self, ids: &[CredentialId]) -> Vec<Result<Option<Found>>> {
        self.found(ids).await.unwrap_or_else(|error| vec![Err(error); ids.len()])
    }

    async fn device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let (from, id) = after.as_ref().map_or(("", ""), |(device, id)| (*device, id.as_str()));
        let limit = signed(limit as u64);
        let rows = match device {
            Some(device) => {
                let sql = "SELECT body::text, last_use FROM weir.credentials WHERE tenant = $1 AND device = $2 \
                           AND (device, id) > ($3, $4) ORDER BY device, id LIMIT $5";
                self.select(Some(tenant), sql, &[&tenant, &device, &from, &id, &limit]).await?
            }
            None => {
                let sql = "SELECT body::text, last_use FROM weir.credentials WHERE tenant = $1 AND device IS NOT NULL \
                           AND (device, id) > ($2, $3) ORDER BY device, id LIMIT $4";
                self.select(Some(tenant), sql, &[&tenant, &from, &id, &limit]).await?
            }
        };
        self.listed(&rows)
    }

    async fn tenant_credentials(
        &self,
        tenant: &str,
        class: Class,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let (class, after) = (class.as_str(), after.as_ref().map_or("", CredentialId::as_str));
        let sql = "SELECT body::text, last_use FROM weir.credentials WHERE tenant = $1 AND class = $2 \
                   AND device IS NULL AND id > $3 ORDER BY id LIMIT $4";
        self.listed(&self.select(Some(tenant), sql, &[&tenant, &class, &after, &signed(limit as u64)]).await?)
    }

    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        let sql = "SELECT hash, event FROM weir.audit WHERE tenant = $1 AND sequence < $2 \
                   ORDER BY sequence DESC LIMIT $3";
        let before = signed(before.unwrap_or(u64::MAX));
        let rows = self.select(Some(tenant), sql, &[&tenant, &before, &signed(limit as u64)]).await?;
        rows.iter().map(|row| event(self.0.pool.shown(), row)).collect()
    }

    async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport> {
        let mut tries = Tries::within(self.0.read_limit);
        loop {
            match self.0.check(tenant, range).await {
                Ok(report) => return Ok(report),
                Err(stop) => tries.after(self.0.noted(stop)).await?,
            }
        }
    }

    async fn audit_heads(&self, after: &str, limit: usize) -> Result<Vec<(String, Checkpoint)>> {
        let sql = "SELECT sequence, hash, tenant FROM weir.list_heads($1, $2)";
        let rows = self.select(None, sql, &[&after, &signed(limit as u64)]).await?;
        let head = |row: &Row| (row.get(2), checkpoint(self.0.pool.shown(), row).unwrap_or_default());
        Ok(rows.iter().map(head).collect())
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes> {
        let sql = "SELECT newest, number, body FROM weir.changes_after($1, $2)";
        let rows = self.select(None, sql, &[&signed(after), &signed(limit as u64)]).await?;
        let newest = rows.first().ok_or_else(|| self.damaged("the number of the control log"))?.get::<_, i64>(0);
        let newest = u64::try_from(newest).unwrap_or_default();
        let oldest = newest.saturating_sub(KEPT_CHANGES) + 1;
        let mut changes = Changes { newest, has_gap: after > newest || after + 1 < oldest, entries: Vec::new() };
        for row in rows.iter().filter(|row| row.get::<_, Option<i64>>(1).is_some()) {
            changes.entries.push(self.body("an entry of the control log", row, 2)?);
        }
        Ok(changes)
    }
}
