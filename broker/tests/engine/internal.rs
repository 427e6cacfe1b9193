//! Clients inside of the process.

use std::sync::Arc;
use std::time::Duration;

use door::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weir_broker::Config;

use crate::world::*;

/// CONNECT of MQTT 5 without a clean start, with a session that lasts 256 s.
fn connect(id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\0\0\0\x05\x11\0\0\x01\0".to_vec();
    body.extend_from_slice(&text(id));
    [vec![0x10, body.len() as u8], body].concat()
}

/// A client of this tenant inside of the process.
fn attach(world: &World, tenant: &str) -> DuplexStream {
    let (device, grants, ended, meter, expires) = (None, Arc::default(), None, None, None);
    let _entered = world.runtime.enter();
    world.broker.attach(Identity { tenant: tenant.into(), device, grants, ended, meter, expires })
}

/// Reads a packet of fewer than 128 bytes.
async fn packet(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; head[1].into()];
    stream.read_exact(&mut body).await.unwrap();
    (head[0], body)
}

/// The outcome, within 10 s.
fn within<T>(world: &World, outcome: impl Future<Output = T>) -> T {
    world.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), outcome).await }).expect("in time")
}

#[test]
fn a_client_of_the_process_has_a_tenant_and_gets_its_own_messages_not_back() {
    let mut world = World::new(true);
    let mut own = attach(&world, "a");
    within(&world, async {
        own.write_all(&connect("$weir/bridge/x")).await.unwrap();
        let (first, body) = packet(&mut own).await;
        assert_eq!((first, body[0], body[1]), (0x20, 0, 0));
        let subscribe = [&[0x82, 9, 0, 1, 0][..], &text("x/#")[..], &[2][..]].concat();
        own.write_all(&subscribe).await.unwrap();
        assert_eq!(packet(&mut own).await, (0x90, vec![0, 1, 0, 2]));
        // To itself, and only then that of another client.
        own.write_all(&[&[0x32, 9][..], &text("x/1"), &[0, 5, 0, b'm']].concat()).await.unwrap();
        let (first, body) = packet(&mut own).await;
        assert_eq!((first, body[1], body.get(2)), (0x40, 5, Some(&0x10)), "no matching subscriber");
    });
    world.of("b", "other", CLEAN, &[], None).publish("x/2", b"m", 0, 0, true);
    let mut same = world.of("a", "other", CLEAN, &[], None);
    same.publish("x/3", b"m", 0, 0, true);
    let (first, body) = within(&world, packet(&mut own));
    assert_eq!((first, &body[2..5]), (0x30, &b"x/3"[..]));
    world.stop();
    let end = within(&world, packet(&mut own));
    assert_eq!((end.0, end.1[0]), (0xE0, 0x8B), "the server is shutting down");
}

#[test]
fn neither_the_longest_expiry_nor_the_maximum_numbers_hold_for_it() {
    let config = Config { max_session_expiry_secs: 1, max_sessions: 0, max_connections: 0, ..Config::default() };
    let world = World::with(true, config);
    for present in [0, 1] {
        let mut own = attach(&world, "default");
        within(&world, async {
            own.write_all(&connect("$weir/bridge/x")).await.unwrap();
            let (first, body) = packet(&mut own).await;
            assert_eq!((first, body[0], body[1]), (0x20, present, 0));
            assert_ne!(body[3], 0x11, "the session lasts as long as the client asks for");
            own.write_all(&[0xE0, 0]).await.unwrap();
            assert_eq!(own.read(&mut [0]).await.unwrap(), 0);
        });
    }
    wait(|| world.metrics.connections.get() == 0 && world.broker.connections() == 0);
}

#[test]
fn no_other_client_gets_such_a_client_id() {
    let world = World::new(true);
    for (level, code) in [(4, 2), (5, 0x85)] {
        let mut peer = world.client();
        peer.connect(level, "$weir/bridge/x", CLEAN, 0, &[]);
        let (first, body) = peer.packet();
        assert_eq!((first, body[0], body[1]), (0x20, 0, code));
        assert!(peer.is_closed());
    }
}

#[test]
fn an_operator_who_drains_the_process_leaves_it_alone() {
    let world = World::new(true);
    let mut own = attach(&world, "a");
    within(&world, async {
        own.write_all(&connect("$weir/bridge/x")).await.unwrap();
        assert_eq!(packet(&mut own).await.0, 0x20);
    });
    let mut other = world.v4("other", CLEAN);
    world.broker.drain(None).unwrap();
    assert!(other.is_closed());
    wait(|| world.broker.drain_report().unwrap().open == 0);
    within(&world, async {
        own.write_all(&[0xC0, 0]).await.unwrap();
        assert_eq!(packet(&mut own).await, (0xD0, vec![]));
    });
}
