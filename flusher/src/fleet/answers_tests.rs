//! Calls about the logs of a pool.

use std::sync::Arc;

use cluster::members::{Peers, Secret, serve};
use proto::internal::v1::StatusRequest;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;

use super::tests::{log, start};
use super::{answers, call};
use crate::testing::{FakeCatalogue, World, until};

#[tokio::test]
async fn a_call_names_its_pool_and_a_process_without_that_pool_refuses_it() {
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let shared = start(&world, &catalogue, "a");
    let (world, catalogue) = (World::new(), Arc::new(FakeCatalogue::default()));
    let held = log(&world, &catalogue, "a~gold.1");
    let gold = start(&world, &catalogue, "a");
    until("the log of gold is held", async || gold.handle.status().iter().any(|sink| sink.log == "a~gold.1")).await;
    let secret = Secret::new("a secret of sixteen and more").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let pools = vec![(None, shared.handle.clone()), (Some("gold".into()), gold.handle.clone())];
    let serving = tokio::spawn(serve((listener, None), Routes::new(answers(pools)), secret.clone(), stop.clone()));
    let shared_peers = Peers::new(&secret, None, false, Arc::default());
    let asked = async |pool: Option<&str>| {
        let peers = shared_peers.of_pool(pool, Arc::default()).unwrap();
        let mut client = call::client(&peers, &format!("http://{to}")).unwrap();
        client.status(StatusRequest {}).await.map(|answer| answer.into_inner().sinks.len())
    };
    assert_eq!(asked(None).await.unwrap(), 0);
    assert!(asked(Some("gold")).await.unwrap() > 0);
    let refused = asked(Some("silver")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("\"silver\"") && refused.message().contains("[[pool]]"), "{refused}");
    stop.cancel();
    serving.await.unwrap().unwrap();
    drop(held);
    for running in [shared, gold] {
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
    }
}
