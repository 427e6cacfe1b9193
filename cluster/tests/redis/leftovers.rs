//! Many messages of a shared subscription that one session leaves over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::fleet::{Bus, Change, Leftover, NextTaker, Owned, Placed, SessionStore};

use crate::node::{Node, append, client, options, quick, until};
use crate::server::Server;

const SHARE: &str = "$share/g/a/+";
/// Messages that are left over.
const ALL: usize = 20_000;
/// Messages of one submission.
const BATCH: usize = 1_000;
/// Messages that a node reads at a time, at most.
const PIECE: usize = 256;

fn placed() -> Placed {
    Placed { qos: 1, retain: false, ids: Vec::new(), share: Some(SHARE.into()), is_for_connected: false }
}

/// A client with a shared subscription, in a session that lasts.
async fn member(node: &Node, id: &str, session: u64) -> Owned {
    let owned = node.lasting(id, session, 60).await;
    node.apply(vec![Change::Subscribe(owned.clone(), SHARE.into(), options())]).await;
    owned
}

/// A message for a member of the shared subscription.
fn shared(owned: &Owned, number: usize) -> Change {
    let Change::Message { tenant, message, .. } = append(&[], &number.to_string()) else { unreachable!() };
    let takers = vec![(Arc::clone(&owned.client.id), owned.session, placed())];
    Change::Message { tenant, message, takers, source: None }
}

/// Hands each message on to one of two sessions in turn, as a node does. Notes the time and the
/// processor time of the server at each piece.
async fn hand_on(node: &Node, to: [Owned; 2], note: impl Fn(usize)) {
    loop {
        let some = node.fleet.leftovers(0).await;
        assert!(some.len() <= PIECE, "in parts");
        note(some.len());
        let change = |Leftover { client, session, message }: Leftover| {
            let Owned { client: taker, session: id, .. } = &to[message.number as usize % 2];
            let to = Box::new(NextTaker::Session(Arc::clone(&taker.id), *id, placed()));
            Change::HandOn { from: client, session, number: message.number, to }
        };
        node.apply(some.into_iter().map(change).collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_leaves_many_messages_over_costs_each_of_them_once() {
    let Some(server) = Server::start(&[]) else { return };
    let [a, b, c] = [server.node("a", quick()).await, server.node("b", quick()).await, server.node("c", quick()).await];
    let owned = member(&a, "gone", 1).await;
    let (present, away) = (member(&b, "present", 2).await, member(&c, "away", 3).await);
    c.apply(vec![Change::Leave(away.clone())]).await;
    for from in (0..ALL).step_by(BATCH) {
        a.apply((from..from + BATCH).map(|number| shared(&owned, number)).collect()).await;
    }
    a.apply(vec![Change::End(owned)]).await;
    let stored = server.stored_bytes();
    let begun = Instant::now();
    // Messages that were read, with the processor time of the server until then.
    let pieces = Arc::<parking_lot::Mutex<Vec<(usize, f64)>>>::default();
    let readers = [&b, &c].map(|node| {
        let pieces = Arc::clone(&pieces);
        let used = || server.processor();
        hand_on(node, [away.clone(), present.clone()], move |count| pieces.lock().push((count, used())))
    });
    let [first, second] = readers;
    tokio::select! {
        () = first => {}
        () = second => {}
        () = until(0, || server.keys("l:") + server.keys("left") + server.keys("q:1")) => {}
    }
    let took = begun.elapsed();
    until(ALL / 2, || b.arrived_count(&present)).await;
    let numbers = |from: usize| (from..ALL).step_by(2).map(|number| number.to_string()).collect::<Vec<_>>();
    let arrived: Vec<String> = b.arrived(&present).into_iter().map(|(_, payload)| payload).collect();
    assert!(arrived == numbers(0) || arrived == numbers(1), "in order, once");
    let claimed = c.fleet.claim(&client("away"), false, 9, None).await.unwrap();
    let stays = claimed.session.unwrap().messages;
    let stays: Vec<String> =
        stays.iter().map(|message| String::from_utf8_lossy(&message.message.payload).into_owned()).collect();
    assert!(stays == numbers(0) && arrived == numbers(1) || stays == numbers(1) && arrived == numbers(0));
    assert!(server.stored_bytes() <= stored, "none is stored twice");
    let pieces = pieces.lock();
    assert_eq!(pieces.iter().map(|(count, _)| count).sum::<usize>(), ALL, "each is read once");
    let at = |part: usize| pieces[(pieces.len() - 1) * part / 4].1;
    let (early, late) = (at(1) - at(0), at(4) - at(3));
    println!(
        "{ALL} messages handed on in {took:?}; redis {early:.2} s for the first quarter, {late:.2} s for the last"
    );
    assert!(late < 3.0 * early + 0.5, "{late} s for the last quarter, {early} s for the first");
    assert!(took < Duration::from_secs(120));
}
