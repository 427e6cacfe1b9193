//! The steps of a run.

use mqtt_client::{Connect, PropertyList, Publish, RetainHandling, Subscription, Version, Will, id};

use crate::Checked;
use crate::client::Outgoing;
use crate::connection::{ALIASES, Connection};
use crate::fleet::Fleet;
use crate::illegal;
use crate::model::{Message, payload};
use crate::node::{Node, TENANT};
use crate::run::Run;
use crate::topics::{FILTERS, PLAIN, RETAINED, WILLS, share_for};

/// Seconds that a session lasts, if it outlives its connection.
const LASTS: u32 = 1_000;
/// Messages that a client has in flight.
const IN_FLIGHT: usize = 12;
/// Takeovers of one client; the broker slows down more of them.
const TAKEOVERS: u32 = 8;

impl Run {
    /// One step of a client.
    pub(crate) fn step(&mut self) -> Checked {
        let client = self.random.below(self.clients.len());
        if self.clients[client].connection.is_none() {
            return self.connect(client);
        }
        match self.random.below(100) {
            0..40 => self.publish(client),
            40..50 => self.subscribe(client),
            50..54 => self.unsubscribe(client),
            54..62 => {
                let count = 1 + self.random.below(4);
                self.answer(client, count);
                Ok(())
            }
            62..66 => {
                let holds = !self.clients[client].holds;
                self.clients[client].holds = holds;
                self.note(format_args!("c{client} holds its acknowledgements: {holds}"));
                Ok(())
            }
            66..70 => {
                let is_deaf = !self.clients[client].is_deaf;
                self.clients[client].is_deaf = is_deaf;
                self.note(format_args!("c{client} is deaf: {is_deaf}"));
                Ok(())
            }
            70..76 => self.cut(client),
            76..80 => self.disconnect(client),
            80..84 if self.clients[client].takeovers < TAKEOVERS => self.connect(client),
            84..87 => self.break_rules(client),
            87..89 => {
                self.stranger();
                Ok(())
            }
            89..92 => {
                self.hold();
                Ok(())
            }
            92..94 => {
                self.release();
                Ok(())
            }
            94..96 => self.kill(),
            96..98 if self.fleet.is_some() => self.sync(),
            _ => self.settle(client),
        }?;
        self.pump()
    }

    /// Connects a client, which may be connected already.
    pub(crate) fn connect(&mut self, client: usize) -> Checked {
        let clean = self.random.chance(20);
        // A session that has lasted and now ends with its connection is there after a kill, as its
        // end is stored with that of the connection: what it holds then is not part of the model.
        let continues = self.model.sessions[client].exists && self.clients[client].keeps && !clean;
        let keeps = match self.clients[client].version {
            Version::V4 => !clean,
            Version::V5 => continues || self.random.chance(80),
        };
        self.connect_as(client, clean, keeps)
    }

