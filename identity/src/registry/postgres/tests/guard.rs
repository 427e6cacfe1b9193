//! The server itself keeps tenants apart: statements of a session of the tenant `a` that are forged
//! or forgot their condition.

use super::*;
use crate::registry::MemberChange;
use crate::registry::servers::Postgres;

const TABLES: [&str; 8] =
    ["tenants", "credentials", "requests", "audit", "audit_heads", "control", "groups", "group_members"];

/// A registry with rows of `a` and `b` in each table.
async fn with_two_tenants() -> (String, PostgresRegistry) {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    for id in ["a", "b"] {
        let by = Origin { request_id: Some("r".into()), ..origin() };
        registry.create_tenant(tenant(id), &origin()).await.unwrap();
        registry.create_credential(secret(id, "d"), &by).await.unwrap();
        registry.create_credential(key(id), &origin()).await.unwrap();
        registry.create_group(group(id, "g"), &origin()).await.unwrap();
        let change = MemberChange { added: vec!["d".into()], ..MemberChange::default() };
        registry.change_members(id, "g", &change, &origin()).await.unwrap();
    }
    (name, registry)
}

/// A session as the program uses it, in a transaction of the tenant `a`.
async fn session_of_a(registry: &PostgresRegistry) -> Lease {
    let mut lease = registry.0.lease().await.ok().unwrap();
    lease.session.batch("BEGIN").await.ok().unwrap();
    set_tenant(&mut lease.session, "a").await.ok().unwrap();
    lease
}

async fn tenants_in(registry: &PostgresRegistry, sql: &'static str) -> Vec<String> {
    let mut lease = session_of_a(registry).await;
    let rows = lease.session.query(sql, &[]).await.ok().unwrap();
    let mut tenants: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    tenants.sort();
    tenants.dedup();
    tenants
}

