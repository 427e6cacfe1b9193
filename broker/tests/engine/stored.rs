//! The operator's view of a fleet: sessions that no node holds.

use std::ops::Bound;

use model::glob::Glob;
use weir_broker::fleet::StoredSummary;
use weir_broker::{SessionQuery, SubscriptionQuery};

use crate::fleet::Nodes;
use crate::packets::*;
use crate::world::*;

const TENANT: &str = "default";

/// All sessions of the store that match, page by page.
fn sessions(world: &World, clients: &str, connected: Option<bool>, limit: usize) -> Vec<StoredSummary> {
    let clients = Glob::new(clients);
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let query = SessionQuery { clients: &clients, connected, from };
        let page = world.wait_for(world.broker.stored_sessions(TENANT, &query, limit)).unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

fn ids(found: &[StoredSummary]) -> Vec<&str> {
    found.iter().map(|of| &*of.client).collect()
}

/// Client, filter, and whether it is connected, of all that match, page by page.
fn subscriptions(world: &World, clients: &str, filters: &str, topic: Option<&str>, limit: usize) -> Vec<String> {
    let (clients, filters) = (Glob::new(clients), Glob::new(filters));
    let (mut all, mut after) = (Vec::new(), None::<(String, String)>);
    loop {
        let from = after.as_ref().map_or(Bound::Unbounded, |(client, filter)| Bound::Excluded((&**client, &**filter)));
        let query = SubscriptionQuery { clients: &clients, filters: &filters, topic, from };
        let page = world.wait_for(world.broker.stored_subscriptions(TENANT, &query, limit)).unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items.into_iter().map(|of| {
            assert_eq!((of.report.qos, of.node.as_deref()), (1, Some("b")));
            let state = if of.report.connected { "connected" } else { "away" };
            format!("{} {} {state}", of.report.client, of.report.filter)
        }));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn sessions_that_no_node_holds_are_listed_page_by_page() {
    for limit in [1, 2, 1000] {
        let nodes = Nodes::<2>::new();
        let [a, b] = [nodes.at(0), nodes.at(1)];
        for n in 0..5 {
            let mut peer = join(b, true, &format!("b-{n}"), 0);
            subscribe(&mut peer, true, 1, &[("x/#", 1), ("y/+", 1)]);
        }
        let mut here = join(b, true, "here", 0);
        subscribe(&mut here, true, 1, &[("x/1", 1), ("$share/g/x/+", 1)]);
        let mut short = join(b, true, "short", CLEAN);
        subscribe(&mut short, true, 1, &[("x/1", 1)]);
        (0..5).for_each(|n| nodes.wait_away(&format!("b-{n}")));
        // Twelve of sessions that last, and two interests of the other node.
        nodes.wait_known(0, 14);
        let mut publisher = join(a, true, "p", CLEAN);
        publish(&mut publisher, true, 0x32, "x/1", b"1");
        publish(&mut publisher, true, 0x32, "y/1", b"2");

        let all = ["b-0", "b-1", "b-2", "b-3", "b-4", "here"];
        assert_eq!(ids(&sessions(a, "*", None, limit)), all);
        assert_eq!(ids(&sessions(a, "*", Some(false), limit)), all[..5]);
        assert_eq!(ids(&sessions(a, "b*3", None, limit)), ["b-3"]);
        assert_eq!(ids(&sessions(a, "h*", Some(false), limit)), [""; 0]);
        let of = a.wait_for(a.broker.stored_session(TENANT, "b-3")).unwrap().unwrap();
        assert_eq!((of.is_connected, of.messages, of.subscriptions), (false, 2, 2));
        assert_eq!(of.node.as_deref(), Some("b"));
        assert_eq!(a.wait_for(a.broker.stored_session(TENANT, "short")).unwrap(), None);

        let away = |topic: &str| (0..5).map(|n| format!("b-{n} {topic} away")).collect::<Vec<_>>();
        assert_eq!(subscriptions(a, "b*", "x*", None, limit), away("x/#"));
        assert_eq!(subscriptions(a, "b*", "*", Some("y/z"), limit), away("y/+"));
        let here = ["here $share/g/x/+ connected", "here x/1 connected"];
        assert_eq!(subscriptions(a, "here", "*", None, limit), here);
        assert_eq!(subscriptions(a, "*", "*", Some("x/1"), limit).len(), 7);
        assert_eq!(subscriptions(a, "*", "*", None, limit).len(), 12);
    }
}

#[test]
fn a_session_whose_node_is_gone_is_ended_from_another_one() {
    let mut nodes = Nodes::<2>::new();
    let mut peer = join(nodes.at(1), true, "c", 0);
    subscribe(&mut peer, true, 1, &[("x", 1)]);
    nodes.wait_known(0, 2);
    let end = |nodes: &Nodes<2>| {
        let a = nodes.at(0);
        a.wait_for(a.broker.end_stored(TENANT, "c")).unwrap()
    };
    assert_eq!(end(&nodes), None, "its client is connected");
    nodes.kill(1);
    let a = nodes.at(0);
    let mut publisher = join(a, true, "p", CLEAN);
    publish(&mut publisher, true, 0x32, "x", b"1");
    let before = sessions(a, "*", Some(false), 10);
    assert_eq!((ids(&before), before[0].messages), (vec!["c"], 1));
    let (done, _) = end(&nodes).unwrap();
    assert_eq!((done.was_connected, done.discarded), (false, 1));
    assert_eq!(sessions(a, "*", None, 10), []);
    nodes.wait_known(0, 0);
    assert_eq!(subscriptions(a, "*", "*", None, 10), [""; 0]);
    assert_eq!(end(&nodes), None);
    let mut again = a.client();
    again.connect(5, "c", 0, 0, &[0x11, 0, 0, 0, 100]);
    assert_eq!(again.packet().1[0], 0, "no session is present");
}

#[test]
fn a_session_is_gone_from_the_store_when_its_end_has_returned() {
    let nodes = Nodes::<2>::new();
    let [a, b] = [nodes.at(0), nodes.at(1)];
    for is_away in [false, true] {
        let mut peer = join(b, true, "c", 0);
        subscribe(&mut peer, true, 1, &[("x", 1)]);
        if is_away {
            drop(peer);
            nodes.wait_away("c");
            nodes.wait_known(0, 1);
            let mut publisher = join(a, true, "p", CLEAN);
            publish(&mut publisher, true, 0x32, "x", b"1");
        }
        let done = b.wait_for(b.broker.disconnect(TENANT, "c", true)).unwrap();
        assert_eq!((done.was_connected, done.discarded), (!is_away, usize::from(is_away)));
        assert_eq!(sessions(a, "*", None, 10), []);
    }
}

#[test]
fn nothing_is_shown_of_a_store_that_is_away() {
    let nodes = Nodes::<2>::new();
    let a = nodes.at(0);
    drop(join(a, true, "c", 0));
    nodes.wait_away("c");
    nodes.fleet.away(true);
    let clients = Glob::new("*");
    let query = SessionQuery { clients: &clients, connected: None, from: Bound::Unbounded };
    assert!(a.wait_for(a.broker.stored_sessions(TENANT, &query, 10)).is_err());
    assert!(a.wait_for(a.broker.stored_session(TENANT, "c")).is_err());
    assert!(a.wait_for(a.broker.end_stored(TENANT, "c")).is_err());
    nodes.fleet.away(false);
    assert_eq!(ids(&sessions(a, "*", None, 10)), ["c"]);
    let alone = World::new(true);
    assert_eq!(sessions(&alone, "*", None, 10), []);
}
