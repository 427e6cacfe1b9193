//! One run: the broker, the clients, and what arrives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_client::{Ack, Publish, Version};

use crate::Checked;
use crate::client::Client;
use crate::connection::{Connection, Incoming};
use crate::fleet::Fleet;
use crate::log::Log;
use crate::model::{Model, Number, payload};
use crate::node::Node;
use crate::random::Random;

/// Time for what has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Run {
    pub(crate) random: Random,
    /// One broker, or the nodes of a fleet.
    pub(crate) nodes: Vec<Node>,
    /// None for one broker.
    pub(crate) fleet: Option<Fleet>,
    pub(crate) clients: Vec<Client>,
    pub(crate) model: Model,
    /// The log is held.
    pub(crate) is_held: bool,
    /// Connections of clients of another tenant.
    pub(crate) strangers: Vec<Connection>,
    begun: Instant,
    trace: Vec<String>,
}

impl Run {
    pub(crate) fn new(seed: u64, in_fleet: bool) -> Self {
        let mut random = Random::new(seed);
        let versions = [Version::V4, Version::V5, *random.pick(&[Version::V4, Version::V5]), Version::V5];
        let clients: Vec<_> =
            versions.into_iter().enumerate().map(|(n, version)| Client::new(format!("c{n}"), version)).collect();
        let model = Model::new(clients.len(), in_fleet);
        let fleet = in_fleet.then(Fleet::default);
        let (names, log) = (if in_fleet { &["n", "m"][..] } else { &["n"] }, Arc::new(Log::default()));
        let shared = || fleet.as_ref().map(|fleet| fleet.store.clone());
        let nodes = names.iter().map(|name| Node::start(name, Arc::clone(&log), shared())).collect();
        Self {
            random,
            nodes,
            fleet,
            clients,
            model,
            is_held: false,
            strangers: Vec::new(),
            begun: Instant::now(),
            trace: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        self.trace.push(format!("{:>6} ms  {what}", self.begun.elapsed().as_millis()));
    }

    /// The last steps and packets.
    pub(crate) fn trace(&self) -> String {
        self.trace[self.trace.len().saturating_sub(300)..].join("\n")
    }

    /// Reads what has arrived for clients that read.
    pub(crate) fn pump(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            if self.clients[client].is_deaf {
                continue;
            }
            let Some(connection) = &mut self.clients[client].connection else { continue };
            let packets = connection.receive()?;
            let is_closed = connection.is_closed;
            for packet in packets {
                self.handle(client, packet)?;
            }
            if is_closed {
                return Err(format!("the broker closed client {client}: {:02x?}", self.clients[client].farewell));
            }
        }
        self.strangers.iter_mut().for_each(Connection::skip);
        Ok(())
    }

