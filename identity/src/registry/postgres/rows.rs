//! The rows of one transaction.

use async_trait::async_trait;
use model::Nanos;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use super::pool::Session;
use crate::CredentialId;
use crate::registry::audit::{extend, read_event};
use crate::registry::rules::KEPT_CHANGES;
use crate::registry::transaction::{Outcome, Request, Rows};
use crate::registry::{AuditEvent, Change, ChangeKind, Checkpoint, Credential, Error, Owner, Tenant, Use};

/// Every so many changes, entries of the control log that are no longer kept are removed.
const TRIMMED_EVERY: u64 = 64;

pub(super) struct PgRows<'a> {
    pub(super) session: &'a mut Session,
    tenant: String,
    head: Checkpoint,
    /// True when the control log is to be trimmed after the commit.
    pub(super) is_to_trim: bool,
}

impl<'a> PgRows<'a> {
    /// Begins a transaction.
    pub(super) async fn begin(session: &'a mut Session) -> Outcome<Self> {
        session.batch("BEGIN").await?;
        Ok(Self { session, tenant: String::new(), head: Checkpoint::default(), is_to_trim: false })
    }

    /// Returns the tenant that was entered.
    pub(super) fn entered(&self) -> &str {
        &self.tenant
    }
}

/// Sets the tenant of the session until the transaction ends.
pub(super) async fn set_tenant(session: &mut Session, tenant: &str) -> Outcome<()> {
    session.query("SELECT set_config('weir.tenant', $1, true)", &[&tenant]).await.map(drop)
}

pub(super) fn damaged(shown: &str, place: &str) -> Error {
    Error::NeedsOperator(format!("{shown}: {place} is damaged: restore it from a backup"))
}

/// Reads a row that is JSON.
pub(super) fn body<T: DeserializeOwned>(shown: &str, place: &str, row: &Row, column: usize) -> Result<T, Error> {
    let text: &str = row.try_get(column).map_err(|_| damaged(shown, place))?;
    serde_json::from_str(text).map_err(|_| damaged(shown, place))
}

pub(super) fn json<T: Serialize>(row: &T) -> String {
    serde_json::to_string(row).expect("plain fields are JSON")
}

/// Numbers are far below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads the end of a chain.
pub(super) fn checkpoint(shown: &str, row: &Row) -> Result<Checkpoint, Error> {
    let sequence: i64 = row.try_get(0).map_err(|_| damaged(shown, "the head of an audit"))?;
    let hash: &[u8] = row.try_get(1).map_err(|_| damaged(shown, "the head of an audit"))?;
    match (u64::try_from(sequence), hash.try_into()) {
        (Ok(sequence), Ok(hash)) => Ok(Checkpoint { sequence, hash }),
        _ => Err(damaged(shown, "the head of an audit")),
    }
}

/// Reads an event from the columns `hash` and `event`.
pub(super) fn event(shown: &str, row: &Row) -> Result<AuditEvent, Error> {
    let (hash, bytes): (&[u8], &[u8]) = (row.get(0), row.get(1));
    read_event(hash, bytes).ok_or_else(|| damaged(shown, "an event of the audit"))
}

/// Returns the columns that an owner is found by.
fn columns(owner: Owner<'_>) -> (Option<&str>, Option<&'static str>) {
    match owner {
        Owner::Device(device) => (Some(device), None),
        Owner::Tenant(class) => (None, Some(class.as_str())),
    }
}

