//! Three masters, a replica that takes over, TLS.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use weir_buffer::redis::{Config, Redis};
use weir_buffer::{Batcher, Catalogue, Cursor, Holder, Log};

use crate::common::{all, append, stage};
use crate::control::Producer;
use crate::redis_control::{cluster, until_one_is_primary, wait_for};
use crate::sentinel::sentinel;
use crate::server::{Server, free_port, wait_until};

const LONG: Duration = Duration::from_secs(600);

fn config(servers: &[Server], node: &str) -> Config {
    let urls = servers.iter().map(Server::url).collect();
    Config { urls, cluster: true, node: node.into(), ..servers[0].config() }
}

fn master_of<'s>(servers: &'s [Server], key: &str) -> (usize, &'s Server) {
    let slot: usize = servers[0].command(&["CLUSTER", "KEYSLOT", key])[1..].parse().unwrap();
    let at = (slot / 5461).min(2);
    (at, &servers[at])
}

#[tokio::test]
async fn logs_are_spread_over_the_masters_of_a_cluster_for_their_whole_life() {
    let Some(servers) = cluster() else { return };
    let mut used = std::collections::BTreeSet::new();
    let redis = Redis::connect(config(&servers, "n")).await.unwrap();
    let mut number = 0_u64;
    while used.len() < 3 {
        assert!(number < 100, "the logs are spread");
        let name = format!("node-{:x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let node = Redis::connect(config(&servers[..1], &name)).await.unwrap();
        let (log, batcher) = node.create(Arc::default()).await.unwrap();
        let key = format!("weir:{{{}}}:log", log.id());
        let (at, master) = master_of(&servers, &key);
        used.insert(at);
        append(&batcher, stage(0..10, false)).unwrap();
        assert_eq!(master.command(&["XLEN", &key]), ":1");
        batcher.close();
        let listed = redis.list().await.unwrap();
        assert_eq!(listed.iter().map(|log| log.id.as_str()).collect::<Vec<_>>(), [log.id()]);
        let reader = redis.open(log.id()).await.unwrap();
        assert_eq!(all(&*reader).await, (0..10).collect::<Vec<_>>());
        let holder = Holder { name: "f".into(), address: "a".into() };
        let lease = redis.claim(log.id(), &holder, LONG).await.unwrap().unwrap();
        let cursor = Cursor { done_to: 10, sealed_to: 10, epoch: lease.epoch, ..Cursor::default() };
        reader.move_cursor("history", cursor).await.unwrap();
        assert_eq!(reader.trim().await.unwrap(), 10);
        assert!(redis.renew(&lease, LONG).await.unwrap());
        assert!(redis.remove(&lease).await.unwrap());
        assert_eq!(redis.settled().await.unwrap()["history"].done_to, 10 * (number + 1));
        number += 1;
    }
}

#[tokio::test]
async fn a_log_is_followed_to_another_master_and_through_the_death_of_one() {
    let Some(mut servers) = cluster() else { return };
    let redis = Redis::connect(config(&servers, "n")).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    let reader = Redis::connect(config(&servers, "n")).await.unwrap().open(log.id()).await.unwrap();
    let producer = Producer::start(&batcher);
    producer.goes_on(20);
    let key = format!("weir:{{{}}}:log", log.id());
    let (from, _) = master_of(&servers, &key);
    let to = (from + 1) % 3;
    move_slot(&servers, log.id(), from, to);
    producer.goes_on(20);
    assert_ne!(servers[to].command(&["XLEN", &key]), ":0");
    servers[to].kill();
    wait_until("the writer has noticed", || log.state().blocked.is_some());
    servers[to].restart();
    producer.goes_on(20);
    let count = producer.end();
    wait_for("the reader sees the end", async || reader.end() == log.end()).await;
    assert_eq!(all(&*reader).await, (0..count).collect::<Vec<_>>());
    let fresh = Redis::connect(config(&servers, "n")).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(all(&*fresh).await, (0..count).collect::<Vec<_>>());
}

/// Moves the slot of a log like an administrator.
fn move_slot(servers: &[Server], log: &str, from: usize, to: usize) {
    let keys = ["meta", "log", "marks", "writer"].map(|part| format!("weir:{{{log}}}:{part}"));
    let slot = servers[0].command(&["CLUSTER", "KEYSLOT", &keys[0]])[1..].to_owned();
    let ids = [from, to].map(|at| servers[at].command(&["CLUSTER", "MYID"]));
    let set = |at: usize, what: &str, id: &str| {
        assert_eq!(servers[at].command(&["CLUSTER", "SETSLOT", &slot, what, id]), "+OK");
    };
    set(to, "IMPORTING", &ids[0]);
    set(from, "MIGRATING", &ids[1]);
    let port = servers[to].port.to_string();
    let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    migrate.extend(keys.iter().map(String::as_str));
    assert_eq!(servers[from].command(&migrate), "+OK");
    set(to, "NODE", &ids[1]);
    set(from, "NODE", &ids[1]);
    for other in (0..servers.len()).filter(|&other| other != from && other != to) {
        set(other, "NODE", &ids[1]);
    }
}

#[tokio::test]
async fn a_replica_takes_over_with_everything_that_was_acknowledged() {
    let Some(mut master) = Server::start(&[]) else { return };
    let replicas = [master.replica(), master.replica()];
    let Some(sentinel) = sentinel(master.port) else { return };
    let urls = vec![format!("redis://127.0.0.1:{}", free_port()), sentinel.url()];
    let config = Config {
        urls,
        sentinel_master: Some("weir".into()),
        replicas: 1,
        replica_timeout_ms: 500,
        response_timeout_ms: 500,
        // The sentinel may choose the replica that did not acknowledge the last frames: the writer
        // puts them back from its memory.
        ring_bytes: 1 << 20,
        ..master.config()
    };
    let redis = Redis::connect(config.clone()).await.unwrap();
    let (log, batcher): (_, Batcher) = redis.create(Arc::default()).await.unwrap();
    let producer = Producer::start(&batcher);
    producer.goes_on(20);
    let knows = |text: &str| sentinel.command(&["INFO", "sentinel"]).contains(text);
    wait_until("the sentinel knows the replicas", || knows("slaves=2"));
    wait_until("both replicas have the master's data", || replicas.iter().all(Server::is_filled));
    master.kill();
    until_one_is_primary(&replicas);
    producer.goes_on(20);
    let count = producer.end();
    let fresh = Redis::connect(config.clone()).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(all(&*fresh).await, (0..count).collect::<Vec<_>>());
    let wrong = Config { sentinel_master: Some("other".into()), ..config };
    let line = Redis::connect(wrong).await.unwrap_err().to_string();
    assert!(line.contains("redis.sentinel_master"), "{line}");
}

#[tokio::test]
async fn a_server_is_used_over_tls_and_its_certificate_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (file("cert.pem"), file("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=weir test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "openssl makes no certificate, and CI must run every test");
        println!("skipped: openssl makes no certificate");
        return;
    }
    let port = free_port();
    let arguments = ["--tls-port".to_owned(), port.to_string(), "--tls-cert-file".into(), certificate.clone()];
    let more = ["--tls-key-file".to_owned(), key.clone(), "--tls-ca-cert-file".into(), certificate.clone()];
    // The server's own certificate is also that of the client.
    let rest = ["--tls-auth-clients", "yes"];
    let all_arguments: Vec<&str> = arguments.iter().chain(&more).map(String::as_str).chain(rest).collect();
    let Some(server) = Server::start(&all_arguments) else { return };
    let config = Config {
        urls: vec![format!("rediss://127.0.0.1:{port}")],
        tls_ca_file: Some(certificate.clone().into()),
        tls_cert_file: Some(certificate.into()),
        tls_key_file: Some(key.into()),
        ..server.config()
    };
    let redis = Redis::connect(config.clone()).await.unwrap();
    let (log, batcher) = redis.create(Arc::default()).await.unwrap();
    append(&batcher, stage(0..10, false)).unwrap();
    let reader = Redis::connect(config.clone()).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(all(&*reader).await, (0..10).collect::<Vec<_>>());
    let unknown = Config { tls_cert_file: None, tls_key_file: None, ..config.clone() };
    assert!(Redis::connect(unknown).await.is_err(), "a client without a certificate is let in");
    let stranger = Redis::connect(Config { tls_ca_file: None, ..config }).await.unwrap_err().to_string();
    assert!(stranger.contains("certificate") || stranger.contains("UnknownIssuer"), "{stranger}");
}
