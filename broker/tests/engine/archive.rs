//! Messages that wait and are not in memory: put away, read back, through kills and outages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_broker::{Archive, Config, QueueFull, RetainedMessage, Unreachable};

use crate::devices::LASTS;
use crate::exactly_once::{message, publish as publish_once, send_ack};
use crate::world::*;

/// An archive of what is durable in a log.
#[derive(Default)]
pub(crate) struct Shelf {
    log: Arc<Log>,
    index: Mutex<(usize, BTreeMap<String, RetainedMessage>)>,
    /// Reads do not return, until this is released.
    pub(crate) is_held: AtomicBool,
    released: Notify,
    /// It answers nothing.
    pub(crate) is_refused: AtomicBool,
    /// It has nothing: not yet, or no more.
    pub(crate) is_empty: AtomicBool,
    /// Reads that have begun.
    pub(crate) reads: AtomicUsize,
}

impl Shelf {
    pub(crate) fn of(log: Arc<Log>) -> Self {
        Self { log, ..Self::default() }
    }

    fn find(&self, topics: &[String]) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        if self.is_refused.load(Ordering::SeqCst) {
            return Err(Unreachable("it is away".into()));
        }
        let mut index = self.index.lock();
        let more = self.log.records_from(index.0);
        index.0 += more.len();
        for record in more {
            match record.payload.is_empty() {
                true => drop(index.1.remove(&record.topic)),
                false => drop(index.1.insert(record.topic.clone(), record)),
            }
        }
        let is_empty = self.is_empty.load(Ordering::SeqCst);
        Ok(topics.iter().map(|topic| index.1.get(topic).filter(|_| !is_empty).cloned()).collect())
    }

    pub(crate) fn release(&self) {
        self.is_held.store(false, Ordering::SeqCst);
        self.released.notify_waiters();
    }
}

#[async_trait]
impl Archive for Shelf {
    async fn holds(&self, _: &Arc<str>, topics: &[String]) -> Result<Vec<bool>, Unreachable> {
        Ok(self.find(topics)?.iter().map(Option::is_some).collect())
    }

    async fn read(
        &self,
        _: &Arc<str>,
        topics: &[String],
        most_bytes: usize,
    ) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        loop {
            let released = self.released.notified();
            if !self.is_held.load(Ordering::SeqCst) {
                break;
            }
            released.await;
        }
        let mut bytes = 0;
        let is_part = |found: &Option<RetainedMessage>| {
            let before = bytes;
            bytes += found.as_ref().map_or(1, |found| found.payload.len());
            before < most_bytes
        };
        Ok(self.find(topics)?.into_iter().take_while(is_part).collect())
    }
}

/// A head of two messages, so that most are put away.
fn small() -> Config {
    Config { queue_head: 2, put_away_ms: 5, ..Config::default() }
}

/// Messages of a session that are in memory beside those that are put away, at most.
const IN_MEMORY: u64 = 12;

/// A subscriber to `n` whose session lasts, and that has left.
fn leave(world: &World, id: &str, qos: u8) {
    let mut peer = world.v5(id, 0, LASTS);
    peer.subscribe("n", qos, true);
    drop(peer);
    // Not by the number of connections: others may be on their way out.
    wait(|| world.broker.session("default", id).is_some_and(|session| !session.connected));
}

/// Publishes numbers to `n` at QoS 1.
fn publish(world: &World, numbers: std::ops::RangeInclusive<u16>) {
    let mut peer = world.v4("publisher", CLEAN);
    for n in numbers {
        peer.publish("n", &n.to_be_bytes(), 1, n, false);
        assert_eq!(peer.packet(), (0x40, n.to_be_bytes().to_vec()));
    }
}

/// The next connection of a client whose session is there.
fn back(world: &World, id: &str) -> Peer {
    let mut peer = world.client();
    peer.connect(5, id, 0, 0, LASTS);
    assert_eq!(peer.packet().1[..2], [1, 0], "session present");
    peer
}

