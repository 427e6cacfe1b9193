//! Servers that die, answers that are lost, letters that are missing, starts of nodes that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::fleet::{Arrival, Bus, Change, Forwarded, Interest, Route, SessionStore, Taking};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir_cluster::sessions::{Config, QueueFull};

use crate::node::{Node, append, client, message, options, quick, shown, until};
use crate::server::{Server, free_port, redis_at};

fn all(count: u64) -> Vec<(u64, String)> {
    (1..=count).map(|n| (n, n.to_string())).collect()
}

#[tokio::test]
async fn kill_9_of_the_server_loses_and_doubles_no_message_and_takes_no_client() {
    let Some(mut server) = Server::start(&[]) else { return };
    let (a, b) = (server.node("a", quick()).await, server.node("b", quick()).await);
    let owned = a.lasting("c", 1, 60).await;
    let mut last = 0;
    for round in 0..4 {
        for n in 1..=50 {
            last = b.fleet.submit(vec![append(&[&owned], &(round * 50 + n).to_string())]);
            if n == 25 {
                server.kill();
            }
        }
        if round % 2 == 0 {
            // For longer than a lease: no node is taken for dead after it.
            let begun = Instant::now();
            until(true, || begun.elapsed() > Duration::from_secs(2)).await;
        }
        server.restart();
        b.durable(last).await;
    }
    until(all(200), || a.arrived(&owned)).await;
    assert!(!a.arrivals().iter().any(|arrival| matches!(arrival, Arrival::Taken(..))), "{:?}", a.arrivals());
    let claimed = b.claim("c", false, 2).await;
    let session = claimed.session.unwrap();
    assert_eq!((session.messages.iter().map(shown).collect::<Vec<_>>(), session.last), (all(200), 200));
    assert!(claimed.taken_over);
}

/// A proxy that cuts its connections behind a number of commands that append, before the answers.
pub(crate) async fn cutting_proxy(to: u16, every: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, cuts) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&cuts);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let (seen, cuts) = (Arc::clone(&seen), Arc::clone(&counted));
            let (cut, mut is_cut) = tokio::sync::watch::channel(false);
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
                    let appends = bytes[..length].windows(8).any(|part| part == b"\r\n$1\r\nM\r");
                    if appends && seen.fetch_add(1, Ordering::SeqCst) % every == every - 1 {
                        cuts.fetch_add(1, Ordering::SeqCst);
                        cut.send(true).ok();
                    }
                    if to_server.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
                // Keeps the way to the server: it is to read what was sent.
                std::future::pending::<()>().await;
            });
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
                    if *is_cut.borrow_and_update() || to_client.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, cuts)
}

#[tokio::test]
async fn a_batch_whose_answer_is_lost_is_applied_once() {
    let Some(server) = Server::start(&[]) else { return };
    let a = server.node("a", quick()).await;
    let (port, cuts) = cutting_proxy(server.port, 5).await;
    let b = Node::open(&redis_at("b", port).await, quick()).await;
    let owned = a.lasting("c", 1, 60).await;
    for n in 1..=60 {
        b.apply(vec![append(&[&owned], &n.to_string())]).await;
    }
    until(all(60), || a.arrived(&owned)).await;
    assert!(cuts.load(Ordering::SeqCst) >= 5, "{cuts:?}");
    assert_eq!(a.fleet.messages(&owned, 0).await.unwrap().len(), 60);
}

#[tokio::test]
async fn letters_that_are_missing_are_noticed_and_so_is_an_ownership_that_they_ended() {
    let Some(server) = Server::start(&[]) else { return };
    let a = server.node("a", quick()).await;
    let (kept, taken) = (a.lasting("kept", 1, 60).await, a.lasting("taken", 2, 60).await);
    let b = server.node("b", quick()).await;
    // What arrives between is removed before the node reads it: in one step of the server.
    let steal = "local n = redis.call('KEYS', 'weir:{sessions}:n:a@*')[1] redis.call('HINCRBY', n, 'i', 3) \
                 local g = redis.call('HINCRBY', 'weir:{sessions}:g', 'epoch', 1) \
                 redis.call('HSET', 'weir:{sessions}:c:t\\0taken', 'e', g)";
    server.command(&["EVAL", steal, "0"]);
    b.apply(vec![append(&[&kept], "1")]).await;
    until(1, || a.arrived(&kept).len()).await;
    until(true, || a.arrivals().contains(&Arrival::Taken(taken.clone(), Taking::Continues))).await;
    let gaps = a.arrivals().iter().filter(|arrival| **arrival == Arrival::Gap).count();
    assert_eq!(gaps, 1);
    assert!(!a.arrivals().iter().any(|arrival| matches!(arrival, Arrival::Taken(owned, _) if *owned == kept)));
}

