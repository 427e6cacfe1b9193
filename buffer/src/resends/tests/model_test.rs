//! A model of clients, in which each acknowledged message is in the log exactly once.
//!
//! The bounds: a client has at most [`IN_FLIGHT`] messages in flight, no more than are kept for it;
//! after a boot without DISCONNECT, one message arrives before the connection is lost again. Until
//! then, a message that is marked as resent may as well be one of the life before.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

const IN_FLIGHT: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A new message, if there is room in flight.
    Publish,
    /// The client receives this many acknowledgements.
    Receive(usize),
    /// From now on nothing arrives, in either direction, until the next connection.
    GoDeaf,
    /// The connection is lost; the client connects and sends again.
    Reconnect,
    /// DISCONNECT of a clean session, then a new one.
    Disconnect,
    /// Power is lost: the client forgets its messages, and its packet ids begin at 1.
    Boot,
    /// The server ends, and starts again.
    Restart,
    /// This many messages of others.
    Noise(u16),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        10 => Just(Step::Publish),
        5 => (1..IN_FLIGHT).prop_map(Step::Receive),
        2 => Just(Step::GoDeaf),
        3 => Just(Step::Reconnect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Boot),
        1 => Just(Step::Restart),
        1 => (1..500_u16).prop_map(Step::Noise),
    ];
    (0..KINDS.len(), step)
}

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// All messages under one packet id have equal content.
    is_constant: bool,
    /// A new message may come before the ones that are sent again.
    is_hasty: bool,
    first: u16,
}

const KINDS: [Kind; 4] = [
    Kind { is_constant: true, is_hasty: false, first: 1 },
    Kind { is_constant: true, is_hasty: true, first: 65_530 },
    Kind { is_constant: false, is_hasty: false, first: 65_533 },
    Kind { is_constant: false, is_hasty: true, first: 7 },
];

struct Client {
    kind: Kind,
    id: u64,
    next: u16,
    connection: u32,
    is_deaf: bool,
    unacknowledged: VecDeque<Message>,
    /// Packet ids that were acknowledged over this connection, not received yet.
    answers: VecDeque<u16>,
}

/// The server, and the numbers of messages that it has acknowledged.
struct Server {
    world: World,
    acknowledged: HashSet<i64>,
    last: i64,
    connections: u32,
}

impl Client {
    fn new(place: usize, server: &mut Server) -> Self {
        let kind = KINDS[place];
        let connection = server.connect();
        Self {
            kind,
            id: place as u64 + 1,
            next: kind.first,
            connection,
            is_deaf: false,
            unacknowledged: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    fn publish(&mut self, server: &mut Server) {
        if self.unacknowledged.len() >= IN_FLIGHT {
            return;
        }
        server.last += 1;
        let base = message(self.id, self.connection, self.next);
        let identity = if self.kind.is_constant { u64::from(self.next) * 1000 } else { server.last as u64 * 1000 };
        let message = Message { identity, number: server.last, ..base };
        self.next = self.next.checked_add(1).unwrap_or(1);
        self.unacknowledged.push_back(message);
        self.send(&message, server);
    }

    fn send(&mut self, message: &Message, server: &mut Server) {
        if !self.is_deaf {
            server.world.take(message);
            server.acknowledged.insert(message.number);
            self.answers.push_back(message.sent.packet);
        }
    }

    fn receive(&mut self, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.answers.pop_front().filter(|_| !self.is_deaf) else { return };
            self.unacknowledged.retain(|message| message.sent.packet != packet);
        }
    }

    fn connect(&mut self, server: &mut Server) {
        (self.connection, self.is_deaf) = (server.connect(), false);
        self.answers.clear();
    }

    fn reconnect(&mut self, server: &mut Server) {
        self.connect(server);
        let waiting: Vec<_> = self.unacknowledged.iter().map(|message| again(*message, self.connection)).collect();
        if self.kind.is_hasty {
            self.publish(server);
        }
        waiting.iter().for_each(|message| self.send(message, server));
    }

    fn boot(&mut self, server: &mut Server) {
        self.unacknowledged.clear();
        self.next = 1;
        self.connect(server);
        self.publish(server);
    }

    fn disconnect(&mut self, server: &mut Server) {
        if !self.is_deaf {
            server.world.end_session(self.id);
        }
        self.unacknowledged.clear();
        self.connect(server);
    }
}

impl Server {
    fn connect(&mut self) -> u32 {
        self.connections += 1;
        self.connections
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_acknowledged_message_is_stored_once(steps in prop::collection::vec(step(), 1..80)) {
        let mut server = Server { world: World::new(64), acknowledged: HashSet::new(), last: 0, connections: 0 };
        let mut clients: Vec<_> = (0..KINDS.len()).map(|place| Client::new(place, &mut server)).collect();
        for (place, step) in steps {
            let client = &mut clients[place];
            match step {
                Step::Publish => client.publish(&mut server),
                Step::Receive(count) => client.receive(count),
                Step::GoDeaf => client.is_deaf = true,
                Step::Reconnect => client.reconnect(&mut server),
                Step::Disconnect => client.disconnect(&mut server),
                Step::Boot => client.boot(&mut server),
                Step::Restart => {
                    server.world.restart();
                    clients.iter_mut().for_each(|client| client.reconnect(&mut server));
                }
                Step::Noise(count) => {
                    for n in 1..=count {
                        server.last += 1;
                        let noise = Message { number: server.last, ..message(99, 99, n) };
                        assert!(server.world.take(&noise));
                        server.acknowledged.insert(noise.number);
                    }
                }
            }
        }
        clients.iter_mut().for_each(|client| client.reconnect(&mut server));
        let mut stored = HashMap::<i64, u32>::new();
        server.world.numbers().into_iter().for_each(|number| *stored.entry(number).or_default() += 1);
        for number in &server.acknowledged {
            prop_assert_eq!(stored.get(number), Some(&1), "message {}", number);
        }
        prop_assert_eq!(stored.len(), server.acknowledged.len());
    }
}