/// Takes and acknowledges the next message at QoS 1. Returns its number.
fn take(peer: &mut Peer) -> u16 {
    let (_, id, payload) = message(peer, true);
    send_ack(peer, 0x40, id);
    u16::from_be_bytes(payload.try_into().unwrap())
}

fn take_these(peer: &mut Peer, numbers: std::ops::RangeInclusive<u16>) {
    for n in numbers {
        assert_eq!(take(peer), n);
    }
}

/// Waits until most of so many messages in all queues are put away.
fn wait_put_away(world: &World, messages: u64) {
    wait(|| world.metrics.put_away.get() - world.metrics.read_back.get() >= messages - IN_MEMORY);
}

/// A client `s` that is away, and for which messages of these numbers wait, from 1 on: most of them
/// are put away.
fn filled(messages: u16) -> (World, Arc<Shelf>) {
    let (world, shelf) = World::archived(small(), Vec::new());
    leave(&world, "s", 1);
    publish(&world, 1..=messages);
    wait_put_away(&world, messages.into());
    (world, shelf)
}

/// Records of messages that are durable.
fn records(world: &World) -> usize {
    world.log.state().iter().filter(|record| record.topic.starts_with("$weir/messages/")).count()
}

/// The next start after a kill.
fn again(world: &World) -> (World, Arc<Shelf>) {
    World::archived(small(), world.log.state())
}

#[test]
fn what_waits_for_a_client_takes_little_memory_and_reaches_it_in_order_and_once() {
    let (world, _) = filled(3000);
    wait(|| {
        world.broker.kept("default");
        world.metrics.session_bytes.get() < 30_000
    });
    let mut s = back(&world, "s");
    // Others come meanwhile.
    take_these(&mut s, 1..=1000);
    publish(&world, 3001..=3500);
    take_these(&mut s, 1001..=3500);
    s.ping();
    wait(|| records(&world) == 0);
    assert!(s.is_silent());
    assert!(world.metrics.read_back.get() >= 3000 - IN_MEMORY);
}

#[test]
fn a_message_that_the_archive_does_not_have_yet_stays_in_memory() {
    let (world, shelf) = World::archived(small(), Vec::new());
    shelf.is_empty.store(true, Ordering::SeqCst);
    leave(&world, "s", 1);
    publish(&world, 1..=100);
    let mut s = back(&world, "s");
    take_these(&mut s, 1..=100);
    s.ping();
    assert_eq!(world.metrics.put_away.get(), 0);
    drop(s);
    publish(&world, 101..=200);
    shelf.is_empty.store(false, Ordering::SeqCst);
    wait_put_away(&world, 100);
    take_these(&mut back(&world, "s"), 101..=200);
}

#[test]
fn a_session_waits_for_an_archive_that_is_away_and_others_do_not() {
    let (world, shelf) = filled(200);
    shelf.is_held.store(true, Ordering::SeqCst);
    let mut s = back(&world, "s");
    wait(|| shelf.reads.load(Ordering::SeqCst) > 0);
    let mut other = world.v5("other", 0, LASTS);
    other.subscribe("n", 1, true);
    publish(&world, 201..=220);
    take_these(&mut other, 201..=220);
    // The head is in memory.
    take_these(&mut s, 1..=2);
    assert!(s.is_silent());
    s.ping();
    shelf.is_refused.store(true, Ordering::SeqCst);
    shelf.release();
    let before = shelf.reads.load(Ordering::SeqCst);
    wait(|| shelf.reads.load(Ordering::SeqCst) > before + 1);
    assert!(s.is_silent(), "it does not answer");
    shelf.is_refused.store(false, Ordering::SeqCst);
    take_these(&mut s, 3..=220);
}

