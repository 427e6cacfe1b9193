//! Reports of processes to each other.

use std::time::{Duration, Instant};

use weir_buffer::redis::{Config, Redis};

use crate::control::wait_for;
use crate::server::Server;

const VALID: Duration = Duration::from_millis(500);

async fn open(server: &Server) -> Redis {
    // As three processes, each with its own connections.
    Redis::connect(server.config()).await.unwrap()
}

#[tokio::test]
async fn each_process_gets_the_reports_of_the_others_until_they_leave_or_die() {
    let Some(mut server) = Server::start(&[]) else { return };
    let processes = [open(&server).await, open(&server).await, open(&server).await];
    let [one, two, three] = processes.each_ref().map(|redis| redis.exchange(VALID));
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
    let other = Redis::connect(Config { prefix: "other".into(), ..server.config() }).await.unwrap();
    let (one, other) = (open(&server).await.exchange(VALID), other.exchange(VALID));
    one.report(b"one").await.unwrap();
    assert!(other.report(b"other").await.unwrap().is_empty());
    assert!(one.report(b"one").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_and_nothing_waits_for_it() {
    let Some(mut server) = Server::start(&[]) else { return };
    let one = open(&server).await.exchange(VALID);
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
    let one = open(&server).await.exchange(Duration::from_secs(60));
    let others =
        [open(&server).await.exchange(Duration::from_secs(60)), open(&server).await.exchange(Duration::from_secs(60))];
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
