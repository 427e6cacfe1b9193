//! Server and client are killed in the midst of changes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::registry::contract::NOW;

/// URI and database of the registry, in the process that is killed.
const URI: &str = "WEIR_REGISTRY_KILL_URI";
const TEST: &str = "registry::mongodb::tests::kill::a_killed_client_leaves_each_change_whole_or_not_made";

/// Each acknowledged key exists, with one event and one entry of the control log; and there are no
/// events, entries or keys without each other.
async fn check(registry: &MongoRegistry, acknowledged: &[CredentialId]) {
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!(report.fault, None);
    let keys = registry.tenant_credentials("a", Class::ApiKey, None, 10_000).await.unwrap();
    let mut names: Vec<String> = keys.iter().map(|key| key.credential.name()).collect();
    let events = registry.audit("a", None, 10_000).await.unwrap();
    let mut audited: Vec<String> = events.iter().map(|event| event.resource.clone()).collect();
    audited.retain(|resource| resource != "tenants/a");
    let changes = registry.changes(0, 10_000).await.unwrap();
    assert!(!changes.has_gap && changes.entries.len() as u64 == changes.newest);
    let logged = changes.entries.iter().filter_map(|change| match change.kind {
        crate::ChangeKind::Created(id) => Some(format!("apiKeys/{id}")),
        _ => None,
    });
    let mut logged: Vec<String> = logged.collect();
    for list in [&mut names, &mut audited, &mut logged] {
        list.sort();
    }
    assert_eq!(names, audited);
    assert_eq!(names, logged);
    for id in acknowledged {
        assert!(names.binary_search(&format!("apiKeys/{id}")).is_ok(), "{id} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_has_each_acknowledged_change_once_after_its_restart() {
    let mut server = Mongod::start(true);
    let at = (server.uri(), "d".to_owned());
    let registry = connect(&at).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let acknowledged = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let stopped = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (registry, acknowledged, stopped) = (registry.clone(), Arc::clone(&acknowledged), stopped.clone());
            tokio::spawn(async move {
                let mut refusals = 0;
                while !stopped.is_cancelled() {
                    let row = Credential { expires: None, created: NOW, ..key("a") };
                    match registry.create_credential(row.clone(), &origin()).await {
                        Ok(created) => {
                            assert!(created.row == row && !created.is_repeat);
                            acknowledged.lock().push(row.id);
                        }
                        Err(Error::Unavailable(_)) => refusals += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                refusals
            })
        })
        .collect();
    for round in 1..=4 {
        let begun = std::time::Instant::now();
        while acknowledged.lock().len() < round * 40 {
            assert!(begun.elapsed() < Duration::from_secs(90), "changes are made again after a restart");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::block_in_place(|| {
            server.0.kill();
            server.0.start_again();
        });
    }
    stopped.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    server.primary().await;
    let acknowledged = acknowledged.lock().clone();
    check(&connect(&at).await, &acknowledged).await;
}

#[tokio::test]
async fn a_killed_client_leaves_each_change_whole_or_not_made() {
    if let Some(at) = std::env::var_os(URI) {
        let (uri, database) = at.to_str().unwrap().split_once(' ').unwrap();
        return make_changes(&(uri.to_owned(), database.to_owned())).await;
    }
    let at = database().await;
    let registry = connect(&at).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(URI, format!("{} {}", at.0, at.1))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ids = lines.map_while(std::result::Result::ok);
        let ids = ids.filter_map(|line| CredentialId::parse(line.strip_prefix("created ")?));
        let before = acknowledged.len();
        acknowledged.extend(ids.take(20));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(acknowledged.len(), before + 20, "the process made changes until it was killed");
        // A transaction that the process left open is ended by the next change that meets it.
        registry.set_tenant_state("a", TenantState::Active, &origin()).await.unwrap();
        check(&registry, &acknowledged).await;
    }
}

/// Creates keys, and prints the id of each one that is created, until the process is killed.
async fn make_changes(at: &(String, String)) {
    let registry = connect(at).await;
    loop {
        let created = registry.create_credential(key("a"), &origin()).await.expect("create a key");
        println!("created {}", created.row.id);
    }
}