#[test]
fn a_kill_loses_nothing_that_is_not_in_memory_and_repeats_nothing_at_qos_2() {
    let (mut world, _) = World::archived(small(), Vec::new());
    leave(&world, "s", 2);
    let mut p = world.v4("p", CLEAN);
    (1..=150_u16).for_each(|n| publish_once(&mut p, "n", &n.to_be_bytes(), n));
    drop(p);
    // One at a time.
    let connect = |world: &World| {
        let mut peer = world.client();
        peer.connect(5, "s", 0, 0, &[&[0x21, 0, 1][..], LASTS].concat());
        assert_eq!(peer.packet().1[..2], [1, 0], "session present");
        peer
    };
    let mut open: Option<[u8; 2]> = None;
    for n in 1..=150_u16 {
        if n % 20 == 1 {
            (world, _) = again(&world);
        }
        let mut s = connect(&world);
        if let Some(id) = open {
            assert_eq!(s.packet(), (0x62, Vec::from(id)), "it has that message, and only ends the exchange");
            s.send(0x70, &id);
        }
        let (_, id, payload) = message(&mut s, true);
        assert_eq!((id, payload), (n, n.to_be_bytes().to_vec()), "in order, under the packet id of its number");
        let id = id.to_be_bytes();
        s.send(0x50, &id);
        assert_eq!(s.packet(), (0x62, Vec::from(id)));
        open = Some(id);
    }
    (world, _) = again(&world);
    let mut s = connect(&world);
    assert_eq!(s.packet().0, 0x62);
    s.send(0x70, &open.unwrap());
    s.ping();
    wait(|| records(&world) == 0);
}

impl Peer {
    /// Sends a PINGREQ, and skips packets up to the answer.
    fn ping_past(&mut self) {
        self.send(0xC0, &[]);
        while self.packet().0 != 0xD0 {}
    }
}

