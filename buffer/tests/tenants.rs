//! Tenants with the same device ids, clients and topics in one log.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[expect(dead_code, reason = "other tests need the rest")]
mod common;
#[path = "common/redis.rs"]
mod server;

use std::sync::Arc;

use common::append;
use model::{DeviceKey, Schema, ValueRef};
use server::Server;
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::frame::{DeadLetterRef, ReadingHeader, Record, RetainedRef, Sent, Staged};
use weir_buffer::redis::Redis;
use weir_buffer::{Catalogue, Log};

const TENANTS: [&str; 2] = ["acme", "globex"];

/// Stages a reading, a dead letter with a device, one without, and a retained message of each
/// tenant: equal in everything but the tenant, the value or payload (the tenant's name) and, as
/// producers compute it from the tenant, the identity.
fn stage(tenants: &[&str], resent: bool) -> Staged {
    let mut staged = Staged::default();
    let schema = Arc::new(Schema::new(["owner"]));
    for name in tenants {
        let tenant: Arc<str> = (*name).into();
        let first = 10 * TENANTS.iter().position(|known| known == name).unwrap() as u64;
        let device = Arc::new(DeviceKey::new(name, "d1").unwrap());
        let header = ReadingHeader {
            time: 1,
            received: 2,
            identity: first + 1,
            seq: None,
            device_timed: true,
            claimed_time: None,
            trace: None,
            resent,
        };
        // The client of each tenant, over another connection when it sends again.
        let connection = if resent { 2 } else { 1 };
        let sent = |packet: u16| Sent { client: first, connection, packet, in_flight: resent };
        staged.message(Some(sent(1)));
        staged.reading(&device, &schema, &header, [Some(ValueRef::Str(name))]);
        for (packet, device) in [(2, Some(&device)), (3, None)] {
            let letter = DeadLetterRef {
                tenant: &tenant,
                device,
                received: 2,
                identity: first + u64::from(packet),
                reason: "not JSON",
                topic: "state",
                client: "c1",
                payload: name.as_bytes(),
            };
            staged.message(Some(sent(packet)));
            staged.dead_letter(&letter, resent);
        }
        let payload = name.as_bytes();
        staged.retained(&RetainedRef {
            tenant: &tenant,
            received: 2,
            qos: 1,
            topic: "state",
            payload,
            properties: &[],
        });
    }
    staged
}

/// The kind and tenant of each record in the log. Fails when a record has a part of another tenant.
async fn records(log: &dyn Log) -> Vec<String> {
    let mut found = Vec::new();
    let mut from = log.start();
    while from < log.end() {
        for frame in log.read(from, 1000).await.unwrap() {
            from = frame.header().end_offset();
            for (_, record) in frame.records() {
                let tenant: &str = record.tenant();
                let kind = match record {
                    Record::Reading(reading) => {
                        assert_eq!((&*reading.device.tenant, reading.device.id.as_ref()), (tenant, "d1"));
                        assert_eq!(reading.columns().collect::<Vec<_>>(), [Some(ValueRef::Str(tenant))]);
                        "reading"
                    }
                    Record::DeadLetter(letter) => {
                        assert_eq!((letter.payload, letter.topic, letter.client), (tenant.as_bytes(), "state", "c1"));
                        assert!(letter.device.is_none_or(|device| &*device.tenant == tenant));
                        if letter.device.is_some() { "letter of a device" } else { "letter" }
                    }
                    Record::Retained(message) => {
                        assert_eq!((message.payload, message.topic), (tenant.as_bytes(), "state"));
                        "retained"
                    }
                    Record::SessionEnd(_) => "session end",
                    Record::Destroyed(_) => panic!("no keys were destroyed"),
                };
                found.push(format!("{kind} {tenant}"));
            }
        }
    }
    found
}

fn all_of(tenants: &[&str]) -> Vec<String> {
    let kinds = ["reading", "letter of a device", "letter", "retained"];
    tenants.iter().flat_map(|tenant| kinds.map(|kind| format!("{kind} {tenant}"))).collect()
}

/// A resent message adds its retained message only, which has no identity.
fn resent_by(tenant: &str) -> String {
    format!("retained {tenant}")
}

#[tokio::test]
async fn tenants_do_not_meet_in_an_embedded_log_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { dir: dir.path().join("log"), segment_bytes: 16 << 10, ..Config::default() };
    let (log, batcher) = EmbeddedLog::open(config.clone(), Arc::default()).unwrap();
    append(&batcher, stage(&TENANTS[..1], false)).unwrap();
    // Marked as resent, but only the other tenant has sent the same message.
    append(&batcher, stage(&TENANTS[1..], true)).unwrap();
    let mut expected = all_of(&TENANTS);
    assert_eq!(records(&*log).await, expected);
    batcher.close();
    drop((log, batcher));
    let (log, batcher) = EmbeddedLog::open(config, Arc::default()).unwrap();
    assert_eq!(records(&*log).await, expected);
    append(&batcher, stage(&TENANTS, true)).unwrap();
    expected.extend(TENANTS.map(resent_by));
    assert_eq!(records(&*log).await, expected);
    batcher.close();
}

#[tokio::test]
async fn tenants_do_not_meet_in_a_log_on_redis_across_a_restart_of_the_server() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (log, batcher) = server.log().await;
    append(&batcher, stage(&TENANTS[..1], false)).unwrap();
    append(&batcher, stage(&TENANTS[1..], true)).unwrap();
    append(&batcher, stage(&TENANTS, true)).unwrap();
    let mut expected = all_of(&TENANTS);
    expected.extend(TENANTS.map(resent_by));
    assert_eq!(records(&*log).await, expected);
    server.restart();
    let reader = Redis::connect(server.config()).await.unwrap().open(log.id()).await.unwrap();
    assert_eq!(records(&*reader).await, expected);
    batcher.close();
}
