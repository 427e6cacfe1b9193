//! Server and client are killed in the midst of changes.

use super::*;
use crate::registry::server_contract::{check_keys, keys_of_a_killed_process, keys_of_a_killed_server, make_changes};

/// URL of the registry, in the process that is killed.
const URL: &str = "WEIR_REGISTRY_KILL_URL";
const TEST: &str = "registry::postgres::tests::kill::a_killed_client_leaves_each_change_whole_or_not_made";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_has_each_acknowledged_change_once_after_its_restart() {
    let mut server = Postgres::start(&[]);
    let url = server.database("d").await;
    let restart = || {
        server.0.kill();
        server.0.start_again();
    };
    let keys = keys_of_a_killed_server(connect(&url).await, (60, Duration::from_secs(60)), restart).await;
    server.superuser("d").await;
    check_keys(&connect(&url).await, &keys).await;
}

#[tokio::test]
async fn a_killed_client_leaves_each_change_whole_or_not_made() {
    if let Some(url) = std::env::var_os(URL) {
        return make_changes(&connect(url.to_str().unwrap()).await).await;
    }
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        acknowledged.extend(keys_of_a_killed_process(TEST, (URL, &url)));
        // The server ends the transaction of the process a moment later.
        let superuser = shared().superuser(&name).await;
        let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' \
                   AND pid <> pg_backend_pid()";
        while !superuser.query(sql, &[]).await.unwrap().is_empty() {}
        check_keys(&registry, &acknowledged).await;
    }
}
