//! A model of clients and nodes, in which each acknowledged message is in one log exactly once.
//!
//! A node has learnt what the others appended when a message comes that is marked as resent, as
//! over Redis. The clocks of the nodes differ by less than the time between two connections of a
//! client.
//!
//! The bounds: a client has at most [`IN_FLIGHT`] messages in flight, no more than are kept for it;
//! after a boot without DISCONNECT, one message arrives before the connection is lost again. Until
//! then, a message that is marked as resent may as well be one of the life before.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

const IN_FLIGHT: usize = 8;
const NODES: usize = 3;

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
    /// The same, to the next node.
    Move,
    /// DISCONNECT of a clean session, then a new one.
    Disconnect,
    /// Power is lost: the client forgets its messages, and its packet ids begin at 1.
    Boot,
    /// The client's node ends, and starts again.
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
        2 => Just(Step::Move),
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
    node: usize,
    next: u16,
    connection: u32,
    is_deaf: bool,
    unacknowledged: VecDeque<Message>,
    /// Packet ids that were acknowledged over this connection, not received yet.
    answers: VecDeque<u16>,
}

/// The nodes, and the numbers of messages that they have acknowledged.
struct Server {
    nodes: Vec<World>,
    /// Frames of each other node that a node has learnt.
    learnt: [[usize; NODES]; NODES],
    now: i64,
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
            node: place % NODES,
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
            server.take(self.node, message);
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
            server.tick(self.node).end_session(self.id);
        }
        self.unacknowledged.clear();
        self.connect(server);
    }
}

impl Server {
    fn new() -> Self {
        let nodes = (0..NODES).map(|_| World::new(64)).collect();
        let learnt = [[0; NODES]; NODES];
        Self { nodes, learnt, now: 0, acknowledged: HashSet::new(), last: 0, connections: 0 }
    }

    /// Sets the clock of a node to the next time.
    fn tick(&mut self, node: usize) -> &mut World {
        self.now += 1;
        self.nodes[node].now = self.now;
        &mut self.nodes[node]
    }

    fn take(&mut self, node: usize, message: &Message) -> bool {
        if message.resent {
            for other in (0..NODES).filter(|other| *other != node) {
                let frames = self.nodes[other].frames[self.learnt[node][other]..].to_vec();
                self.learnt[node][other] += frames.len();
                frames.iter().for_each(|frame| self.nodes[node].resends.learn_elsewhere(frame));
            }
        }
        self.tick(node).take(message)
    }

    fn restart(&mut self, node: usize) {
        self.learnt[node] = [0; NODES];
        self.nodes[node].restart();
    }

    fn connect(&mut self) -> u32 {
        self.connections += 1;
        self.connections
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_acknowledged_message_is_stored_once(steps in prop::collection::vec(step(), 1..80)) {
        let mut server = Server::new();
        let mut clients: Vec<_> = (0..KINDS.len()).map(|place| Client::new(place, &mut server)).collect();
        for (place, step) in steps {
            let client = &mut clients[place];
            match step {
                Step::Publish => client.publish(&mut server),
                Step::Receive(count) => client.receive(count),
                Step::GoDeaf => client.is_deaf = true,
                Step::Reconnect => client.reconnect(&mut server),
                Step::Move => {
                    client.node = (client.node + 1) % NODES;
                    client.reconnect(&mut server);
                }
                Step::Disconnect => client.disconnect(&mut server),
                Step::Boot => client.boot(&mut server),
                Step::Restart => {
                    let node = client.node;
                    server.restart(node);
                    let connected = clients.iter_mut().filter(|client| client.node == node);
                    connected.for_each(|client| client.reconnect(&mut server));
                }
                Step::Noise(count) => {
                    let node = client.node;
                    for n in 1..=count {
                        server.last += 1;
                        let noise = Message { number: server.last, ..message(99, 99, n) };
                        assert!(server.take(node, &noise));
                        server.acknowledged.insert(noise.number);
                    }
                }
            }
        }
        clients.iter_mut().for_each(|client| client.reconnect(&mut server));
        let mut stored = HashMap::<i64, u32>::new();
        let numbers = server.nodes.iter().flat_map(World::numbers);
        numbers.for_each(|number| *stored.entry(number).or_default() += 1);
        for number in &server.acknowledged {
            prop_assert_eq!(stored.get(number), Some(&1), "message {}", number);
        }
        prop_assert_eq!(stored.len(), server.acknowledged.len());
    }
}
