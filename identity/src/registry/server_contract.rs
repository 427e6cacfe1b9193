//! The rules that registries on servers keep beyond [`contract`](super::contract), as parts of
//! tests: several processes at once, and kills in the midst of changes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::contract::{key, origin, secret, tenant};
use super::{ChangeKind, Class, Error, Registry};
use crate::CredentialId;

pub(super) const WRITERS: usize = 8;
const CHANGES: usize = 20;
/// Changes of a process before it is killed.
const BEFORE_KILL: usize = 20;

/// Changes of many writers are read in order and without gaps. Each registry is that of a process.
pub(super) async fn are_read_in_order<R: Registry>(reader: &R, registries: Vec<R>) {
    for id in ["a", "b"] {
        reader.create_tenant(tenant(id), &origin()).await.unwrap();
    }
    let count = registries.len();
    let write = |(writer, registry): (usize, R)| {
        tokio::spawn(async move {
            let of = if writer % 2 == 0 { "a" } else { "b" };
            for n in 0..CHANGES {
                registry.create_credential(secret(of, &format!("{writer}-{n}")), &origin()).await.unwrap();
            }
        })
    };
    let writers: Vec<_> = registries.into_iter().enumerate().map(write).collect();
    let all = 2 + (count * CHANGES) as u64;
    let mut last = 0;
    while last < all {
        let changes = reader.changes(last, 7).await.unwrap();
        assert!(!changes.has_gap);
        for change in changes.entries {
            assert_eq!(change.number, last + 1, "no number is skipped, and none appears late");
            last = change.number;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for id in ["a", "b"] {
        let report = reader.verify_audit(id, None).await.unwrap();
        assert_eq!((report.verified.sequence, report.fault), (1 + (count * CHANGES / 2) as u64, None));
    }
}

/// Writers at once do not pass a limit.
pub(super) async fn do_not_pass_a_limit<R: Registry>(registries: Vec<R>) {
    registries[0].create_tenant(tenant("a"), &origin()).await.unwrap();
    let write = |registry: R| {
        tokio::spawn(async move { registry.create_credential(secret("a", "d"), &origin()).await.is_ok() })
    };
    let writers: Vec<_> = registries.into_iter().map(write).collect();
    let mut created = 0;
    for writer in writers {
        created += usize::from(writer.await.unwrap());
    }
    assert_eq!(created, Class::Device.most());
}

/// Each acknowledged key exists, with one event and one entry of the control log; and there are no
/// events, entries or keys without each other.
pub(super) async fn check_keys(registry: &dyn Registry, acknowledged: &[CredentialId]) {
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
        ChangeKind::Created(id) => Some(format!("apiKeys/{id}")),
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

/// Creates keys while the server is killed and restarted four times, each time after `changes` more
/// of them, which may take `bound`. Returns those that were acknowledged.
pub(super) async fn keys_of_a_killed_server(
    registry: impl Registry + Clone,
    (changes, bound): (usize, Duration),
    mut restart: impl FnMut(),
) -> Vec<CredentialId> {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let acknowledged = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let stopped = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (registry, acknowledged, stopped) = (registry.clone(), Arc::clone(&acknowledged), stopped.clone());
            tokio::spawn(async move {
                while !stopped.is_cancelled() {
                    let row = key("a");
                    match registry.create_credential(row.clone(), &origin()).await {
                        Ok(created) => {
                            assert!(created.row == row && !created.is_repeat);
                            acknowledged.lock().push(row.id);
                        }
                        Err(Error::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for round in 1..=4 {
        let begun = Instant::now();
        while acknowledged.lock().len() < round * changes {
            assert!(begun.elapsed() < bound, "changes are made again after a restart");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::block_in_place(&mut restart);
    }
    stopped.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    let acknowledged = acknowledged.lock();
    acknowledged.clone()
}

/// Runs the test `name` in a process of its own, with a variable in which it finds the registry and
/// calls [`make_changes`], and kills it in the midst of them. Returns the keys that it
/// acknowledged.
pub(super) fn keys_of_a_killed_process(name: &str, (variable, value): (&str, &str)) -> Vec<CredentialId> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(variable, value)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ids = lines.map_while(std::result::Result::ok);
    let ids = ids.filter_map(|line| CredentialId::parse(line.strip_prefix("created ")?));
    let ids: Vec<_> = ids.take(BEFORE_KILL).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ids.len(), BEFORE_KILL, "the process made changes until it was killed");
    ids
}

/// Creates keys, and prints the id of each one that is created, until the process is killed.
pub(super) async fn make_changes(registry: &dyn Registry) {
    loop {
        let created = registry.create_credential(key("a"), &origin()).await.expect("create a key");
        println!("created {}", created.row.id);
    }
}