    /// Waits for a state.
    pub(crate) fn wait(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> Checked {
        let begun = Instant::now();
        while !is(self) {
            self.pump()?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("not within {PATIENCE:?}: {what}"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn handle(&mut self, client: usize, packet: Incoming) -> Checked {
        self.note(format_args!("c{client} gets {}", Brief(&packet)));
        let (connection, node) = (self.clients[client].number, self.clients[client].node);
        match packet {
            Incoming::Publish(delivery) => {
                self.model.delivered(client, connection, node, &delivery)?;
                if delivery.qos > 0 {
                    let held = &mut self.clients[client];
                    held.open.insert(delivery.packet_id);
                    let most = held.receive_maximum.map_or(usize::MAX, usize::from);
                    if held.open.len() > most {
                        return Err(format!("{} messages in flight to client {client}", held.open.len()));
                    }
                    let ack = if delivery.qos == 1 { Ack::Puback } else { Ack::Pubrec };
                    held.answers.push_back((ack, delivery.packet_id));
                }
            }
            Incoming::Ack { ack: Ack::Pubrel, packet_id, reason } => {
                self.model.released(client, packet_id, reason)?;
                self.clients[client].answers.push_back((Ack::Pubcomp, packet_id));
            }
            Incoming::Ack { ack: Ack::Pubcomp, packet_id, .. } => {
                let out = &mut self.clients[client].out;
                let at = out.iter().position(|out| out.packet_id == packet_id && out.is_recorded);
                out.remove(at.ok_or(format!("PUBCOMP {packet_id}, which was not released"))?);
            }
            Incoming::Ack { ack, packet_id, reason } => self.acknowledged(client, ack, packet_id, reason)?,
            Incoming::Suback { packet_id, reasons } => {
                self.model.granted(client, packet_id, Some(reasons[0]))?;
            }
            Incoming::Unsuback { packet_id } => self.model.granted(client, packet_id, None)?,
            Incoming::Disconnect(reason) => self.clients[client].farewell = Some(reason),
            Incoming::Pong => {}
            Incoming::Connack { .. } => return Err("CONNACK once more".into()),
        }
        if !self.clients[client].holds {
            self.answer(client, usize::MAX);
        }
        Ok(())
    }

    /// PUBACK or PUBREC for a message of a client. They come in the order of its messages.
    fn acknowledged(&mut self, client: usize, ack: Ack, packet_id: u16, reason: u8) -> Checked {
        let held = &mut self.clients[client];
        let qos = if ack == Ack::Puback { 1 } else { 2 };
        let first = held.out.iter().position(|out| !out.is_recorded).ok_or("an acknowledgement of nothing")?;
        let out = held.out[first];
        if (out.packet_id, out.qos) != (packet_id, qos) {
            return Err(format!("{ack:?} {packet_id}, and {out:?} is the next"));
        }
        if qos == 1 {
            held.out.remove(first);
        } else {
            held.out[first].is_recorded = true;
            held.answers.push_back((Ack::Pubrel, packet_id));
        }
        let code = (held.version == Version::V5).then_some(reason);
        match out.number {
            Some(number) => self.model.acknowledged(number, code),
            None => Ok(()),
        }
    }

    /// Sends this many acknowledgements of a client.
    pub(crate) fn answer(&mut self, client: usize, count: usize) {
        let count = count.min(self.clients[client].answers.len());
        for (ack, packet_id) in self.clients[client].answers.drain(..count).collect::<Vec<_>>() {
            self.note(format_args!("c{client} sends {ack:?} {packet_id}"));
            let held = &mut self.clients[client];
            held.send(|out, version| mqtt_client::ack(out, version, ack, packet_id, 0));
            match ack {
                Ack::Puback | Ack::Pubrec => self.model.answered(client, held.number, packet_id),
                Ack::Pubrel | Ack::Pubcomp => {}
            }
            if matches!(ack, Ack::Puback | Ack::Pubcomp) {
                held.open.remove(&packet_id);
            }
        }
    }

    /// Sends a message of a client again after a connection that has ended, or releases it again.
    pub(crate) fn send_again(&mut self, client: usize) {
        for out in self.clients[client].out.clone() {
            let held = &mut self.clients[client];
            if out.is_recorded {
                held.answers.push_back((Ack::Pubrel, out.packet_id));
                continue;
            }
            let (qos, packet_id) = (out.qos, out.packet_id);
            let again = Publish { qos, packet_id, dup: true, ..Publish::default() };
            match out.number {
                None => held.publish(&Publish { topic: "markers", payload: b"m", ..again }),
                Some(number) => {
                    let (topic, retain, content) = self.content(number);
                    self.note(format_args!("c{client} sends message {number} again, packet id {packet_id}"));
                    self.model.sent(number, self.clients[client].node, true);
                    self.clients[client].publish(&Publish { topic, payload: &content, retain, ..again });
                }
            }
        }
        if !self.clients[client].holds {
            self.answer(client, usize::MAX);
        }
    }

    /// Topic, retain flag and payload of a message.
    pub(crate) fn content(&self, number: Number) -> (&'static str, bool, Vec<u8>) {
        let message = &self.model.messages[number as usize];
        let content = if message.is_clear { Vec::new() } else { payload(number) };
        (message.topic, message.retain, content)
    }

    /// Reads what a connection that the broker ends still brings, to its end.
    pub(crate) fn drain(&mut self, client: usize, why: &str) -> Checked {
        self.clients[client].is_deaf = false;
        // What it acknowledges now is not read.
        self.clients[client].holds = true;
        let begun = Instant::now();
        loop {
            let Some(connection) = &mut self.clients[client].connection else { return Ok(()) };
            let packets = connection.receive()?;
            let is_closed = connection.is_closed;
            for packet in packets {
                self.handle(client, packet)?;
            }
            if is_closed {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("client {client} is not closed within {PATIENCE:?}: {why}"));
            }
            std::thread::yield_now();
        }
    }

    /// A connection has ended: with its will message, and with the loss of messages on their way.
    pub(crate) fn ended(&mut self, client: usize, with_will: bool, with_loss: bool) {
        let held = &mut self.clients[client];
        held.connection = None;
        held.answers.clear();
        held.open.clear();
        (held.holds, held.is_deaf) = (false, false);
        let unsettled = std::mem::take(&mut held.unsettled);
        let waiting = held.out.iter().filter(|out| !out.is_recorded).filter_map(|out| out.number);
        for number in waiting.chain(unsettled.iter().copied()) {
            self.model.messages[number as usize].is_adrift = true;
        }
        let will = held.will.take().filter(|_| with_will);
        if with_loss {
            unsettled.into_iter().for_each(|number| self.model.given_up(number));
        }
        if self.clients[client].keeps {
            self.model.connection_ended(client);
        } else {
            self.model.session_ended(client);
        }
        if let Some(will) = will {
            self.note(format_args!("message {will} is the will of c{client}"));
            self.model.sent(will, self.clients[client].node, false);
        }
    }

    /// Waits for the CONNACK of a connection.
    pub(crate) fn connack(&mut self, client: usize, mut connection: Connection, expects: bool) -> Checked {
        let begun = Instant::now();
        let mut packets = loop {
            self.pump()?;
            let packets = connection.receive()?;
            if !packets.is_empty() {
                break packets.into_iter();
            }
            if connection.is_closed || begun.elapsed() > PATIENCE {
                return Err(format!("no CONNACK for client {client}, closed {}", connection.is_closed));
            }
            std::thread::yield_now();
        };
        let first = packets.next();
        self.note(format_args!("c{client} gets {first:?}"));
        if first != (Some(Incoming::Connack { present: expects, reason: 0 })) {
            return Err(format!("{first:?} for client {client}, session present expected: {expects}"));
        }
        if !expects {
            self.model.session_ended(client);
            // Other nodes may know the session before.
            self.sync()?;
        }
        self.model.connected(client);
        let held = &mut self.clients[client];
        (held.connection, held.number, held.farewell) = (Some(connection), held.number + 1, None);
        packets.try_for_each(|packet| self.handle(client, packet))
    }

    /// Waits until the broker has handled everything that a client has sent.
    pub(crate) fn settle(&mut self, client: usize) -> Checked {
        self.release();
        self.clients[client].is_deaf = false;
        let unsettled = std::mem::take(&mut self.clients[client].unsettled);
        let marker = self.clients[client].mark();
        self.model.settling(client, self.clients[client].number);
        self.wait("the broker has handled all", |run| !run.clients[client].is_unacknowledged(marker))?;
        for number in unsettled {
            self.model.messages[number as usize].is_settled = true;
        }
        self.model.settled(client);
        Ok(())
    }

    pub(crate) fn log(&self) -> &Log {
        &self.nodes[0].log
    }

    pub(crate) fn hold(&mut self) {
        self.note("the log is held");
        self.is_held = true;
        self.log().hold();
        if let Some(fleet) = &self.fleet {
            fleet.store.hold();
        }
    }

    pub(crate) fn release(&mut self) {
        if std::mem::replace(&mut self.is_held, false) {
            self.note("the log goes on");
            self.log().release();
            if let Some(fleet) = &self.fleet {
                fleet.store.release();
            }
        }
    }
}

/// A packet, without its payload.
struct Brief<'a>(&'a Incoming);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Incoming::Publish(delivery) = self.0 else { return write!(f, "{:?}", self.0) };
        let text = String::from_utf8_lossy(&delivery.payload);
        let number = text.split(' ').next().unwrap_or_default();
        write!(f, "message {number} on {} at QoS {}", delivery.topic, delivery.qos)?;
        write!(f, ", packet id {}", delivery.packet_id)?;
        write!(f, "{}{}", if delivery.dup { ", DUP" } else { "" }, if delivery.retain { ", retained" } else { "" })
    }
}