#[test]
fn after_a_kill_messages_of_several_sessions_are_there_and_their_records_leave_with_the_last() {
    let (world, _) = World::archived(small(), Vec::new());
    for id in ["a", "b", "c"] {
        leave(&world, id, 1);
    }
    publish(&world, 1..=60);
    wait_put_away(&world, 180 - 2 * IN_MEMORY);
    take_these(&mut back(&world, "a"), 1..=60);
    let mut b = back(&world, "b");
    take_these(&mut b, 1..=30);
    b.ping_past();
    wait(|| world.log.state().iter().any(|record| record.payload.starts_with(br#"{"done_to":60"#)));
    wait(|| world.log.state().iter().any(|record| record.payload.starts_with(br#"{"done_to":30"#)));
    assert_eq!(records(&world), 60);
    let (world, _) = again(&world);
    publish(&world, 61..=70);
    take_these(&mut back(&world, "a"), 61..=70);
    take_these(&mut back(&world, "b"), 31..=70);
    assert_eq!(records(&world), 70, "one session has none of them");
    let mut c = back(&world, "c");
    take_these(&mut c, 1..=70);
    c.ping();
    wait(|| records(&world) == 0);
}

#[test]
fn a_session_that_ends_clears_what_was_put_away_also_in_the_middle_of_a_read() {
    for held in [false, true] {
        let (world, shelf) = World::archived(small(), Vec::new());
        for id in ["own", "other"] {
            leave(&world, id, 1);
            publish(&world, 1..=100);
        }
        wait_put_away(&world, 300 - IN_MEMORY);
        if held {
            shelf.is_held.store(true, Ordering::SeqCst);
            let _own = back(&world, "own");
            wait(|| shelf.reads.load(Ordering::SeqCst) > 0);
        }
        world.v5("own", CLEAN, &[]).ping();
        wait(|| records(&world) == 100);
        shelf.release();
        take_these(&mut back(&world, "other"), 1..=100);
        wait(|| records(&world) == 0);
        // What is clear stays so.
        let (next, _) = again(&world);
        assert!(back(&next, "other").is_silent());
    }
}

#[test]
fn a_session_that_is_taken_over_in_the_middle_of_a_read_goes_on_with_the_next_connection() {
    let (world, shelf) = filled(100);
    shelf.is_held.store(true, Ordering::SeqCst);
    let mut first = back(&world, "s");
    take_these(&mut first, 1..=2);
    wait(|| shelf.reads.load(Ordering::SeqCst) > 0);
    let mut second = back(&world, "s");
    shelf.release();
    let mut got = Vec::new();
    while got.last() != Some(&100) {
        got.push(take(&mut second));
    }
    // What the first has acknowledged may come again when it was not read in time.
    got.retain(|n| *n > 2);
    assert_eq!(got, (3..=100).collect::<Vec<_>>());
}

#[test]
fn a_message_expires_while_it_is_not_in_memory() {
    let (world, _) = World::archived(small(), Vec::new());
    leave(&world, "s", 1);
    let mut p = world.v5("p", CLEAN, &[]);
    let mut send = |n: u16, expiry: &[u8]| {
        p.publish_properties(0x32, "n", &n.to_be_bytes(), n, Some(expiry));
        assert_eq!(p.packet().0, 0x40);
    };
    (1..=40).for_each(|n| send(n, if n % 2 == 0 { &[2, 0, 0, 0, 1] } else { &[] }));
    wait_put_away(&world, 40);
    let begun = std::time::Instant::now();
    wait(|| begun.elapsed() > std::time::Duration::from_millis(1100));
    let mut s = back(&world, "s");
    for n in (1..=40).step_by(2) {
        assert_eq!(take(&mut s), n);
    }
    s.ping();
    wait(|| records(&world) == 0);
    assert_eq!(world.dropped("expired"), 20);
}

#[test]
fn messages_that_are_not_in_memory_count_for_the_bounds_of_a_queue() {
    for (queue_full, kept) in [(QueueFull::DropOldest, 21..=120), (QueueFull::DropNewest, 1..=100)] {
        let config = Config { max_queued_messages: 100, queue_full, ..small() };
        let (world, _) = World::archived(config, Vec::new());
        leave(&world, "s", 1);
        publish(&world, 1..=90);
        wait_put_away(&world, 90);
        publish(&world, 91..=120);
        assert_eq!(world.dropped("queue_full"), 20);
        let mut s = back(&world, "s");
        take_these(&mut s, kept);
        s.ping();
        wait(|| records(&world) == 0);
    }
    let (world, _) = World::archived(Config { max_queued_messages: 100, ..small() }, Vec::new());
    leave(&world, "s", 1);
    publish(&world, 1..=120);
    wait_put_away(&world, 100);
    let mut s = back(&world, "s");
    take_these(&mut s, 1..=100);
    assert_eq!((s.packet().0, s.is_closed()), (0xE0, true), "the gap");
}

#[test]
fn a_message_that_the_archive_has_lost_ends_the_session_with_the_reason() {
    let (world, shelf) = filled(50);
    shelf.is_empty.store(true, Ordering::SeqCst);
    let mut s = back(&world, "s");
    take_these(&mut s, 1..=2);
    loop {
        let (first, body) = s.packet();
        if first == 0xE0 {
            break;
        }
        // One that was read before.
        send_ack(&mut s, 0x40, u16::from_be_bytes([body[3], body[4]]));
    }
    assert!(world.dropped("not_in_store") > 0);
    wait(|| world.metrics.sessions.get() == 0);
}

#[test]
fn a_client_that_comes_before_the_store_answers_gets_what_was_put_away_in_its_earlier_session() {
    let (world, _) = filled(500);
    let (next, _) = World::archived_later(small(), &world.log.state());
    let mut s = next.v5("s", 0, LASTS);
    s.subscribe("n", 1, true);
    next.restore_archived(&world.log.state());
    take_these(&mut s, 1..=500);
    s.ping();
    wait(|| records(&next) == 0);
}
