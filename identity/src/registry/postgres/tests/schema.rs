//! Versions of the schema.

use super::*;
use crate::registry::postgres::schema::MIGRATIONS;

/// The migrations of this release, and another one.
fn and(sql: &'static str) -> &'static [&'static str] {
    MIGRATIONS.iter().copied().chain([sql]).collect::<Vec<_>>().leak()
}

fn next() -> &'static [&'static str] {
    and("ALTER TABLE weir.tenants ADD COLUMN colour text")
}

/// Another one in place of the first.
fn other() -> &'static [&'static str] {
    ["CREATE TABLE weir.other (id int)"].iter().chain(&MIGRATIONS[1..]).copied().collect::<Vec<_>>().leak()
}

async fn with(url: &str, migrations: &'static [&'static str]) -> Result<PostgresRegistry> {
    let registry = PostgresRegistry::with_migrations(url, PostgresOptions::default(), migrations)?;
    registry.0.lease().await.map_err(Stop::error)?.give_back();
    Ok(registry)
}

#[tokio::test]
async fn a_newer_release_changes_the_schema_and_an_older_one_refuses_it() {
    let (_, url) = database().await;
    let old = connect(&url).await;
    old.create_tenant(tenant("a"), &origin()).await.unwrap();
    let new = with(&url, next()).await.unwrap();
    assert_eq!(new.tenant("a").await.unwrap(), Some(tenant("a")));
    let reason = operator(PostgresRegistry::connect(&url, PostgresOptions::default()).await);
    let versions = [MIGRATIONS.len() + 1, MIGRATIONS.len()].map(|version| format!("version {version}"));
    assert!(versions.iter().all(|version| reason.contains(version)), "{reason}");
    with(&url, next()).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_another_one_is_refused() {
    let (_, url) = database().await;
    connect(&url).await;
    let reason = operator(with(&url, other()).await);
    assert!(reason.contains("migration 1"), "{reason}");
}

#[tokio::test]
async fn a_migration_is_made_whole_or_not_at_all() {
    let (_, url) = database().await;
    connect(&url).await;
    operator(with(&url, and("ALTER TABLE weir.tenants ADD COLUMN a text; SELECT nonsense")).await);
    connect(&url).await;
    with(&url, next()).await.unwrap();
}

#[tokio::test]
async fn processes_that_start_at_once_make_the_schema_once() {
    let (_, url) = database().await;
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { with(&url, next()).await.map(drop) })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    let registry = with(&url, next()).await.unwrap();
    let sql = "SELECT version FROM weir.migrations ORDER BY version";
    let rows = registry.select(None, sql, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), (1..=next().len() as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_user_who_may_not_change_the_schema_uses_a_complete_one() {
    let (name, url) = database().await;
    connect(&url).await;
    let superuser = shared().superuser(&name).await;
    let grants = "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA weir TO app; \
                  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir TO app";
    superuser.batch_execute(grants).await.unwrap();
    let registry = connect(&shared().url("app", &name)).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 1);
}