#[async_trait]
impl Rows for PgRows<'_> {
    async fn enter(&mut self, tenant: &str) -> Outcome<()> {
        set_tenant(self.session, tenant).await?;
        let sql = "SELECT sequence, hash FROM weir.audit_heads WHERE tenant = $1 FOR UPDATE";
        let row = match self.session.first(sql, &[&tenant]).await? {
            Some(row) => Some(row),
            None => {
                let sql = "INSERT INTO weir.audit_heads AS h (tenant, sequence, hash) VALUES ($1, 0, $2) \
                           ON CONFLICT (tenant) DO UPDATE SET sequence = h.sequence RETURNING sequence, hash";
                self.session.first(sql, &[&tenant, &&Checkpoint::default().hash[..]]).await?
            }
        };
        let row = row.ok_or_else(|| damaged(self.session.shown(), "the head of an audit"))?;
        self.head = checkpoint(self.session.shown(), &row)?;
        tenant.clone_into(&mut self.tenant);
        Ok(())
    }

    async fn tenant(&mut self, id: &str) -> Outcome<Option<Tenant>> {
        let row = self.session.first("SELECT body::text FROM weir.tenants WHERE tenant = $1", &[&id]).await?;
        Ok(row.map(|row| body(self.session.shown(), id, &row, 0)).transpose()?)
    }

    async fn put_tenant(&mut self, tenant: &Tenant) -> Outcome<()> {
        let sql = "INSERT INTO weir.tenants (tenant, body) VALUES ($1, $2::text::jsonb) \
                   ON CONFLICT (tenant) DO UPDATE SET body = excluded.body";
        self.session.query(sql, &[&tenant.id, &json(tenant)]).await.map(drop)
    }

    async fn credential(&mut self, id: CredentialId) -> Outcome<Option<Credential>> {
        let sql = "SELECT body::text FROM weir.credentials WHERE id = $1";
        let row = self.session.first(sql, &[&id.as_str()]).await?;
        Ok(row.map(|row| body(self.session.shown(), id.as_str(), &row, 0)).transpose()?)
    }

    async fn add_credential(&mut self, row: &Credential) -> Outcome<bool> {
        let sql = "INSERT INTO weir.credentials (id, tenant, class, device, body) \
                   VALUES ($1, $2, $3, $4, $5::text::jsonb) ON CONFLICT DO NOTHING RETURNING id";
        let class = row.class().as_str();
        let added =
            self.session.first(sql, &[&row.id.as_str(), &row.tenant, &class, &row.device(), &json(row)]).await?;
        Ok(added.is_some())
    }

    async fn put_credential(&mut self, row: &Credential) -> Outcome<()> {
        let sql = "UPDATE weir.credentials SET body = $2::text::jsonb WHERE id = $1";
        self.session.query(sql, &[&row.id.as_str(), &json(row)]).await.map(drop)
    }

    async fn remove_credential(&mut self, row: &Credential) -> Outcome<()> {
        self.session.query("DELETE FROM weir.credentials WHERE id = $1", &[&row.id.as_str()]).await.map(drop)
    }

    async fn count(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<usize> {
        let (device, class) = columns(owner);
        let row = match device {
            Some(device) => {
                let sql = "SELECT count(*) FROM weir.credentials WHERE tenant = $1 AND device = $2";
                self.session.first(sql, &[&tenant, &device]).await?
            }
            None => {
                let sql = "SELECT count(*) FROM weir.credentials WHERE tenant = $1 AND class = $2 AND device IS NULL";
                self.session.first(sql, &[&tenant, &class]).await?
            }
        };
        let count: i64 = row.map_or(0, |row| row.get(0));
        Ok(usize::try_from(count).unwrap_or_default())
    }

    async fn credentials(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<Vec<Credential>> {
        let (device, class) = columns(owner);
        let rows = match device {
            Some(device) => {
                let sql = "SELECT body::text FROM weir.credentials WHERE tenant = $1 AND device = $2 ORDER BY id";
                self.session.query(sql, &[&tenant, &device]).await?
            }
            None => {
                let sql = "SELECT body::text FROM weir.credentials \
                           WHERE tenant = $1 AND class = $2 AND device IS NULL ORDER BY id";
                self.session.query(sql, &[&tenant, &class]).await?
            }
        };
        let shown = self.session.shown();
        Ok(rows.iter().map(|row| body(shown, "a credential", row, 0)).collect::<Result<_, _>>()?)
    }

    async fn some_credentials(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Credential>> {
        let sql = "SELECT body::text FROM weir.credentials WHERE tenant = $1 LIMIT $2";
        let rows = self.session.query(sql, &[&tenant, &signed(most as u64)]).await?;
        let shown = self.session.shown();
        Ok(rows.iter().map(|row| body(shown, "a credential", row, 0)).collect::<Result<_, _>>()?)
    }

    async fn count_credentials(&mut self, tenant: &str) -> Outcome<u64> {
        let sql = "SELECT count(*) FROM weir.credentials WHERE tenant = $1";
        let row = self.session.first(sql, &[&tenant]).await?;
        let count: i64 = row.map_or(0, |row| row.get(0));
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn remove_requests(&mut self, tenant: &str) -> Outcome<usize> {
        let sql = "DELETE FROM weir.requests WHERE tenant = $1 RETURNING id";
        Ok(self.session.query(sql, &[&tenant]).await?.len())
    }

    async fn device_among(&mut self, tenant: &str, devices: &[&str], prefix: &str) -> Outcome<Option<String>> {
        // Behind all that begin with `a:` comes `a;`, since `;` is the character behind `:`.
        let end = prefix.strip_suffix(':').map(|device| format!("{device};")).unwrap_or_default();
        let sql = "SELECT device FROM weir.credentials WHERE tenant = $1 AND device = ANY ($2) \
                   UNION ALL (SELECT device FROM weir.credentials \
                   WHERE tenant = $1 AND device >= $3 AND device < $4 ORDER BY device LIMIT 1) LIMIT 1";
        let row = self.session.first(sql, &[&tenant, &devices, &prefix, &end]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    async fn request(&mut self, tenant: &str, id: &str) -> Outcome<Option<Request>> {
        let sql = "SELECT body::text FROM weir.requests WHERE tenant = $1 AND id = $2";
        let row = self.session.first(sql, &[&tenant, &id]).await?;
        Ok(row.map(|row| body(self.session.shown(), id, &row, 0)).transpose()?)
    }

    async fn put_request(&mut self, tenant: &str, id: &str, request: &Request, oldest: Nanos) -> Outcome<()> {
        let sql = "DELETE FROM weir.requests WHERE tenant = $1 AND at <= $2";
        self.session.query(sql, &[&tenant, &oldest]).await?;
        let sql = "INSERT INTO weir.requests (tenant, id, at, body) VALUES ($1, $2, $3, $4::text::jsonb) \
                   ON CONFLICT (tenant, id) DO UPDATE SET at = excluded.at, body = excluded.body";
        self.session.query(sql, &[&tenant, &id, &request.at, &json(request)]).await.map(drop)
    }

    async fn append(&mut self, event: AuditEvent) -> Outcome<()> {
        let (head, bytes) = extend(self.head, event);
        let (sequence, hash) = (signed(head.sequence), &head.hash[..]);
        let sql = "WITH head AS (UPDATE weir.audit_heads SET sequence = $2, hash = $3 WHERE tenant = $1) \
                   INSERT INTO weir.audit (tenant, sequence, hash, event) VALUES ($1, $2, $3, $4)";
        self.session.query(sql, &[&self.tenant, &sequence, &hash, &bytes]).await?;
        self.head = head;
        Ok(())
    }

    async fn recent_events(&mut self, limit: usize) -> Outcome<Vec<AuditEvent>> {
        let sql = "SELECT hash, event FROM weir.audit WHERE tenant = $1 ORDER BY sequence DESC LIMIT $2";
        let rows = self.session.query(sql, &[&self.tenant, &signed(limit as u64)]).await?;
        let shown = self.session.shown();
        Ok(rows.iter().map(|row| event(shown, row)).collect::<Result<_, _>>()?)
    }

    async fn control(&mut self, tenant: &str, kind: ChangeKind) -> Outcome<()> {
        let sql = "UPDATE weir.control_head SET newest = newest + 1 RETURNING newest";
        let row = self.session.first(sql, &[]).await?;
        let row = row.ok_or_else(|| damaged(self.session.shown(), "the number of the control log"))?;
        let number = u64::try_from(row.get::<_, i64>(0)).unwrap_or_default();
        let change = Change { number, tenant: tenant.to_owned(), kind };
        let sql = "INSERT INTO weir.control (number, tenant, body) VALUES ($1, $2, $3::text::jsonb)";
        self.session.query(sql, &[&signed(number), &tenant, &json(&change)]).await?;
        self.is_to_trim |= number > KEPT_CHANGES && number.is_multiple_of(TRIMMED_EVERY);
        Ok(())
    }

    async fn tenants_of(&mut self, ids: &[CredentialId]) -> Outcome<Vec<(String, CredentialId)>> {
        let ids: Vec<&str> = ids.iter().map(CredentialId::as_str).collect();
        let rows = self.session.query("SELECT tenant, id FROM weir.tenants_of($1)", &[&ids]).await?;
        let of = |row: &Row| Some((row.get(0), CredentialId::parse(row.get(1))?));
        Ok(rows.iter().filter_map(of).collect())
    }

    async fn put_uses(&mut self, tenant: &str, uses: &[Use]) -> Outcome<()> {
        set_tenant(self.session, tenant).await?;
        let ids: Vec<&str> = uses.iter().map(|used| used.id.as_str()).collect();
        let times: Vec<i64> = uses.iter().map(|used| used.at).collect();
        let sql = "UPDATE weir.credentials c SET last_use = greatest(c.last_use, u.at) \
                   FROM (SELECT id, max(at) AS at FROM unnest($1::text[], $2::bigint[]) AS u (id, at) GROUP BY id) u \
                   WHERE c.id = u.id";
        self.session.query(sql, &[&ids, &times]).await?;
        for used in uses {
            if !used.moves() {
                continue;
            }
            let sql = "SELECT body::text FROM weir.credentials WHERE id = $1 FOR UPDATE";
            let row = self.session.first(sql, &[&used.id.as_str()]).await?;
            // A lookup names a damage; uses of other credentials go on.
            let row = row.and_then(|row| body::<Credential>(self.session.shown(), "", &row, 0).ok());
            if let Some(row) = row.and_then(|row| row.moved_by(used)) {
                self.put_credential(&row).await?;
            }
        }
        Ok(())
    }

    async fn pepper(&mut self, version: u32, fingerprint: &[u8; 32]) -> Outcome<Vec<u8>> {
        let version = i64::from(version);
        let known = "SELECT fingerprint FROM weir.peppers WHERE version = $1";
        if let Some(row) = self.session.first(known, &[&version]).await? {
            return Ok(row.get(0));
        }
        let sql = "INSERT INTO weir.peppers (version, fingerprint) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.session.query(sql, &[&version, &&fingerprint[..]]).await?;
        let row = self.session.first(known, &[&version]).await?;
        Ok(row.map_or_else(Vec::new, |row| row.get(0)))
    }
}
