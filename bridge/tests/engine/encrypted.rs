//! TLS to the other broker.

use std::time::Duration;

use tls::{Metrics, Named, Port, Server, ServerFiles};

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_prove_who_they_are_and_a_wrong_authority_is_reported() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path();
    tls::create(path, &[], false).unwrap();
    tls::create_client(path, "edge", false).unwrap();
    tls::create(other.path(), &[], false).unwrap();
    let files = ServerFiles {
        certificate: Named::new("tls.certificate", path.join("server.pem")),
        key: Named::new("tls.key", path.join("server.key")),
        client_ca: Some(Named::new("tls.client_ca", path.join("ca.pem"))),
    };
    let limits = tls::Limits { timeout: Duration::from_secs(10), at_once: 8 };
    let server = Server::open(files, limits, false, Metrics::default()).unwrap();
    let (edge, plain) = (Node::start(), broker::Config::default());
    let centre = Node::at(plain, Some(server.acceptor(Port::Mqtt)));
    let address = format!("mqtts://localhost:{}", centre.address.port());
    // The centre closes the connection of a client without a certificate.
    for (ca, has_certificate, words) in
        [(path, false, "the other broker"), (other.path(), true, "TLS handshake failed"), (path, true, "")]
    {
        let bridge = Running::start(&edge, centre.address, |config| {
            config.address.clone_from(&address);
            config.ca = ca.join("ca.pem");
            if has_certificate {
                (config.certificate, config.key) = (path.join("edge.pem"), path.join("edge.key"));
            }
        });
        if words.is_empty() {
            bridge.connected().await;
        } else {
            bridge.reports(words).await;
            assert!(!bridge.metrics.is_connected(NAME));
        }
        bridge.stop().await;
    }
}
