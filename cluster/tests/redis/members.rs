//! The register of the processes.

use std::time::Duration;

use weir_cluster::members::{Member, Members, SecretError};

use crate::redis_control::wait_for;
use crate::server::Server;

const LONG: Duration = Duration::from_secs(600);

/// The nodes of members with their pools, in order.
fn described(members: &[Member]) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<_> = members.iter().map(|member| (member.to_string(), member.pools().to_vec())).collect();
    found.sort();
    found
}

#[tokio::test]
async fn processes_announce_themselves_and_their_pools_until_they_end() {
    let Some(server) = Server::start(&[]) else { return };
    let members = Members::of(&server.redis("test").await);
    let a = Member::new("a", "http://10.0.0.7:50052", ["ingest", "api"], ["silver", "gold"]);
    let b = Member::new("b", "", ["flusher"], []);
    let of_a = ("a@http://10.0.0.7:50052 (ingest, api)".to_owned(), vec!["gold".to_owned(), "silver".to_owned()]);
    let of_b = ("b (flusher)".to_owned(), Vec::new());
    assert_eq!(members.announce(&a, LONG).await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(described(&members.announce(&b, LONG).await.unwrap()), [of_a.clone(), of_b.clone()]);
    // Another start of a process with the same name is another process.
    let again = Member::new("b", "", ["flusher"], []);
    assert_eq!(members.announce(&again, LONG).await.unwrap().len(), 3);
    members.withdraw(&again).await.unwrap();
    // A reader that is none of them.
    let reader = Members::of(&server.redis("other").await);
    assert_eq!(described(&reader.list().await.unwrap()), [of_a.clone(), of_b]);
    members.withdraw(&b).await.unwrap();
    assert_eq!(reader.list().await.unwrap(), std::slice::from_ref(&a));
    // One that is not announced again is gone after its time.
    members.announce(&a, Duration::from_millis(200)).await.unwrap();
    wait_for("it expires", async || reader.list().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn the_first_secret_that_is_offered_is_everyones() {
    let Some(server) = Server::start(&[]) else { return };
    let (one, other) = (Members::of(&server.redis("a").await), Members::of(&server.redis("b").await));
    assert_eq!(one.token_secret([1; 32]).await.unwrap(), [1; 32]);
    assert_eq!(other.token_secret([2; 32]).await.unwrap(), [1; 32]);
    assert_eq!(one.token_secret([3; 32]).await.unwrap(), [1; 32]);
    server.command(&["SET", "weir:{logs}:secret", "short"]);
    let key = "weir:{logs}:secret".to_owned();
    assert_eq!(one.token_secret([1; 32]).await.unwrap_err(), SecretError::Damaged { key });
}