#[tokio::test]
async fn a_new_start_of_a_node_ends_the_earlier_one_at_once() {
    let Some(server) = Server::start(&[]) else { return };
    // A lease that does not pass in this test.
    let long = Config { lease: Duration::from_secs(300), ..Config::default() };
    let b = server.node("b", long.clone()).await;
    let old = server.node("a", long.clone()).await;
    let owned = old.lasting("c", 1, 60).await;
    let gone = old.claim("gone", true, 2).await.owned;
    old.apply(vec![
        Change::Subscribe(owned.clone(), "$share/g/x".into(), options()),
        Change::Interest("t".into(), "x".into(), Some(Interest::All)),
    ])
    .await;
    old.fleet.kill();
    let new = server.node("a", long).await;
    let tail = [Route::NodeUp("a".into()), Route::Presence(client("c"), false)];
    until(true, || tail.iter().all(|route| b.routes().contains(route))).await;
    let at = |route: &Route| b.routes().iter().rposition(|other| other == route);
    assert!(at(&Route::NodeDown("a".into())) < at(&tail[0]));
    until(0, || server.keys("own:") + server.keys("dead")).await;
    let claimed = b.claim("c", false, 3).await;
    assert!(!claimed.taken_over && claimed.owned.session == 1, "no node is asked to hand it over");
    assert!(!b.claim("gone", false, 4).await.taken_over);
    assert!(b.fleet.messages(&gone, 0).await.unwrap().is_empty());
    // What the earlier start had under way has no effect, and the new one works.
    let again = new.lasting("d", 5, 60).await;
    b.apply(vec![append(&[&again], "1")]).await;
    until(1, || new.arrived(&again).len()).await;
}

#[tokio::test]
async fn a_node_that_the_fleet_has_lost_begins_again_and_loses_its_clients() {
    let Some(server) = Server::start(&[]) else { return };
    let (a, b) = (server.node("a", quick()).await, server.node("b", quick()).await);
    let owned = a.lasting("c", 1, 60).await;
    a.apply(vec![Change::Interest("t".into(), "x".into(), Some(Interest::All))]).await;
    server.command(&["FLUSHALL"]);
    until(true, || a.arrivals().contains(&Arrival::Taken(owned.clone(), Taking::Continues))).await;
    let interest = Route::Interest("a".into(), "t".into(), "x".into(), Some(Interest::All));
    // Before and after.
    until(true, || {
        let routes = b.routes();
        let reset = routes.iter().rposition(|route| *route == Route::Reset(0));
        reset > Some(0) && routes.iter().rposition(|route| *route == interest) > reset
    })
    .await;
    assert!(b.fleet.claim(&client("c"), false, 2, None).await.unwrap().session.is_none());
    let next = a.lasting("d", 3, 60).await;
    b.apply(vec![append(&[&next], "1")]).await;
    until(1, || a.arrived(&next).len()).await;
}

