//! State that nodes of a fleet share, and a client of another tenant at each node that finds out
//! what the nodes know of each other.

use std::time::Instant;

use mqtt_client::{Ack, Connect, Publish, Subscription, Version};
use weir_broker::fleet::Client;
use weir_broker::fleet::memory::MemoryFleet;

use crate::Checked;
use crate::connection::{Connection, Incoming};
use crate::node::TENANT;
use crate::run::{PATIENCE, Run};

#[derive(Default)]
pub(crate) struct Fleet {
    pub(crate) store: MemoryFleet,
    probes: [Option<Connection>; 2],
    rounds: u32,
}

fn of_tenant(id: &str) -> Client {
    Client { tenant: TENANT.into(), id: id.into() }
}

impl Fleet {
    /// True when the store has a client: its session, or the node that it is connected to.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.store.session(&of_tenant(id)).is_some()
    }

    /// Sessions that last.
    pub(crate) fn sessions<'a>(&self, ids: impl Iterator<Item = &'a str>) -> usize {
        ids.filter(|id| self.store.session(&of_tenant(id)).is_some_and(|(_, session)| session.is_some())).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.store.clients(TENANT) == 0
    }

    pub(crate) fn killed(&mut self, node: usize) {
        self.probes[node] = None;
    }

    /// Ends the connections of its own.
    pub(crate) fn end(&mut self) {
        self.probes = [None, None];
    }

    /// Returns once each of the nodes knows what the others knew when this began: it waits until a
    /// message at each reaches a subscription at each other that it did not have before.
    fn sync(&mut self, nodes: &[std::net::SocketAddr]) -> Checked {
        for (probe, address) in self.probes.iter_mut().zip(nodes) {
            if probe.is_none() {
                *probe = Some(connect(*address, self.rounds)?);
                self.rounds += 1;
            }
        }
        self.rounds += 1;
        let topic = |to: usize| format!("probes/{}/{to}", self.rounds);
        for (to, probe) in self.probes.iter_mut().flatten().enumerate() {
            let (filter, mut out) = (topic(to), Vec::new());
            let wanted = Subscription { filter: &filter, ..Subscription::default() };
            mqtt_client::subscribe(&mut out, Version::V5, 1, &[], &[wanted]);
            probe.send(&out);
            until(probe, "SUBACK", |packet| matches!(packet, Incoming::Suback { .. }).then_some(()))?;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let topic = topic(to);
            let begun = Instant::now();
            while !publish(self.probes[from].as_mut().ok_or("a probe")?, &topic)? {
                if begun.elapsed() > PATIENCE {
                    return Err(format!("node {from} does not know a subscription at node {to} within {PATIENCE:?}"));
                }
            }
            let probe = self.probes[to].as_mut().ok_or("a probe")?;
            let is_it = |packet| matches!(packet, Incoming::Publish(delivery) if delivery.topic == topic).then_some(());
            until(probe, "the message of the other node", is_it)?;
        }
        Ok(())
    }
}

fn connect(address: std::net::SocketAddr, number: u32) -> Checked<Connection> {
    let mut connection = Connection::open(address, Version::V5);
    let (mut out, client_id) = (Vec::new(), format!("probe-{number}"));
    let packet = Connect {
        version: Version::V5,
        client_id: &client_id,
        clean_start: true,
        username: Some("probes"),
        ..Connect::default()
    };
    mqtt_client::connect(&mut out, &packet);
    connection.send(&out);
    until(&mut connection, "CONNACK", |packet| matches!(packet, Incoming::Connack { .. }).then_some(()))?;
    Ok(connection)
}

/// Publishes a message. True when it has a subscriber.
fn publish(probe: &mut Connection, topic: &str) -> Checked<bool> {
    let mut out = Vec::new();
    let message = Publish { topic, payload: b"m", qos: 1, packet_id: 1, ..Publish::default() };
    mqtt_client::publish(&mut out, Version::V5, &message);
    probe.send(&out);
    until(probe, "PUBACK", |packet| match packet {
        Incoming::Ack { ack: Ack::Puback, reason, .. } => Some(reason == 0),
        _ => None,
    })
}

/// Waits for a packet.
fn until<T>(probe: &mut Connection, what: &str, mut is: impl FnMut(Incoming) -> Option<T>) -> Checked<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe.receive()?.into_iter().find_map(&mut is) {
            return Ok(found);
        }
        if probe.is_closed || begun.elapsed() > PATIENCE {
            return Err(format!("no {what} within {PATIENCE:?} for a probe, closed {}", probe.is_closed));
        }
        std::thread::yield_now();
    }
}

impl Run {
    /// Waits until all nodes of a fleet know what was answered so far.
    pub(crate) fn sync(&mut self) -> Checked {
        if self.fleet.is_none() {
            return Ok(());
        }
        self.release();
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address).collect();
        self.fleet.as_mut().map_or(Ok(()), |fleet| fleet.sync(&addresses))?;
        self.model.synced();
        self.note("all nodes know what was answered");
        Ok(())
    }
}
