//! Reports of processes to each other.

use std::time::{Duration, Instant};

use buffer::redis::{Config, Redis};
use weir_cluster::members::{Exchange, Member, Members};

use crate::redis_control::wait_for;
use crate::server::Server;

const VALID: Duration = Duration::from_millis(500);

/// The exchange of a process, with its own connections: all have the same name, and another start.
async fn open(server: &Server, valid: Duration) -> Exchange {
    Members::of(&server.redis("test").await).exchange(&Member::new("test", "", ["ingest"], []), valid)
}

#[tokio::test]
async fn each_process_gets_the_reports_of_the_others_until_they_leave_or_die() {
    let Some(mut server) = Server::start(&[]) else { return };
    let [one, two, three] = [open(&server, VALID).await, open(&server, VALID).await, open(&server, VALID).await];
    assert!(one.report(b"one").await.unwrap().is_empty());
    assert_eq!(two.report(b"two \0\xff binary").await.unwrap(), [b"one"]);
    let mut heard = three.report(b"").await.unwrap();
    heard.sort();
    assert_eq!(heard, [b"one".to_vec(), b"two \0\xff binary".to_vec()]);
    // A later report replaces the one before it.
    one.report(b"one again").await.unwrap();
    let mut heard = two.report(b"two").await.unwrap();
    heard.sort();
    assert_eq!(heard, [b"".to_vec(), b"one again".to_vec()]);
    three.leave().await.unwrap();
    assert_eq!(two.report(b"two").await.unwrap(), [b"one again"]);
    // The first one is killed: it reports no more.
    let begun = Instant::now();
    wait_for("the first one is forgotten", async || two.report(b"two").await.unwrap().is_empty()).await;
    assert!(begun.elapsed() < VALID * 4, "{:?}", begun.elapsed());
    // The server loses nothing by a kill, not even its scripts' effects; they are loaded again.
    server.restart();
    wait_for("the server answers again", async || one.report(b"one").await.is_ok()).await;
    assert_eq!(two.report(b"two").await.unwrap(), [b"one"]);
}

#[tokio::test]
async fn pools_and_other_installations_do_not_hear_of_it() {
    let Some(server) = Server::start(&[]) else { return };
    let urls = vec![format!("redis://127.0.0.1:{}", server.port)];
    let other = Redis::connect(Config { urls, prefix: "other".into(), ..Config::default() }).await.unwrap();
    let other = Members::of(&other).exchange(&Member::new("test", "", ["ingest"], []), VALID);
    let one = open(&server, VALID).await;
    one.report(b"one").await.unwrap();
    assert!(other.report(b"other").await.unwrap().is_empty());
    assert!(one.report(b"one").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_and_nothing_waits_for_it() {
    let Some(mut server) = Server::start(&[]) else { return };
    let one = open(&server, VALID).await;
    one.report(b"one").await.unwrap();
    server.kill();
    assert!(one.report(b"one").await.is_err());
    server.restart();
    wait_for("the server answers again", async || one.report(b"one").await.is_ok()).await;
}

#[tokio::test]
#[ignore = "figures: run it with --ignored --nocapture"]
async fn figures_of_an_exchange() {
    let Some(server) = Server::start(&[]) else { return };
    const MINUTE: Duration = Duration::from_secs(60);
    let one = open(&server, MINUTE).await;
    let others = [open(&server, MINUTE).await, open(&server, MINUTE).await];
    for bytes in [100, 45_000, 256 << 10] {
        let report = vec![7; bytes];
        for other in &others {
            other.report(&report).await.unwrap();
        }
        let mut times = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            assert_eq!(one.report(&report).await.unwrap().len(), 2);
            times.push(begun.elapsed());
        }
        times.sort();
        println!("a report of {bytes} bytes: p50 {:?}, p99 {:?}", times[100], times[198]);
    }
}
