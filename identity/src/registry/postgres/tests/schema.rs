//! Versions of the schema.

use super::*;
use crate::registry::postgres::schema::MIGRATIONS;

const NEXT: &[&str] = &[MIGRATIONS[0], "ALTER TABLE weir.tenants ADD COLUMN colour text"];
const OTHER: &[&str] = &["CREATE TABLE weir.other (id int)"];
const BROKEN: &[&str] = &[MIGRATIONS[0], "ALTER TABLE weir.tenants ADD COLUMN a text; SELECT nonsense"];

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
    let new = with(&url, NEXT).await.unwrap();
    assert_eq!(new.tenant("a").await.unwrap(), Some(tenant("a")));
    let reason = operator(PostgresRegistry::connect(&url, PostgresOptions::default()).await);
    assert!(reason.contains("version 2") && reason.contains("version 1"), "{reason}");
    with(&url, NEXT).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_was_another_one_is_refused() {
    let (_, url) = database().await;
    connect(&url).await;
    let reason = operator(with(&url, OTHER).await);
    assert!(reason.contains("migration 1"), "{reason}");
}

#[tokio::test]
async fn a_migration_is_made_whole_or_not_at_all() {
    let (_, url) = database().await;
    connect(&url).await;
    operator(with(&url, BROKEN).await);
    connect(&url).await;
    with(&url, NEXT).await.unwrap();
}

#[tokio::test]
async fn processes_that_start_at_once_make_the_schema_once() {
    let (_, url) = database().await;
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { with(&url, NEXT).await.map(drop) })
        })
        .collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    let registry = with(&url, NEXT).await.unwrap();
    let sql = "SELECT version FROM weir.migrations ORDER BY version";
    let rows = registry.select(None, sql, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 2]);
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
