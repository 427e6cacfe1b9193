//! The schema, in versions, and the conditions under which tenants are kept apart.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::pool::Session;
use crate::hex;
use crate::registry::Error;
use crate::registry::transaction::Outcome;

/// The changes that lead to the schema of this release, in order; those that were released are not
/// edited.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];

/// Held while the schema is changed, in all processes: "weir" and a number.
const LOCK: i64 = 0x7765_6972_0001;
const PATIENCE: Duration = Duration::from_secs(90);

/// Makes or checks the schema, and checks the user.
///
/// # Errors
/// The user passes the guard between tenants, the schema is of a newer release or was edited, or
/// the database is not UTF-8.
pub(super) async fn prepare(session: &mut Session, migrations: &[&str]) -> Outcome<()> {
    check_user(session).await?;
    if !is_complete(session, migrations).await? {
        session.batch("BEGIN").await?;
        migrate(session, migrations).await?;
        session.batch("COMMIT").await?;
    }
    check_guard(session).await
}

async fn check_user(session: &mut Session) -> Outcome<()> {
    let sql = "SELECT rolname::text, rolsuper, rolbypassrls, pg_encoding_to_char(d.encoding)::text \
               FROM pg_roles, pg_database d WHERE rolname = current_user AND d.datname = current_database()";
    let row = session.first(sql, &[]).await?;
    let row = row.ok_or_else(|| Error::Unavailable(format!("{} does not name its user", session.shown())))?;
    let (user, is_super, bypasses): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let encoding: String = row.get(3);
    if is_super || bypasses {
        let has = if is_super { "is a superuser" } else { "has BYPASSRLS" };
        return Err(Error::NeedsOperator(format!(
            "{}: the user {user:?} {has}, which lets it pass the guard between tenants: \
             CREATE ROLE weir LOGIN PASSWORD '...'; CREATE DATABASE weir OWNER weir; and name that user in the URL",
            session.shown()
        ))
        .into());
    }
    if encoding != "UTF8" {
        return Err(Error::NeedsOperator(format!(
            "{}: the encoding of the database is {encoding}: create it with ENCODING 'UTF8' TEMPLATE template0",
            session.shown()
        ))
        .into());
    }
    Ok(())
}

/// True when all migrations were applied.
async fn is_complete(session: &mut Session, migrations: &[&str]) -> Outcome<bool> {
    let exists = session.first("SELECT to_regclass('weir.migrations') IS NOT NULL", &[]).await?;
    if !exists.is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    let rows = session.query("SELECT version, checksum FROM weir.migrations", &[]).await?;
    let applied: BTreeMap<i64, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if let Some((newest, _)) = applied.last_key_value().filter(|(newest, _)| **newest > known) {
        return Err(Error::NeedsOperator(format!(
            "{}: its schema has version {newest}, this release of Weir knows version {known}: run the release that \
             changed it, or restore a backup from before",
            session.shown()
        ))
        .into());
    }
    for (version, sql) in (1..).zip(migrations) {
        if applied.get(&version).is_some_and(|known| *known != checksum(sql)) {
            return Err(Error::NeedsOperator(format!(
                "{}: migration {version} was not the one of this release: run the release that made the schema, or \
                 restore a backup",
                session.shown()
            ))
            .into());
        }
    }
    Ok(applied.len() == migrations.len())
}

async fn migrate(session: &mut Session, migrations: &[&str]) -> Outcome<()> {
    let limit = format!("SET LOCAL statement_timeout = {}; ", PATIENCE.as_millis());
    let begin = format!(
        "{limit} SELECT pg_advisory_xact_lock({LOCK}); CREATE SCHEMA IF NOT EXISTS weir; \
         CREATE TABLE IF NOT EXISTS weir.migrations (version bigint PRIMARY KEY, checksum text NOT NULL, \
         applied timestamptz NOT NULL DEFAULT now())"
    );
    session.slow_batch(&begin, PATIENCE).await?;
    // Another process may have been first.
    is_complete(session, migrations).await?;
    let rows = session.query("SELECT version FROM weir.migrations", &[]).await?;
    let applied: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    for (version, sql) in (1_i64..).zip(migrations).filter(|(version, _)| !applied.contains(version)) {
        session.slow_batch(sql, PATIENCE).await?;
        let insert = "INSERT INTO weir.migrations (version, checksum) VALUES ($1, $2)";
        session.query(insert, &[&version, &checksum(sql)]).await?;
        tracing::info!(version, server = session.shown(), "the schema of the registry was changed");
    }
    Ok(())
}

/// Each table with rows of tenants has to have the guard, for its owner too.
async fn check_guard(session: &mut Session) -> Outcome<()> {
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped \
               WHERE n.nspname = 'weir' AND c.relkind IN ('r', 'p') \
               AND NOT (c.relrowsecurity AND c.relforcerowsecurity)";
    let open: Vec<String> = session.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect();
    match open.first() {
        None => Ok(()),
        Some(table) => Err(Error::NeedsOperator(format!(
            "{}: the guard between tenants is off for weir.{table}: ALTER TABLE weir.{table} ENABLE ROW LEVEL \
             SECURITY, FORCE ROW LEVEL SECURITY",
            session.shown()
        ))
        .into()),
    }
}

fn checksum(sql: &str) -> String {
    hex::encode(&Sha256::digest(sql))
}
