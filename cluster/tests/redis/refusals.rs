//! Changes that the server refuses: what passes is waited for, and the rest is not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use broker::fleet::contract::Waiting;
use broker::fleet::{Arrival, Change, Refusal, Route, SessionStore, Taking};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::faults::cutting_proxy;
use crate::node::{Node, append, options, quick, until};
use crate::server::{Server, redis_at};

async fn refusals(node: &Node, changes: Vec<Change>) -> Vec<Refusal> {
    let waiting = Arc::<Waiting>::default();
    let ticket = node.fleet.submit_for(changes, Some(Arc::clone(&waiting) as _));
    node.durable(ticket).await;
    waiting.refused()
}

#[tokio::test]
async fn a_change_that_the_server_fails_to_make_is_refused_and_those_beside_it_are_made() {
    let Some(server) = Server::start(&[]) else { return };
    let a = server.node("a", quick()).await;
    let (broken, whole) = (a.lasting("broken", 1, 60).await, a.lasting("whole", 2, 60).await);
    server.command(&["SET", "weir:{sessions}:q:1", "of another program"]);
    for n in 1..=3_u64 {
        let changes = vec![
            append(&[&broken], "x"),
            append(&[&whole], &n.to_string()),
            append(&[&broken], "x"),
            Change::Subscribe(broken.clone(), n.to_string(), options()),
        ];
        assert_eq!(refusals(&a, changes).await, [Refusal::Fault; 2]);
        until(n as usize, || a.arrived(&whole).len()).await;
    }
    server.command(&["DEL", "weir:{sessions}:q:1"]);
    assert_eq!(refusals(&a, vec![append(&[&broken], "y")]).await, []);
    until(1, || a.arrived(&broken).len()).await;
    assert_eq!(a.claim("broken", false, 5).await.session.unwrap().subscriptions.len(), 3);
}

#[tokio::test]
async fn a_refusal_whose_answer_is_lost_is_sent_again() {
    let Some(server) = Server::start(&[]) else { return };
    let (port, cuts) = cutting_proxy(server.port, 2).await;
    let a = Node::open(&redis_at("a", port).await, quick()).await;
    let b = server.node("b", quick()).await;
    let (old, taker) = (a.lasting("c", 1, 60).await, b.lasting("d", 2, 60).await);
    b.claim("c", false, 3).await;
    server.command(&["SET", "weir:{sessions}:q:1", "of another program"]);
    for n in 1..=10_u64 {
        let changes = vec![
            append(&[&taker], &n.to_string()),
            Change::Receipt(old.clone(), 1),
            append(&[&old], "x"),
            append(&[&taker], &n.to_string()),
        ];
        assert_eq!(refusals(&a, changes).await, [Refusal::NotOwned, Refusal::Fault]);
        until(2 * n as usize, || b.arrived(&taker).len()).await;
    }
    assert!(cuts.load(std::sync::atomic::Ordering::SeqCst) >= 5);
}

#[tokio::test]
async fn changes_wait_while_the_server_refuses_all() {
    let Some(server) = Server::start(&["--lua-time-limit", "100"]) else { return };
    let config = weir_cluster::sessions::Config { lease: Duration::from_secs(60), ..quick() };
    let a = server.node("a", config).await;
    let owned = a.lasting("c", 1, 60).await;
    let writer = server.command(&["EVAL", "return redis.call('KEYS', 'weir:{sessions}:w:a@*')[1]", "0"]);
    let port = server.port.to_string();
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "NOREPLICAS",
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        ("no master", &["REPLICAOF", "127.0.0.1", &port], &["REPLICAOF", "NO", "ONE"]),
        // A repetition alone is of no use.
        ("WRONGTYPE", &["SET", &writer, "of another program"], &["DEL", &writer]),
    ];
    let mut expected = 0;
    for (reason, begin, end) in cases {
        server.command(begin);
        let waiting = Arc::<Waiting>::default();
        let change = append(&[&owned], reason);
        let ticket = a.fleet.submit_for(vec![change], Some(Arc::clone(&waiting) as _));
        a.waits_for(reason).await;
        assert!(!a.fleet.is_durable(ticket) && waiting.refused().is_empty(), "{reason}");
        server.command(end);
        a.durable(ticket).await;
        expected += 1;
        until(expected, || a.arrived(&owned).len()).await;
        assert!(waiting.refused().is_empty(), "{reason}");
    }
}

/// A proxy that passes nothing on while it is told so, as a machine that is paused.
async fn pausing_proxy(to: u16) -> (u16, watch::Sender<bool>) {
    async fn pass(
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        paused: watch::Receiver<bool>,
    ) {
        let (mut bytes, mut paused) = (vec![0; 1 << 16], paused);
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            let goes_on = paused.wait_for(|paused| !paused).await.is_ok();
            if !goes_on || to.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (pause, paused) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pass(from_client, to_server, paused.clone()));
            tokio::spawn(pass(from_server, to_client, paused.clone()));
        }
    });
    (port, pause)
}

#[tokio::test]
async fn a_node_that_was_paused_for_longer_than_its_lease_makes_no_change_of_what_it_has_lost() {
    let Some(server) = Server::start(&[]) else { return };
    let (port, pause) = pausing_proxy(server.port).await;
    let a = Node::open(&redis_at("a", port).await, quick()).await;
    let b = server.node("b", quick()).await;
    let (old, away) = (a.lasting("c", 1, 60).await, a.lasting("away", 2, 60).await);
    let taker = b.lasting("taker", 3, 60).await;
    pause.send(true).unwrap();
    let waiting = Arc::<Waiting>::default();
    until(true, || b.routes().contains(&Route::NodeDown("a".into()))).await;
    until(0, || server.keys("own:a@")).await;
    assert!(!b.claim("c", false, 4).await.taken_over, "its start is over");
    let subscribe = Change::Subscribe(old.clone(), "x".into(), options());
    let of_another = Change::Subscribe(away.clone(), "x".into(), options());
    let ticket = a.fleet.submit_for(vec![subscribe, of_another], Some(Arc::clone(&waiting) as _));
    // The message of a client whose session is no matter of this node's start.
    a.fleet.submit(vec![append(&[&taker], "1")]);
    pause.send(false).unwrap();
    a.durable(ticket).await;
    assert_eq!(waiting.refused(), [Refusal::NotOwned; 2]);
    until(1, || b.arrived(&taker).len()).await;
    // It joins again at once for a client that connects, and gives up all that it had.
    let claimed = a.claim("away", false, 5).await;
    assert!(claimed.owned.session == 2 && claimed.session.unwrap().subscriptions.is_empty());
    until(true, || a.arrivals().contains(&Arrival::Taken(old.clone(), Taking::Continues))).await;
    assert_eq!(refusals(&a, vec![Change::Subscribe(claimed.owned, "y".into(), options())]).await, []);
}