#[tokio::test]
async fn a_queue_that_is_full_is_treated_as_configured_and_bytes_have_a_bound() {
    let Some(server) = Server::start(&[]) else { return };
    let few = |queue_full| Config { max_queued_messages: 3, queue_full, ..quick() };
    let a = server.node("a", few(QueueFull::DropOldest)).await;
    let b = server.node("b", few(QueueFull::DropNewest)).await;
    let small = Config { max_stored_bytes: 4_000, ..quick() };
    let c = server.node("c", small).await;
    let (first, second, third) =
        (a.lasting("1", 1, 60).await, a.lasting("2", 2, 60).await, a.lasting("3", 3, 60).await);
    for n in 1..=5 {
        a.apply(vec![append(&[&first], &n.to_string())]).await;
        b.apply(vec![append(&[&second], &n.to_string())]).await;
    }
    let left = async |owned| a.fleet.messages(owned, 0).await.unwrap().iter().map(|m| m.number).collect::<Vec<_>>();
    assert_eq!((left(&first).await, left(&second).await), (vec![3, 4, 5], vec![1, 2, 3]));
    let large = "x".repeat(1_000);
    for _ in 0..6 {
        c.apply(vec![append(&[&third], &large)]).await;
    }
    until(true, || a.arrivals().contains(&Arrival::Lost(third.clone()))).await;
    assert_eq!(left(&third).await.len(), 2, "with those of the others, no more have room");
    // All of it is given back.
    a.apply(vec![Change::End(first), Change::End(second), Change::End(third)]).await;
    assert_eq!(server.command(&["HGET", "weir:{sessions}:g", "bytes"]), "0");
    assert_eq!(server.keys("q:") + server.keys("m:") + server.keys("c:") + server.keys("t:"), 0);
}

#[tokio::test]
async fn a_message_of_many_sessions_is_stored_once_and_leaves_with_the_last() {
    let Some(server) = Server::start(&[]) else { return };
    let a = server.node("a", quick()).await;
    let mut owned = Vec::new();
    for n in 0..300 {
        owned.push(a.lasting(&n.to_string(), n + 1, 60).await);
    }
    let all: Vec<_> = owned.iter().collect();
    let payload = "x".repeat(10_000);
    a.apply(vec![append(&all, &payload)]).await;
    assert_eq!(server.keys("m:"), 3, "one for each piece of 128");
    for owned in &owned {
        until(1, || a.arrived(owned).len()).await;
    }
    let progress = broker::fleet::Progress { done_to: 1, done: vec![], sent_to: 1, ..Default::default() };
    a.apply(owned.iter().map(|owned| Change::Progress(owned.clone(), progress.clone())).collect()).await;
    assert_eq!((server.keys("m:"), server.keys("q:")), (0, 0));
    assert_eq!(server.command(&["HGET", "weir:{sessions}:g", "bytes"]), "0");
}

