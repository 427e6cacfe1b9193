//! The subscribers of other nodes, as each node knows them.

use std::sync::Arc;

use super::peer::Table;
use super::{Fixture, Peer, TENANT, client, options, until};
use crate::fleet::{Change, Interest, Node};

/// A subscription of a session that lasts is known at nodes that run, and at those that start.
pub async fn subscriptions_are_known_at_every_node(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let first = a.lasting("c", 1).await;
    let second = b.lasting("d", 2).await;
    a.apply(vec![
        Change::Subscribe(first.clone(), "x/#".into(), options(1)),
        Change::Subscribe(first.clone(), "y".into(), options(0)),
    ])
    .await;
    b.apply(vec![Change::Subscribe(second.clone(), "x/#".into(), options(2))]).await;
    let expected = |qos: u8| {
        let of =
            |id: &str, filter: &str, session, qos| ((client(id), filter.to_owned()), (session, options(qos), true));
        Vec::from([of("c", "x/#", 1, 1), of("c", "y", 1, qos), of("d", "x/#", 2, 2)])
    };
    let sessions = |peer: &Peer| peer.table().sessions.into_iter().collect::<Vec<_>>();
    for peer in [&a, &b] {
        until(expected(0), || sessions(peer)).await;
    }
    a.apply(vec![Change::Subscribe(first.clone(), "y".into(), options(2))]).await;
    let late = Peer::start(fixture, "late").await;
    for peer in [&a, &b, &late] {
        until(expected(2), || sessions(peer)).await;
    }
    b.continued("c").await;
    b.apply(vec![Change::Unsubscribe(second, "x/#".into())]).await;
    for peer in [&a, &b, &late] {
        until(expected(2)[..2].to_vec(), || sessions(peer)).await;
    }
    let nodes = |peer: &Peer| peer.table().nodes.into_iter().collect::<Vec<Node>>();
    for (peer, others) in [(&a, ["b", "late"]), (&b, ["a", "late"]), (&late, ["a", "b"])] {
        until(others.map(Node::from).to_vec(), || nodes(peer)).await;
    }
}

/// Nodes forget the subscriptions of a session that has ended, and none of the next one.
pub async fn the_end_of_a_session_ends_its_subscriptions(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let owned = a.lasting("c", 1).await;
    a.apply(vec![
        Change::Subscribe(owned.clone(), "x".into(), options(1)),
        Change::Subscribe(owned.clone(), "y".into(), options(1)),
    ])
    .await;
    until(2, || b.table().sessions.len()).await;
    a.apply(vec![Change::End(owned)]).await;
    let next = b.lasting("c", 2).await;
    b.apply(vec![Change::Subscribe(next.clone(), "x".into(), options(1))]).await;
    let late = Peer::start(fixture, "late").await;
    for peer in [&a, &b, &late] {
        until(vec![("c".to_owned(), "x".to_owned(), 2, true)], || of(&peer.table())).await;
    }
    b.apply(vec![Change::Leave(next)]).await;
    assert_eq!(a.claim("c", true, 3).await.session, None);
    for peer in [&a, &b, &late] {
        until(vec![], || of(&peer.table())).await;
    }
    assert_eq!(a.taken(), [], "it has ended its session itself");
}

fn of(table: &Table) -> Vec<(String, String, u64, bool)> {
    table.of().into_iter().map(|(id, filter, session, on)| (id.to_owned(), filter.to_owned(), session, on)).collect()
}

/// Messages of a shared subscription go to members that are there.
pub async fn members_of_shared_subscriptions_are_seen_to_come_and_go(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let mut owned = a.lasting("c", 1).await;
    a.apply(vec![Change::Subscribe(owned.clone(), "$share/g/x".into(), options(1))]).await;
    let mut node = &a;
    for (next, name) in [(&b, "late"), (&a, "later"), (&a, "latest")] {
        let expected = |on| vec![("c".to_owned(), "$share/g/x".to_owned(), 1, on)];
        for peer in [&a, &b] {
            until(expected(true), || of(&peer.table())).await;
        }
        node.apply(vec![Change::Leave(owned)]).await;
        let late = Peer::start(fixture, name).await;
        for peer in [&a, &b, &late] {
            until(expected(false), || of(&peer.table())).await;
        }
        owned = next.continued("c").await.0;
        until(expected(true), || of(&late.table())).await;
        node = next;
    }
}

/// A node knows the interests of all others, and is not told its own.
pub async fn interests_are_known_at_the_other_nodes(fixture: &dyn Fixture) {
    let [a, b] = [Peer::start(fixture, "a").await, Peer::start(fixture, "b").await];
    let set = |filter: &str, interest| Change::Interest(TENANT.into(), filter.to_owned(), interest);
    let other = Change::Interest("other".into(), "x".to_owned(), Some(Interest::All));
    a.apply(vec![set("x", Some(Interest::Qos0)), set("y", Some(Interest::All)), other]).await;
    b.apply(vec![set("x", Some(Interest::All))]).await;
    let of = |node: &str, tenant: &str, filter: &str, interest| {
        ((Node::from(node), Arc::<str>::from(tenant), filter.to_owned()), interest)
    };
    let known = |peer: &Peer| peer.table().interests.into_iter().collect::<Vec<_>>();
    let of_a = vec![
        of("a", "other", "x", Interest::All),
        of("a", TENANT, "x", Interest::Qos0),
        of("a", TENANT, "y", Interest::All),
    ];
    let of_b = vec![of("b", TENANT, "x", Interest::All)];
    until(of_a.clone(), || known(&b)).await;
    until(of_b.clone(), || known(&a)).await;
    let late = Peer::start(fixture, "late").await;
    until([of_a, of_b.clone()].concat(), || known(&late)).await;
    a.apply(vec![set("x", Some(Interest::All)), set("y", None), set("none", None)]).await;
    let of_a = vec![of("a", "other", "x", Interest::All), of("a", TENANT, "x", Interest::All)];
    until([of_a.clone(), of_b.clone()].concat(), || known(&late)).await;
    until(of_a, || known(&b)).await;
    assert_eq!(known(&a), of_b);
}
