//! No token in logs, spans, metrics or errors; browsers; addresses.

use std::io;
use std::sync::{Arc, Mutex};

use identity::Role;
use model::trace::{Sampling, Span, Tracer};
use tracing_subscriber::fmt::MakeWriter;

use super::cases::case;
use super::client::{call, open};
use super::keys::{Keys, with_keys};
use super::rules;
use crate::calls::web;
use crate::world::{World, own_device};

#[derive(Clone, Default)]
pub(super) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logged {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Everything is on one thread, so that its subscriber gets the events of server and client.
#[tokio::test]
async fn no_token_is_in_a_log_a_span_a_metric_or_an_error() {
    let logged = Logged::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(logged.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let keys = Arc::new(Keys::default());
    let spans = Arc::new(Mutex::new(Vec::<Span>::new()));
    let tracer = Tracer::new(spans.clone(), Sampling { ratio: 1.0, ..Sampling::default() });
    let world = World::with(|config| {
        config.authenticator = Some(keys.clone());
        config.tracer = Some(tracer);
    })
    .await;
    let (good, revoked) = (keys.add(Role::Installation, None), keys.add(Role::Viewer, None));
    keys.revoke(&revoked);
    let mut errors = String::new();
    for (path, _) in rules() {
        for token in [&good, &revoked, &format!("{good}-wrong"), &"canary of unknown form".to_owned()] {
            let status =
                call(&world, &path, &[&format!("Bearer {token}")], case(&path).request("tenants/-", "d1")).await;
            errors += &format!("{status:?}");
        }
    }
    tracing::info!("the last line");
    let logged = logged.text();
    assert!(logged.contains("the last line") && logged.len() > 10_000, "the server's events are logged");
    let spans = format!("{:?}", spans.lock().unwrap());
    assert!(spans.contains("GetDevice"), "{spans}");
    for text in [&logged, &spans, &world.metrics_text(), &errors] {
        let found = text.lines().find(|line| line.contains("canary"));
        assert_eq!(found, None);
    }
}

#[tokio::test]
async fn a_browser_sends_its_key_over_grpc_web() {
    let (world, keys) = with_keys().await;
    let request = proto::v1::GetDeviceRequest { name: own_device("d1") };
    let answer = web(&world, "DeviceService/GetDevice", "", &request).await;
    assert!(answer.contains("grpc-status: 16\r\n"), "{answer}");
    let header = format!("Authorization: Bearer {}\r\n", keys.add(Role::Viewer, None));
    let answer = web(&world, "DeviceService/GetDevice", &header, &request).await;
    assert!(answer.contains("tenants/acme/devices/d1") && answer.contains("grpc-status:0"), "{answer}");
}

#[tokio::test]
async fn the_authenticator_gets_the_address_of_the_caller() {
    let (world, keys) = with_keys().await;
    open(&world, "/weir.v1.DeviceService/ListDevices", &[], Vec::new()).await.expect_err("no key");
    assert_eq!(*keys.peers.lock(), [Some("127.0.0.1".parse().unwrap())]);
}