#[tokio::test]
async fn forwarded_messages_beyond_the_bound_are_dropped_and_changes_are_not() {
    let Some(mut server) = Server::start(&[]) else { return };
    let config = Config { max_forward_bytes: 10_000, ..quick() };
    let (a, b) = (server.node("a", config).await, server.node("b", quick()).await);
    let owned = b.lasting("c", 1, 60).await;
    server.kill();
    let forwarded = Forwarded {
        tenant: "t".into(),
        from: "s".into(),
        message: message(&"x".repeat(1_000)),
        share: None,
        is_routed: true,
    };
    let sent = (0..100).filter(|_| a.fleet.forward(&["b".into()], forwarded.clone())).count();
    assert!((5..10).contains(&sent), "{sent}");
    let ticket = a.fleet.submit(vec![append(&[&owned], "1")]);
    server.restart();
    a.durable(ticket).await;
    until(sent, || b.arrivals().iter().filter(|arrival| matches!(arrival, Arrival::Forwarded(_))).count()).await;
    until(1, || b.arrived(&owned).len()).await;
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_leaves_no_owner() {
    let Some(server) = Server::start(&[]) else { return };
    let a = server.node("a", quick()).await;
    for n in 0..50 {
        let id = n.to_string();
        let of = client(&id);
        let claim = a.fleet.claim(&of, true, n + 1, None);
        // It is dropped at one moment or another.
        drop(tokio::time::timeout(Duration::from_micros(n * 40), claim).await);
    }
    // A claim that has ended in time is not taken back.
    a.lasting("stays", 99, 60).await;
    let mut ended = 0;
    for n in 0..50 {
        let claimed = a.claim(&n.to_string(), false, 1000).await;
        a.apply(vec![Change::Leave(claimed.owned)]).await;
        ended += 1;
    }
    assert_eq!((ended, server.keys("c:")), (50, 1));
}

#[tokio::test]
async fn large_messages_of_a_session_come_in_pieces_and_a_long_queue_is_deleted_later() {
    let Some(server) = Server::start(&[]) else { return };
    let (a, b) = (server.node("a", quick()).await, server.node("b", quick()).await);
    let owned = a.lasting("c", 1, 60).await;
    let large = "x".repeat(100_000);
    for n in 1..=100 {
        let payload = format!("{n}{large}");
        b.apply(vec![append(&[&owned], if n % 2 == 0 { &payload } else { "small" })]).await;
    }
    let claimed = b.claim("c", false, 2).await;
    let messages = claimed.session.unwrap().messages;
    assert_eq!(messages.iter().map(|message| message.number).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
    assert_eq!(a.fleet.messages(&claimed.owned, 10).await.unwrap(), messages[10..]);
    b.apply(vec![Change::End(claimed.owned)]).await;
    until(0, || server.keys("q:") + server.keys("drop")).await;
    assert_eq!(server.command(&["HGET", "weir:{sessions}:g", "bytes"]), "0");
}

#[tokio::test]
async fn an_inbox_that_is_not_read_is_emptied_and_its_node_knows_it() {
    let Some(server) = Server::start(&[]) else { return };
    let slow = Config { max_arrived_bytes: 1, lease: Duration::from_secs(60), ..Config::default() };
    let redis = server.redis("slow").await;
    let slow = weir_cluster::sessions::RedisFleet::open(&redis, slow, Arc::default()).await.unwrap();
    let b = server.node("b", quick()).await;
    let claimed = slow.claim(&client("c"), true, 1, None).await.unwrap().owned;
    slow.begin(&claimed);
    let keep = slow.submit(vec![Change::Keep(claimed.clone(), 60)]);
    std::future::poll_fn(|cx| {
        slow.wake(keep, cx.waker());
        if slow.is_durable(keep) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    // Nothing is read: these fill the memory of the node, then its inbox.
    let large = message(&"x".repeat(1_000_000));
    for _ in 0..100 {
        let forwarded = Forwarded {
            tenant: "t".into(),
            from: "s".into(),
            message: Arc::clone(&large),
            share: None,
            is_routed: true,
        };
        assert!(b.fleet.forward(&["slow".into()], forwarded));
        b.apply(vec![append(&[&claimed], "x")]).await;
    }
    let bytes: u64 = server.command(&["MEMORY", "USAGE", &inbox(&server)]).trim_start_matches(':').parse().unwrap();
    assert!(bytes < 70_000_000, "{bytes}");
    let mut seen = Vec::new();
    while !seen.contains(&Arrival::Gap) {
        seen.extend(slow.arrivals().await);
    }
    assert_eq!(slow.messages(&claimed, 0).await.unwrap().len(), 100);
}

fn inbox(server: &Server) -> String {
    let script = "return redis.call('KEYS', 'weir:{sessions}:in:slow@*')[1]";
    server.command(&["EVAL", script, "0"])
}

#[tokio::test]
async fn one_server_of_a_cluster_has_all_of_it() {
    let bus = free_port().to_string();
    let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-require-full-coverage", "no"];
    let Some(server) = Server::start(&arguments) else { return };
    assert_eq!(server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
    until(true, || server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
    let config = |node: &str| buffer::redis::Config {
        urls: vec![format!("redis://127.0.0.1:{}", server.port)],
        cluster: true,
        node: node.into(),
        ..buffer::redis::Config::default()
    };
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let redis = buffer::redis::Redis::connect(config(name)).await.unwrap();
        nodes.push(Node::open(&redis, quick()).await);
    }
    let owned = nodes[0].lasting("c", 1, 60).await;
    let subscribed = Change::Subscribe(owned.clone(), "x".into(), options());
    nodes[0].apply(vec![subscribed, Change::Interest("t".into(), "x".into(), Some(Interest::All))]).await;
    nodes[1].apply(vec![append(&[&owned, &owned], "1")]).await;
    until(2, || nodes[0].arrived(&owned).len()).await;
    let interest = Route::Interest("a".into(), "t".into(), "x".into(), Some(Interest::All));
    until(true, || nodes[1].routes().contains(&interest)).await;
    let claimed = nodes[1].claim("c", false, 2).await;
    assert_eq!(claimed.session.unwrap().messages.len(), 2);
    nodes[1].fleet.forget("t").await.unwrap();
    until(0, || server.keys("c:") + server.keys("q:") + server.keys("rs") + server.keys("rn:")).await;
}
