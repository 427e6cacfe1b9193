//! Figures, printed: `cargo test -p weir-cluster --test redis -- figures --nocapture`.

use std::time::{Duration, Instant};

use broker::fleet::{Change, SessionStore};
use weir_cluster::sessions::Config;

use crate::node::{Node, append, client, options, until};
use crate::server::Server;

async fn storm(nodes: [&Node; 2], clients: usize, is_clean: bool) -> Vec<Duration> {
    const TASKS: usize = 64;
    let tasks = (0..TASKS).map(|task| {
        let fleet = std::sync::Arc::clone(&nodes[task % 2].fleet);
        tokio::spawn(async move {
            let mut times = Vec::new();
            for n in (task..clients).step_by(TASKS) {
                let begun = Instant::now();
                let client = client(&n.to_string());
                let claimed = loop {
                    match fleet.claim(&client, is_clean, n as u64 + 1, None).await {
                        Ok(claimed) => break claimed,
                        // The broker claims again, too; it counts for the time.
                        Err(away) => assert!(away.is_brief, "{away}"),
                    }
                };
                times.push(begun.elapsed());
                if is_clean {
                    fleet.submit(vec![Change::Keep(claimed.owned, 60)]);
                }
            }
            times
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.unwrap());
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_claims_and_messages() {
    const CLIENTS: usize = 10_000;
    const MESSAGES: usize = 20_000;
    let Some(server) = Server::start(&[]) else { return };
    let config = || Config { lease: Duration::from_secs(60), claim: Duration::from_secs(20), ..Config::default() };
    let (a, b) = (server.node("a", config()).await, server.node("b", config()).await);
    for (name, nodes, is_clean) in [("new", [&a, &b], true), ("continued elsewhere", [&b, &a], false)] {
        let (begun, used) = (Instant::now(), server.processor());
        let times = storm(nodes, CLIENTS, is_clean).await;
        assert_eq!(times.len(), CLIENTS);
        let secs = begun.elapsed().as_secs_f64();
        println!(
            "claims, {name}: {:.0}/s, p50 {:?}, p99 {:?}, longest {:?}; redis {:.1} us each",
            CLIENTS as f64 / secs,
            times[CLIENTS / 2],
            times[CLIENTS * 99 / 100],
            times[CLIENTS - 1],
            (server.processor() - used) * 1e6 / CLIENTS as f64
        );
    }
    let owned = a.lasting("taker", 1 << 40, 60).await;
    for bytes in [100, 1_000] {
        let payload = "x".repeat(bytes);
        let (begun, used) = (Instant::now(), server.processor());
        let before = a.arrived(&owned).len();
        let mut last = 0;
        for n in 0..MESSAGES {
            std::future::poll_fn(|cx| b.fleet.poll_room("t", cx)).await;
            last = b.fleet.submit(vec![append(&[&owned], &payload)]);
            if n % 1_000 == 999 {
                b.durable(last).await;
                let done_to = (before + n + 1) as u64;
                let progress =
                    broker::fleet::Progress { done_to, done: vec![], sent_to: done_to, ..Default::default() };
                until(true, || a.arrived(&owned).len() > before + n).await;
                a.fleet.submit(vec![Change::Progress(owned.clone(), progress)]);
            }
        }
        b.durable(last).await;
        until(before + MESSAGES, || a.arrived(&owned).len()).await;
        println!(
            "messages of {bytes} bytes: {:.0}/s, redis {:.1} us each",
            MESSAGES as f64 / begun.elapsed().as_secs_f64(),
            (server.processor() - used) * 1e6 / MESSAGES as f64
        );
    }
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        b.apply(vec![append(&[&owned], "x")]).await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("one message at a time: p50 {:?}, p99 {:?}", times[250], times[495]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_a_subscription_at_another_node() {
    const EACH: usize = 2_000;
    let Some(server) = Server::start(&[]) else { return };
    let config = || Config { lease: Duration::from_secs(60), ..Config::default() };
    let (a, b) = (server.node("a", config()).await, server.node("b", config()).await);
    let owned = a.lasting("c", 1, 60).await;
    until(true, || !b.routes().is_empty()).await;
    let (mut late, mut known) = (Vec::new(), b.known());
    for n in 0..EACH {
        a.apply(vec![Change::Subscribe(owned.clone(), format!("x/{n}"), options())]).await;
        let durable = Instant::now();
        let is_late = b.known() == known;
        while b.known() == known {
            assert!(durable.elapsed() < Duration::from_secs(10), "a route does not arrive");
            tokio::task::yield_now().await;
        }
        late.extend(is_late.then(|| durable.elapsed()));
        known += 1;
    }
    late.sort();
    println!(
        "subscriptions: {} of {EACH} were not known at the other node when they were durable; of these, half were \
         {:?} late, the last one {:?}",
        late.len(),
        late.get(late.len() / 2),
        late.last()
    );
}
