//! A node of several pools.

use std::sync::Arc;

use broker::fleet::{Arrival, Bus, Change, Client, Interest, Route, SessionStore};
use buffer::redis::Redis;
use weir_cluster::sessions::{Pool, Pooled};

use crate::node::{message, quick, until};
use crate::server::Server;

async fn redis(server: &Server, node: &str, pool: Option<&str>) -> Redis {
    let config = buffer::redis::Config {
        urls: vec![format!("redis://127.0.0.1:{}", server.port)],
        node: node.into(),
        pool: pool.map(str::to_owned),
        ..buffer::redis::Config::default()
    };
    Redis::connect(config).await.unwrap()
}

async fn node(server: &Server, name: &str) -> Pooled {
    node_of([server, server], name).await
}

async fn node_of(servers: [&Server; 2], name: &str) -> Pooled {
    let mut pools = Vec::new();
    for (server, pool) in servers.into_iter().zip([None, Some("gold")]) {
        let redis = redis(server, name, pool).await;
        pools.push(Pool { redis, config: quick(), metrics: Arc::default() });
    }
    let placement = |tenant: &str| match tenant {
        "plain" => Some(0),
        "gold" => Some(1),
        _ => None,
    };
    Pooled::open(&pools, Box::new(placement)).await.unwrap()
}

async fn apply(node: &Pooled, changes: Vec<Change>) {
    let ticket = node.submit(changes);
    std::future::poll_fn(|cx| {
        node.wake(ticket, cx.waker());
        if node.is_durable(ticket) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn client(tenant: &str) -> Client {
    Client { tenant: tenant.into(), id: "c".into() }
}

#[tokio::test]
async fn each_tenant_is_in_its_pool_and_a_node_is_up_once() {
    let Some(server) = Server::start(&[]) else { return };
    let (a, b) = (node(&server, "a").await, node(&server, "b").await);
    let mut arrived = 0;
    for tenant in ["plain", "gold"] {
        let owned = a.claim(&client(tenant), true, 1, None).await.unwrap().owned;
        a.begin(&owned);
        let placed = broker::fleet::Placed { qos: 1, retain: false, ids: vec![], share: None, is_for_connected: false };
        apply(
            &a,
            vec![Change::Keep(owned.clone(), 60), Change::Interest(tenant.into(), "x".into(), Some(Interest::All))],
        )
        .await;
        let takers = vec![("c".into(), 1, placed)];
        apply(&b, vec![Change::Message { tenant: tenant.into(), message: message("1"), takers, source: None }]).await;
        while arrived == 0 {
            arrived += a.arrivals().await.iter().filter(|a| matches!(a, Arrival::Message(..))).count();
        }
        arrived = 0;
    }
    assert_eq!(
        (server.keys("c:gold"), server.keys("c:plain")),
        (0, 1),
        "the other one is under the prefix of its pool"
    );
    assert!(b.claim(&client("other"), true, 1, None).await.is_err());

    let mut routes = Vec::new();
    let count = |routes: &[Route], of: &Route| routes.iter().filter(|route| *route == of).count();
    let interest = |tenant: &str| Route::Interest("a".into(), tenant.into(), "x".into(), Some(Interest::All));
    while count(&routes, &interest("plain")) == 0 || count(&routes, &interest("gold")) == 0 {
        routes.extend(b.routes().await);
    }
    assert_eq!(count(&routes, &Route::NodeUp("a".into())), 1);
    a.close().await.unwrap();
    while count(&routes, &Route::NodeDown("a".into())) == 0 {
        routes.extend(b.routes().await);
    }
    until(0, || server.keys("own:")).await;
    let claimed = b.claim(&client("gold"), false, 2, None).await.unwrap();
    assert!(!claimed.taken_over);
    assert_eq!(claimed.session.unwrap().messages.len(), 1);
}

#[tokio::test]
async fn a_pool_whose_server_is_away_delays_no_other() {
    let (Some(mut plain), Some(gold)) = (Server::start(&[]), Server::start(&[])) else { return };
    let a = node_of([&plain, &gold], "a").await;
    let mut owned = Vec::new();
    for tenant in ["plain", "gold"] {
        let claimed = a.claim(&client(tenant), true, 1, None).await.unwrap().owned;
        apply(&a, vec![Change::Keep(claimed.clone(), 60)]).await;
        owned.push(claimed);
    }
    plain.kill();
    let waits = a.submit(vec![Change::Receipt(owned[0].clone(), 1)]);
    for packet in 1..=20 {
        apply(&a, vec![Change::Receipt(owned[1].clone(), packet)]).await;
    }
    assert!(!a.is_durable(waits));
    assert!(a.claim(&client("gold"), false, 2, None).await.unwrap().session.is_some());
    plain.restart();
    a.flush().await;
    assert!(a.is_durable(waits));
}
