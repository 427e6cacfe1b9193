//! Connections that are cut at any byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir_bridge::Direction;

use crate::world::*;

/// Messages of each side.
const COUNT: usize = 1500;

/// A way to `to` that is cut after a random number of bytes, some hundred to some thousand.
async fn cutting(to: SocketAddr, seed: u64, cuts: Arc<AtomicU64>, most: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut random = seed | 1;
        while let Ok((mut near, _)) = listener.accept().await {
            let Ok(mut far) = TcpStream::connect(to).await else { continue };
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut left = if cuts.load(Ordering::Relaxed) < most { 200 + random % 20_000 } else { u64::MAX };
            let (mut out, mut back) = ([0; 1000], [0; 1000]);
            // Bytes of one direction and of the other, until none are left.
            while left > 0 {
                let (read, buffer, stream) = tokio::select! {
                    read = near.read(&mut out) => (read, &out, &mut far),
                    read = far.read(&mut back) => (read, &back, &mut near),
                };
                let Ok(read @ 1..) = read else { break };
                let read = read.min(usize::try_from(left).unwrap_or(usize::MAX));
                left -= read as u64;
                if stream.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            cuts.fetch_add(u64::from(left == 0), Ordering::Relaxed);
        }
    });
    address
}

async fn cut(qos: u8) -> (Vec<String>, Vec<String>) {
    const CUTS: u64 = 12;
    let seed = u64::from(std::process::id()) * 7919 + u64::from(qos);
    println!("seed {seed}");
    let (edge, centre) = (Node::start(), Node::start());
    let mut at_edge = Client::connect(edge.address, "a").await;
    let mut at_centre = Client::connect(centre.address, "b").await;
    at_edge.subscribe("in", qos).await;
    at_centre.subscribe("out", qos).await;
    let cuts = Arc::new(AtomicU64::new(0));
    let way = cutting(centre.address, seed, Arc::clone(&cuts), CUTS).await;
    let bridge = Running::start(&edge, way, |config| {
        config.topic = vec![topic("out", Direction::Out, qos), topic("in", Direction::In, qos)];
    });
    bridge.connected().await;
    let mut edge_publishes = Client::connect(edge.address, "p").await;
    let mut centre_publishes = Client::connect(centre.address, "p").await;
    let mut n = 0;
    while n < COUNT || cuts.load(Ordering::Relaxed) < CUTS {
        edge_publishes.publish("out", &n.to_string(), qos).await;
        centre_publishes.publish("in", &n.to_string(), qos).await;
        n += 1;
        if cuts.load(Ordering::Relaxed) < CUTS && n > COUNT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let last = (n - 1).to_string();
    let to_last = async |client: &mut Client| {
        let mut got = Vec::new();
        while got.last() != Some(&last) {
            got.push(client.next().await.payload);
        }
        got
    };
    let got = tokio::join!(to_last(&mut at_centre), to_last(&mut at_edge));
    assert_eq!((bridge.metrics.lost(NAME, "local"), bridge.metrics.lost(NAME, "remote")), (0, 0));
    bridge.stop().await;
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_arrives_exactly_once_both_ways_at_whichever_byte_the_connection_is_cut() {
    let (out, back) = cut(2).await;
    assert_eq!(out, numbers(out.len()));
    assert_eq!(back, numbers(back.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_1_arrives_at_least_once_both_ways_and_in_order() {
    let (out, back) = cut(1).await;
    for mut got in [out, back] {
        let mut seen = std::collections::BTreeSet::new();
        got.retain(|payload| seen.insert(payload.clone()));
        assert_eq!(got, numbers(got.len()));
    }
}
