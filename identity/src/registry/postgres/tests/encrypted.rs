//! TLS to the server, with a certificate of the client.

use super::*;

async fn reason(url: &str) -> String {
    operator(PostgresRegistry::connect(url, PostgresOptions::default()).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_client_know_each_other_by_their_certificates() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tls::create(dir.path(), &[], false).unwrap();
    tls::create_client(dir.path(), "weir", false).unwrap();
    tls::create_client(dir.path(), "another", false).unwrap();
    tls::create(other.path(), &[], false).unwrap();
    let server = Postgres::encrypted(dir.path());
    let url = server.database("d").await;
    server.admit("hostssl all weir 127.0.0.1/32 cert").await;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let as_client = |name: &str| {
        let (ca, certificate, key) = (file("ca.pem"), file(&format!("{name}.pem")), file(&format!("{name}.key")));
        format!("{url}?sslrootcert={ca}&sslcert={certificate}&sslkey={key}")
    };
    let registry = connect(&as_client("weir")).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let sql = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl AND client_dn = '/CN=weir'";
    assert_eq!(registry.select(None, sql, &[]).await.unwrap()[0].get::<_, String>(0), "TLSv1.3");

    tls::create_client(dir.path(), "weir", true).unwrap();
    registry.0.pool.forget_idle();
    assert!(registry.tenant("a").await.unwrap().is_some(), "the renewed certificate is used");

    assert!(reason(&as_client("another")).await.contains("certificate authentication failed"));
    assert!(reason(&format!("{url}?sslrootcert={}", file("ca.pem"))).await.contains("sslcert"));
    let unknown = reason(&format!("{url}?sslrootcert={}", other.path().join("ca.pem").display())).await;
    assert!(unknown.contains("sslrootcert in the URL"), "{unknown}");
    assert!(reason(&format!("{url}?sslrootcert={}", file("missing.pem"))).await.contains("missing.pem"));
    assert!(reason(&format!("{url}?sslmode=disable")).await.contains("pg_hba.conf"));
}

#[tokio::test]
async fn a_server_without_tls_is_not_used_unless_the_url_allows_it() {
    let (_, url) = database().await;
    let refused = reason(&format!("{url}?sslmode=verify-full")).await;
    assert!(refused.contains("does not support TLS") && refused.contains("sslmode=disable"), "{refused}");
}
