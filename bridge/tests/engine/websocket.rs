//! The other broker over WebSocket.

use std::time::Duration;

use tls::{Metrics, Named, Port, Server, ServerFiles};
use weir_bridge::Direction;

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_any_size_go_both_ways_over_ws_and_wss() {
    let dir = tempfile::tempdir().unwrap();
    tls::create(dir.path(), &[], false).unwrap();
    let files = ServerFiles {
        certificate: Named::new("tls.certificate", dir.path().join("server.pem")),
        key: Named::new("tls.key", dir.path().join("server.key")),
        client_ca: None,
    };
    let limits = tls::Limits { timeout: Duration::from_secs(10), at_once: 8 };
    let server = Server::open(files, limits, false, Metrics::default()).unwrap();
    for tls in [None, Some(server.acceptor(Port::Mqtt))] {
        let scheme = if tls.is_some() { "wss" } else { "ws" };
        let (edge, (centre, web)) = (Node::start(), Node::web(tls));
        let mut at_edge = Client::connect(edge.address, "a").await;
        let mut at_centre = Client::connect(centre.address, "b").await;
        at_edge.subscribe("x/#", 2).await;
        at_centre.subscribe("x/#", 2).await;
        let bridge = Running::start(&edge, web, |config| {
            config.topic = vec![topic("x/#", Direction::Both, 2)];
            config.address = format!("{scheme}://localhost:{}", web.port());
            if scheme == "wss" {
                config.ca = dir.path().join("ca.pem");
            }
        });
        bridge.connected().await;
        for (n, bytes) in [1, 125, 126, 70_000, 300_000].into_iter().enumerate() {
            let payload = format!("{n}").repeat(bytes);
            at_edge.publish("x/edge", &payload, 2).await;
            at_centre.publish("x/centre", &payload, 1).await;
            for client in [&mut at_edge, &mut at_centre] {
                let got = [client.next().await, client.next().await];
                assert!(got.iter().all(|got| got.payload == payload), "{scheme}: {bytes} bytes");
            }
        }
        bridge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_the_request_is_named_with_its_answer() {
    let (edge, (centre, web)) = (Node::start(), Node::web(None));
    let bridge = Running::start(&edge, web, |config| config.address = format!("ws://{web}/elsewhere"));
    bridge.reports("404").await;
    bridge.stop().await;
    // One that does not speak WebSocket.
    let bridge = Running::start(&edge, centre.address, |config| config.address = format!("ws://{}", centre.address));
    bridge.reports("the WebSocket failed").await;
    bridge.stop().await;
}