#[tokio::test]
async fn a_statement_without_a_condition_or_with_a_forged_one_reads_one_tenant() {
    let (_, registry) = with_two_tenants().await;
    for sql in [
        "SELECT tenant FROM weir.tenants",
        "SELECT tenant FROM weir.credentials",
        "SELECT tenant FROM weir.requests",
        "SELECT tenant FROM weir.audit",
        "SELECT tenant FROM weir.audit_heads",
        "SELECT tenant FROM weir.control",
        "SELECT tenant FROM weir.groups",
        "SELECT tenant FROM weir.group_members",
        "SELECT tenant FROM weir.credentials WHERE tenant = 'a' OR true",
        "SELECT c.tenant FROM weir.credentials c, weir.tenants t WHERE c.tenant = t.tenant OR true",
        "SELECT tenant FROM weir.credentials UNION ALL SELECT tenant FROM weir.audit",
    ] {
        assert_eq!(tenants_in(&registry, sql).await, ["a"], "{sql}");
    }
    for sql in [
        "SELECT tenant FROM weir.credentials WHERE tenant = 'b' OR tenant LIKE 'b%'",
        "SELECT tenant FROM weir.audit WHERE tenant <> 'a'",
        "SELECT f.body FROM weir.control c, weir.find_credential(c.body #>> '{kind,created}') f WHERE c.tenant = 'b'",
        "SELECT body FROM weir.list_tenants('', 10) WHERE body LIKE '%\"b\"%'",
        "SELECT body FROM weir.changes_after(0, 100) WHERE body LIKE '%\"b\"%'",
    ] {
        assert!(tenants_in(&registry, sql).await.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn a_forged_statement_changes_no_row_of_another_tenant() {
    let (name, registry) = with_two_tenants().await;
    let superuser = shared().superuser(&name).await;
    let rows_of_b = async || {
        let mut text = String::new();
        for table in TABLES {
            let sql = format!("SELECT t::text FROM weir.{table} t WHERE tenant = 'b' ORDER BY 1");
            for row in superuser.query(&sql, &[]).await.unwrap() {
                text.push_str(row.get(0));
            }
        }
        text
    };
    let before = rows_of_b().await;
    assert!(before.matches("\"b\"").count() > 3, "{before}");
    for table in TABLES {
        for forged in [
            format!("DELETE FROM weir.{table} WHERE tenant = 'b' OR true"),
            format!("UPDATE weir.{table} SET tenant = tenant WHERE tenant = 'b'"),
        ] {
            let lease = session_of_a(&registry).await;
            lease.session.batch(&forged).await.ok().unwrap();
            lease.session.batch("COMMIT").await.ok().unwrap();
            assert_eq!(rows_of_b().await, before, "{forged}");
        }
    }
    // Neither can a row be given to another tenant.
    let lease = session_of_a(&registry).await;
    let forged = "INSERT INTO weir.credentials (id, tenant, class, body) VALUES ('x', 'b', 'api_key', '{}')";
    let Err(stop) = lease.session.batch(forged).await else { panic!("the row was accepted") };
    assert!(stop.error().to_string().contains("row-level security"));
}

#[tokio::test]
async fn a_session_without_a_tenant_sees_no_rows_and_keeps_none_of_the_last() {
    let (_, registry) = with_two_tenants().await;
    let mut lease = session_of_a(&registry).await;
    lease.session.batch("COMMIT").await.ok().unwrap();
    for sql in ["SELECT tenant FROM weir.credentials", "SELECT tenant FROM weir.audit"] {
        assert!(lease.session.query(sql, &[]).await.ok().unwrap().is_empty());
    }
    let listed = lease.session.query("SELECT body FROM weir.list_tenants('', 10)", &[]).await.ok().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(lease.session.query("SELECT tenant FROM weir.tenants", &[]).await.ok().unwrap().is_empty());
}

#[tokio::test]
async fn a_user_who_passes_the_guard_is_refused() {
    let (name, url) = database().await;
    let superuser = shared().superuser(&name).await;
    let as_superuser = shared().url("postgres", &name);
    let reason = operator(PostgresRegistry::connect(&as_superuser, PostgresOptions::default()).await);
    assert!(reason.contains("superuser") && reason.contains("CREATE ROLE"), "{reason}");
    superuser.batch_execute("CREATE ROLE passes LOGIN BYPASSRLS").await.unwrap();
    let bypasses = shared().url("passes", &name);
    let reason = operator(PostgresRegistry::connect(&bypasses, PostgresOptions::default()).await);
    assert!(reason.contains("BYPASSRLS"), "{reason}");

    drop(connect(&url).await);
    for off in ["NO FORCE ROW LEVEL SECURITY", "DISABLE ROW LEVEL SECURITY"] {
        superuser.batch_execute(&format!("ALTER TABLE weir.audit {off}")).await.unwrap();
        let reason = operator(PostgresRegistry::connect(&url, PostgresOptions::default()).await);
        assert!(reason.contains("weir.audit") && reason.contains("FORCE ROW LEVEL SECURITY"), "{reason}");
    }
    let on = "ALTER TABLE weir.audit ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
    superuser.batch_execute(on).await.unwrap();
    connect(&url).await;
}

#[tokio::test]
async fn a_user_without_the_schema_or_a_wrong_password_is_an_error_with_its_cure() {
    let server = Postgres::start(&["fsync=off"]);
    let url = server.database("d").await;
    let superuser = server.superuser("d").await;
    superuser.batch_execute("CREATE ROLE other LOGIN").await.unwrap();
    let refused = PostgresRegistry::connect(&server.url("other", "d"), PostgresOptions::default()).await;
    let reason = operator(refused);
    assert!(reason.contains("permission denied") && reason.contains("owner of the database"), "{reason}");
    let refused = PostgresRegistry::connect(&server.url("weir", "missing"), PostgresOptions::default()).await;
    assert!(operator(refused).contains("create the database"));
    superuser.batch_execute("ALTER ROLE weir PASSWORD 'right'").await.unwrap();
    server.admit("host all all 127.0.0.1/32 scram-sha-256").await;
    let with = |password: &str| url.replace("weir@", &format!("weir:{password}@"));
    let options = PostgresOptions::default();
    let reason = operator(PostgresRegistry::connect(&with("wr0ng"), options).await);
    assert!(reason.contains("check user, password") && !reason.contains("wr0ng"), "{reason}");
    PostgresRegistry::connect(&with("right"), options).await.unwrap();
}
