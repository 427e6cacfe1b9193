//! Server and client are killed in the midst of changes.

use super::*;
use crate::registry::server_contract::{check_keys, keys_of_a_killed_process, keys_of_a_killed_server, make_changes};

/// URI and database of the registry, in the process that is killed.
const URI: &str = "WEIR_REGISTRY_KILL_URI";
const TEST: &str = "registry::mongodb::tests::kill::a_killed_client_leaves_each_change_whole_or_not_made";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_has_each_acknowledged_change_once_after_its_restart() {
    let mut server = Mongod::start(true);
    let at = (server.uri(), "d".to_owned());
    let restart = || {
        server.0.kill();
        server.0.start_again();
    };
    let keys = keys_of_a_killed_server(connect(&at).await, (40, Duration::from_secs(90)), restart).await;
    server.primary().await;
    check_keys(&connect(&at).await, &keys).await;
}

#[tokio::test]
async fn a_killed_client_leaves_each_change_whole_or_not_made() {
    if let Some(at) = std::env::var_os(URI) {
        let (uri, database) = at.to_str().unwrap().split_once(' ').unwrap();
        return make_changes(&connect(&(uri.to_owned(), database.to_owned())).await).await;
    }
    let at = database().await;
    let registry = connect(&at).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        acknowledged.extend(keys_of_a_killed_process(TEST, (URI, &format!("{} {}", at.0, at.1))));
        // A transaction that the process left open is ended by the next change that meets it.
        registry.set_tenant_state("a", TenantState::Active, &origin()).await.unwrap();
        check_keys(&registry, &acknowledged).await;
    }
}
