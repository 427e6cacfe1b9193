//! Servers with replicas, of which one takes over; and a cluster of several masters.

use std::collections::BTreeMap;

use broker::fleet::{Change, SessionStore};
use buffer::redis::Redis;

use crate::node::{Node, append, options, quick, shown, until};
use crate::redis_control::{cluster, until_one_is_primary};
use crate::sentinel::sentinel;
use crate::server::{Server, wait_until};

fn config(url: String, node: &str) -> buffer::redis::Config {
    buffer::redis::Config {
        urls: vec![url],
        replicas: 1,
        replica_timeout_ms: 300,
        response_timeout_ms: 500,
        connect_timeout_ms: 500,
        node: node.into(),
        ..buffer::redis::Config::default()
    }
}

async fn node(config: buffer::redis::Config) -> Node {
    Node::open(&Redis::connect(config).await.unwrap(), quick()).await
}

#[tokio::test]
async fn nothing_is_durable_and_no_message_arrives_before_a_replica_has_it() {
    let Some(primary) = Server::start(&[]) else { return };
    let mut replica = primary.replica();
    wait_until("the replica has the data", || replica.is_filled());
    let url = format!("redis://127.0.0.1:{}", primary.port);
    let (a, b) = (node(config(url.clone(), "a")).await, node(config(url, "b")).await);
    let owned = a.lasting("c", 1, 60).await;
    assert_eq!(replica.command(&["HGET", "weir:{sessions}:c:t\0c", "k"]), "60");
    b.apply(vec![append(&[&owned], "1")]).await;
    until(1, || a.arrived(&owned).len()).await;
    replica.kill();
    let ticket = b.fleet.submit(vec![append(&[&owned], "2"), Change::Subscribe(owned.clone(), "x".into(), options())]);
    b.waits_for("redis.replicas").await;
    assert_eq!(primary.command(&["XLEN", "weir:{sessions}:q:1"]), ":2", "it is applied");
    assert!(!b.fleet.is_durable(ticket) && a.arrived(&owned).len() == 1);
    replica.restart();
    b.durable(ticket).await;
    assert_eq!(replica.command(&["XLEN", "weir:{sessions}:q:1"]), ":2");
    until(2, || a.arrived(&owned).len()).await;
}

#[tokio::test]
async fn no_acknowledged_message_or_subscription_is_lost_or_doubled_when_a_replica_takes_over() {
    let Some(mut primary) = Server::start(&[]) else { return };
    let replicas = [primary.replica(), primary.replica()];
    let Some(sentinel) = sentinel(primary.port) else { return };
    wait_until("the sentinel knows the replicas", || {
        sentinel.command(&["INFO", "sentinel"]).contains("slaves=2") && replicas.iter().all(Server::is_filled)
    });
    let config = |node: &str| buffer::redis::Config {
        sentinel_master: Some("weir".into()),
        ..config(format!("redis://127.0.0.1:{}", sentinel.port), node)
    };
    let (a, b, c) = (node(config("a")).await, node(config("b")).await, node(config("c")).await);
    let owned = a.lasting("c", 1, 60).await;
    let publish = async |node: &Node, name: &str, from: u32, to: u32| {
        for n in from..to {
            let filter = format!("{name}/{n}");
            node.apply(vec![append(&[&owned], &filter)]).await;
        }
    };
    let subscribe = async |from: u32, to: u32| {
        for n in from..to {
            a.apply(vec![Change::Subscribe(owned.clone(), n.to_string(), options())]).await;
        }
    };
    let kill = async {
        until(true, || a.arrived(&owned).len() > 30).await;
        primary.kill();
    };
    tokio::join!(publish(&b, "b", 0, 60), publish(&c, "c", 0, 60), subscribe(0, 60), kill);
    until_one_is_primary(&replicas);
    until(120, || a.arrived(&owned).len()).await;
    let arrived: BTreeMap<u64, String> = a.arrived(&owned).into_iter().collect();
    let claimed = b.claim("c", false, 2).await;
    let session = claimed.session.unwrap();
    let stored: BTreeMap<u64, String> = session.messages.iter().map(shown).collect();
    assert_eq!(session.subscriptions.len(), 60);
    assert_eq!(arrived, stored, "the owner has each message under its number");
    for name in ["b", "c"] {
        let of = stored.values().filter(|payload| payload.starts_with(name)).cloned().collect::<Vec<_>>();
        assert_eq!(of, (0..60).map(|n| format!("{name}/{n}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn all_keys_are_at_one_master_of_a_cluster_and_nodes_find_it_again_when_it_was_killed() {
    let Some(mut servers) = cluster() else { return };
    let urls: Vec<String> = servers.iter().map(|server| format!("redis://127.0.0.1:{}", server.port)).collect();
    let config = |node: &str| buffer::redis::Config {
        urls: urls.clone(),
        cluster: true,
        replicas: 0,
        ..config(String::new(), node)
    };
    let (a, b) = (node(config("a")).await, node(config("b")).await);
    let owned = a.lasting("c", 1, 60).await;
    a.apply(vec![Change::Subscribe(owned.clone(), "x".into(), options())]).await;
    b.apply(vec![append(&[&owned], "1")]).await;
    until(1, || a.arrived(&owned).len()).await;
    let holds: Vec<usize> = servers.iter().map(|server| server.keys("c:")).collect();
    let at = holds.iter().position(|keys| *keys == 1).unwrap();
    assert_eq!(holds.iter().sum::<usize>(), 1);
    servers[at].kill();
    let waits = b.fleet.submit(vec![append(&[&owned], "2")]);
    servers[at].restart();
    b.durable(waits).await;
    until(2, || a.arrived(&owned).len()).await;
    assert_eq!(b.claim("c", false, 2).await.session.unwrap().messages.len(), 2);
}