    pub(crate) fn connect_as(&mut self, client: usize, clean: bool, keeps: bool) -> Checked {
        let version = self.clients[client].version;
        let is_takeover = self.clients[client].connection.is_some();
        let ends = clean && self.model.sessions[client].exists;
        if std::mem::take(&mut self.clients[client].had_will) || ends {
            // CONNACK waits until the will message, or the end of the session, is durable. What
            // waits for the log longer than some seconds is given up.
            self.release();
        }
        let was_held = self.is_held;
        self.note(format_args!("c{client} connects, clean {clean}, keeps {keeps}, takes over {is_takeover}"));
        let node = self.random.below(self.nodes.len());
        if self.fleet.is_some() {
            self.note(format_args!("c{client} is at node {node}"));
        }
        let mut connection = Connection::open(self.nodes[node].address, version);
        let receive_maximum = self.random.chance(40).then(|| 1 + self.random.below(4) as u16);
        let receive_maximum = receive_maximum.filter(|_| version == Version::V5);
        let mut own = PropertyList::new().number(id::SESSION_EXPIRY, if keeps { LASTS } else { 0 });
        own = own.number(id::TOPIC_ALIAS_MAXIMUM, ALIASES.into());
        if let Some(most) = receive_maximum {
            own = own.number(id::RECEIVE_MAXIMUM, most.into());
        }
        let will = self.random.chance(25).then(|| self.message(client, WILLS[client], false, false, false));
        let content = will.map(payload).unwrap_or_default();
        let qos = will.map_or(0, |will| self.model.messages[will as usize].qos);
        let last = Will { topic: WILLS[client], payload: &content, qos, ..Will::default() };
        let mut out = Vec::new();
        let packet = Connect {
            version,
            client_id: &self.clients[client].name,
            clean_start: clean,
            will: will.map(|_| last),
            properties: own.as_bytes(),
            username: Some(TENANT),
            ..Connect::default()
        };
        mqtt_client::connect(&mut out, &packet);
        if clean {
            self.model.session_ends(client);
        }
        connection.send(&out);
        if is_takeover {
            self.clients[client].takeovers += 1;
            self.drain(client, "another connection has its session")?;
            if version == Version::V5 && self.clients[client].farewell != Some(0x8E) {
                return Err(format!("client {client} was taken over: {:02x?}", self.clients[client].farewell));
            }
            // What waits for the log is read for a moment only.
            self.ended(client, true, was_held);
        }
        let expects = self.model.sessions[client].exists && !clean;
        let held = &mut self.clients[client];
        (held.keeps, held.will, held.receive_maximum, held.node) = (keeps, will, receive_maximum, node);
        self.model.sessions[client].lasts = keeps;
        held.had_will = will.is_some();
        self.connack(client, connection, expects)?;
        if expects {
            self.send_again(client);
        } else {
            for out in std::mem::take(&mut self.clients[client].out) {
                if let Some(number) = out.number.filter(|_| !out.is_recorded) {
                    self.model.given_up(number);
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, publisher: usize, topic: &'static str, retain: bool, is_clear: bool, is_brief: bool) -> u32 {
        // A retained message that is lost would leave its topic unknown.
        let qos = if retain { 1 + self.random.below(2) as u8 } else { self.random.qos() };
        let (sends, node, is_settled, is_adrift, has_takers) = (0, 0, false, false, false);
        self.model.message(Message {
            topic,
            qos,
            retain,
            is_clear,
            publisher,
            is_brief,
            sends,
            node,
            is_settled,
            is_adrift,
            has_takers,
        })
    }

    fn publish(&mut self, client: usize) -> Checked {
        if self.clients[client].out.len() >= IN_FLIGHT {
            return self.pump();
        }
        let retain = self.random.chance(15);
        let is_clear = retain && self.random.chance(20);
        let topic = if retain { RETAINED[client] } else { *self.random.pick(&PLAIN) };
        let expiry = self.random.chance(10).then(|| if self.random.chance(20) { 1 } else { LASTS });
        let expiry = expiry.filter(|_| self.clients[client].version == Version::V5 && !retain);
        let number = self.message(client, topic, retain, is_clear, expiry == Some(1));
        let qos = self.model.messages[number as usize].qos;
        let packet_id = if qos > 0 { self.clients[client].next_id() } else { 0 };
        self.note(format_args!(
            "c{client} publishes message {number} to {topic} at QoS {qos}, packet id {packet_id}, retain {retain}, \
             clear {is_clear}, expiry {expiry:?}"
        ));
        let own = expiry.map(|secs| PropertyList::new().number(id::MESSAGE_EXPIRY, secs)).unwrap_or_default();
        let (_, _, content) = self.content(number);
        self.model.sent(number, self.clients[client].node, false);
        let held = &mut self.clients[client];
        if qos > 0 {
            held.out.push(Outgoing { packet_id, number: Some(number), qos, is_recorded: false });
        } else {
            held.unsettled.push(number);
        }
        let properties = own.as_bytes();
        held.publish(&Publish { topic, payload: &content, qos, retain, packet_id, properties, dup: false });
        let waits = qos > 0 && !self.is_held && !self.clients[client].is_deaf && self.random.chance(40);
        if waits {
            return self.wait("PUBACK or PUBREC", |run| !run.clients[client].is_unacknowledged(packet_id));
        }
        Ok(())
    }

    fn filter(&mut self, client: usize) -> &'static str {
        let share = share_for(client, "s/a").filter(|_| self.random.chance(30));
        share.unwrap_or_else(|| *self.random.pick(&FILTERS))
    }

    fn subscribe(&mut self, client: usize) -> Checked {
        let filter = self.filter(client);
        let is_shared = filter.starts_with("$share/");
        // Which messages of QoS 0 a shared subscription loses is not known.
        let qos = if is_shared { 1 + self.random.below(2) as u8 } else { self.random.qos() };
        let is_v5 = self.clients[client].version == Version::V5;
        let all = [RetainHandling::Always, RetainHandling::IfNew, RetainHandling::Never];
        let retain_handling = if is_v5 { *self.random.pick(&all) } else { RetainHandling::Always };
        let id = self.clients[client].next_id();
        self.note(format_args!("c{client} subscribes to {filter} at QoS {qos}, {retain_handling:?}, packet id {id}"));
        let is_new = self.model.requested(client, filter, id, Some(qos));
        let retained = match retain_handling {
            RetainHandling::Always => Some(true),
            RetainHandling::IfNew => is_new,
            RetainHandling::Never => Some(false),
        };
        if retained != Some(false) && !is_shared {
            self.model.retained.subscribed((client, filter, qos), retained == Some(true));
        }
        let wanted = [Subscription { filter, qos, retain_handling, ..Subscription::default() }];
        self.clients[client].send(|out, version| mqtt_client::subscribe(out, version, id, &[], &wanted));
        self.await_answer(client, id)
    }

    fn unsubscribe(&mut self, client: usize) -> Checked {
        let filter = self.filter(client);
        let id = self.clients[client].next_id();
        self.note(format_args!("c{client} unsubscribes from {filter}, packet id {id}"));
        self.model.requested(client, filter, id, None);
        self.clients[client].send(|out, version| mqtt_client::unsubscribe(out, version, id, &[filter]));
        self.await_answer(client, id)
    }

    fn await_answer(&mut self, client: usize, id: u16) -> Checked {
        if self.is_held || self.clients[client].is_deaf || self.random.chance(40) {
            return Ok(());
        }
        self.wait("SUBACK or UNSUBACK", |run| !run.model.awaits(client, id))
    }

    /// The client's side of the connection is gone, with what has arrived there.
    fn cut(&mut self, client: usize) -> Checked {
        let resets = self.random.chance(50);
        self.note(format_args!("c{client} is cut, with a reset {resets}"));
        if let Some(connection) = self.clients[client].connection.as_ref().filter(|_| resets) {
            connection.reset_at_end();
        }
        self.ended(client, true, true);
        self.await_end(client)
    }

    /// Waits for the end of a session that ends with its connection: until then it may get messages
    /// of a shared subscription, which are lost with it.
    fn await_end(&mut self, client: usize) -> Checked {
        if self.clients[client].keeps {
            return Ok(());
        }
        self.release();
        self.wait("the session has ended", |run| match &run.fleet {
            None => run.nodes[0].sessions() == run.model.sessions.iter().filter(|s| s.exists).count(),
            Some(fleet) => !fleet.knows(&run.clients[client].name),
        })?;
        self.sync()
    }

    fn disconnect(&mut self, client: usize) -> Checked {
        let is_v5 = self.clients[client].version == Version::V5;
        let with_will = is_v5 && self.random.chance(30);
        let ends = is_v5 && self.random.chance(30);
        self.note(format_args!("c{client} disconnects, with its will {with_will}, ends its session {ends}"));
        let own = if ends { PropertyList::new().number(id::SESSION_EXPIRY, 0) } else { PropertyList::new() };
        let reason = if with_will { 4 } else { 0 };
        self.clients[client].send(|out, version| mqtt_client::disconnect(out, version, reason, own.as_bytes()));
        if let Some(connection) = &self.clients[client].connection {
            connection.finish();
        }
        // A SUBSCRIBE before it waits until the messages before that are durable.
        self.release();
        self.drain(client, "DISCONNECT")?;
        self.clients[client].keeps &= !ends;
        self.ended(client, with_will, false);
        self.await_end(client)
    }

    fn break_rules(&mut self, client: usize) -> Checked {
        let version = self.clients[client].version;
        let (what, bytes) = illegal::packet(version, &mut self.random);
        self.note(format_args!("c{client} breaks a rule: {what}"));
        self.clients[client].send(|out, _| out.extend_from_slice(bytes));
        // SUBSCRIBE is not read before the messages before it are durable.
        self.release();
        self.drain(client, what)?;
        if version == Version::V5 && self.clients[client].farewell.is_none_or(|reason| reason < 0x80) {
            return Err(format!("{what}: DISCONNECT {:02x?}", self.clients[client].farewell));
        }
        self.ended(client, true, false);
        self.await_end(client)
    }

    fn stranger(&mut self) {
        let bytes = illegal::garbage(&mut self.random);
        self.note(format_args!("another tenant sends {bytes:02x?}"));
        let node = self.random.below(self.nodes.len());
        let mut connection = Connection::open(self.nodes[node].address, Version::V5);
        connection.send(&bytes);
        self.strangers.push(connection);
        if self.strangers.len() > 8 || self.random.chance(50) {
            self.strangers.remove(0);
        }
    }

    /// The broker ends where it is, and starts again.
    fn kill(&mut self) -> Checked {
        // The end of a session is stored a moment after it: until then, a kill brings it back.
        self.release();
        let kept = |run: &Self| {
            let clients = run.clients.iter().zip(&run.model.sessions);
            clients.filter(|(client, session)| session.exists && client.keeps).count()
        };
        self.wait("the sessions that last are stored", |run| match &run.fleet {
            None => run.log().sessions() == kept(run),
            Some(fleet) => fleet.sessions(run.clients.iter().map(|client| &*client.name)) == kept(run),
        })?;
        let node = self.random.below(self.nodes.len());
        self.note(format_args!("node {node} is killed"));
        for client in 0..self.clients.len() {
            self.model.sessions[client].is_orphan |= self.fleet.is_some() && self.clients[client].node == node;
            if self.clients[client].connection.is_some() && self.clients[client].node == node {
                // Its will message was kept, or not yet.
                let will = self.clients[client].will;
                if !self.clients[client].keeps {
                    self.model.shares_lost(client);
                }
                self.ended(client, true, true);
                will.into_iter().for_each(|will| self.model.given_up(will));
            }
        }
        self.model.killed();
        self.is_held = false;
        self.nodes[node].kill();
        if let Some(fleet) = &mut self.fleet {
            fleet.killed(node);
        }
        self.sync()
    }

    /// Everything is well again: what must be delivered is.
    pub(crate) fn heal(&mut self) -> Checked {
        self.note("all is well again");
        self.release();
        for client in 0..self.clients.len() {
            self.clients[client].holds = false;
            self.clients[client].is_deaf = false;
            self.answer(client, usize::MAX);
            if self.clients[client].connection.is_none() {
                self.connect_as(client, false, true)?;
            }
        }
        let is_done = |run: &Self| run.clients.iter().all(|client| client.out.is_empty());
        self.wait("every message is acknowledged", is_done)?;
        let delivered = self.wait("everything is delivered", |run| run.model.missing().is_empty());
        delivered.map_err(|error| format!("{error}\n{}", self.model.missing().join("\n")))?;
        // What must not come would have come by now.
        (0..self.clients.len()).try_for_each(|client| self.settle(client))?;
        for reason in ["queue_full", "memory", "too_large_for_client", "refused_by_client", "not_granted"] {
            let dropped: u64 = self.nodes.iter().map(|node| node.metrics.dropped(reason).get()).sum();
            if dropped > 0 {
                return Err(format!("{dropped} messages were dropped: {reason}"));
            }
        }
        Ok(())
    }

    /// All sessions end, and nothing of them is left.
    pub(crate) fn clear(&mut self) -> Checked {
        self.note("all sessions end");
        self.strangers.clear();
        for client in 0..self.clients.len() {
            self.connect_as(client, true, false)?;
            self.clients[client].send(|out, version| mqtt_client::disconnect(out, version, 0, &[]));
            self.drain(client, "DISCONNECT")?;
            self.ended(client, false, false);
        }
        if let Some(fleet) = &mut self.fleet {
            fleet.end();
        }
        self.wait("no connection, no session", |run| {
            run.nodes.iter().all(Node::is_empty) && run.fleet.as_ref().is_none_or(Fleet::is_empty)
        })
    }
}
