use std::sync::Arc;

use model::{DeviceKey, Schema, ValueRef};
use proptest::prelude::*;

use super::*;
use crate::frame::{ReadingHeader, RetainedRef, Sent, Staged};

mod model_test;

/// A message of a client: its number tells it in the log.
#[derive(Debug, Clone, Copy)]
struct Message {
    sent: Sent,
    identity: u64,
    resent: bool,
    number: i64,
}

/// Equal content under the same packet id.
fn message(client: u64, connection: u32, packet: u16) -> Message {
    let sent = Sent { client, connection, packet, in_flight: false };
    Message { sent, identity: u64::from(packet), resent: false, number: 0 }
}

fn again(message: Message, connection: u32) -> Message {
    Message { sent: Sent { connection, ..message.sent }, resent: true, ..message }
}

/// A log and what is remembered of it.
struct World {
    resends: Resends,
    frames: Vec<Frame>,
    now: i64,
    /// Resent messages that the log had at the start with the sessions that get them.
    routed: Vec<(u32, u16)>,
}

impl World {
    fn new(messages: usize) -> Self {
        let bounds = Bounds { messages, bytes: 1 << 20 };
        Self { resends: Resends::new(bounds), frames: Vec::new(), now: 0, routed: Vec::new() }
    }

    fn end(&self) -> u64 {
        self.frames.last().map_or(0, |frame| frame.header().end_offset())
    }

    fn frame(&mut self, mut staged: Staged) -> u32 {
        let mut batch = FrameBuilder::default();
        batch.absorb(&mut staged);
        let (end, frames) = (self.end(), &self.frames);
        let at = |offset: u64| frames.iter().find(|f| f.header().end_offset() > offset).cloned();
        let dropped = self.resends.screen(&mut batch, Some(end), at, &mut self.routed);
        if !batch.is_empty() {
            self.frames.push(Frame::decode(batch.build(end, 1, 0).bytes()).unwrap());
        }
        dropped
    }

    /// True when the message is stored.
    fn take(&mut self, message: &Message) -> bool {
        self.take_with_value(message, 7)
    }

    fn take_with_value(&mut self, message: &Message, value: i64) -> bool {
        self.take_with(message, value, None)
    }

    /// With a record of this topic behind it.
    fn take_with(&mut self, message: &Message, value: i64, topic: Option<&str>) -> bool {
        self.now += 1;
        let (device, schema) = (Arc::new(DeviceKey::new("t", "d").unwrap()), Arc::new(Schema::new(["n"])));
        let mut staged = Staged::default();
        staged.message(Some(message.sent));
        for row in 0..2 {
            // Two records: a message is stored or dropped whole.
            let header = ReadingHeader {
                time: message.number,
                received: self.now,
                identity: message.identity + row,
                seq: None,
                device_timed: false,
                claimed_time: None,
                trace: None,
                resent: message.resent,
            };
            staged.reading(&device, &schema, &header, [Some(ValueRef::Int(value))]);
        }
        staged.message(None);
        if let Some(topic) = topic {
            let (received, payload, properties) = (self.now, &b"x"[..], &b""[..]);
            staged.retained(&RetainedRef { tenant: &"t".into(), topic, qos: 0, payload, properties, received });
        }
        match self.frame(staged) {
            0 => true,
            2 => false,
            dropped => panic!("{dropped} of 2 records were dropped"),
        }
    }

    fn end_session(&mut self, client: u64) {
        self.now += 1;
        let mut staged = Staged::default();
        staged.session_end(&"t".into(), client, self.now);
        assert_eq!(self.frame(staged), 0);
    }

    fn restart(&mut self) {
        self.resends = Resends::new(self.resends.bounds);
        self.frames.iter().for_each(|frame| self.resends.learn(frame));
    }

    /// Numbers of the messages in the log.
    fn numbers(&self) -> Vec<i64> {
        let of = |frame: &Frame| {
            let readings = frame.records().filter_map(|(_, record)| match record {
                Record::Reading(reading) => Some(reading.time),
                _ => None,
            });
            readings.collect::<Vec<_>>()
        };
        self.frames.iter().flat_map(of).step_by(2).collect()
    }
}

#[test]
fn a_message_is_recognised_after_a_lost_connection_and_again_after_the_next() {
    let mut world = World::new(8);
    let first = message(1, 1, 5);
    assert!(world.take(&first));
    assert!(!world.take(&again(first, 2)));
    assert!(!world.take(&again(first, 3)), "the acknowledgement of the second was lost, too");
    world.restart();
    assert!(!world.take(&again(first, 4)));
}

#[test]
fn a_message_that_was_there_at_the_start_with_its_sessions_need_not_be_routed_again() {
    let topic = format!("{}n/0000000000000001", model::topic::MESSAGES);
    for (with, routed) in [(None, false), (Some("a/b"), false), (Some(&*topic), true)] {
        let mut world = World::new(8);
        let first = message(1, 1, 5);
        assert!(world.take_with(&first, 7, with));
        assert!(!world.take(&again(first, 2)) && world.routed.is_empty(), "this process has not ended since");
        world.restart();
        assert!(!world.take_with(&again(first, 3), 7, with));
        assert!(!world.take_with(&again(first, 4), 7, with));
        assert_eq!(world.routed, if routed { vec![(3, 5), (4, 5)] } else { vec![] }, "{with:?}");
        // Another message.
        world.routed.clear();
        assert!(world.take_with(&again(message(1, 1, 6), 4), 7, with) && world.routed.is_empty());
    }
}

#[test]
fn over_one_connection_a_message_is_sent_again_only_until_it_is_acknowledged() {
    let mut world = World::new(8);
    let first = message(1, 1, 5);
    assert!(world.take(&first));
    let waiting = Message { sent: Sent { in_flight: true, ..first.sent }, ..again(first, 1) };
    assert!(!world.take(&waiting));
    assert!(world.take(&again(first, 1)), "TCP loses no acknowledgement");
    assert!(!world.take(&again(first, 2)));
    assert!(world.take(&again(first, 2)), "that one was acknowledged over this connection");
}

#[test]
fn nothing_is_sent_again_after_a_session_has_ended_in_order() {
    let mut world = World::new(8);
    let first = message(1, 1, 1);
    assert!(world.take(&first));
    world.end_session(1);
    world.restart();
    assert!(world.take(&again(first, 2)));
}

#[test]
fn an_end_in_another_log_counts_for_messages_learnt_later() {
    let (mut a, mut b, mut c) = (World::new(8), World::new(8), World::new(8));
    let first = message(1, 1, 1);
    assert!(a.take(&first));
    b.now = 10;
    assert!(b.take(&message(1, 2, 2)));
    b.end_session(1);
    for frame in b.frames.iter().chain(&a.frames) {
        c.resends.learn_elsewhere(frame);
    }
    c.now = 20;
    assert!(c.take(&again(first, 3)));
}

#[test]
fn a_message_is_recognised_on_another_node_and_other_values_are_not_it() {
    let (mut a, mut b) = (World::new(8), World::new(8));
    let first = message(1, 1, 1);
    assert!(a.take(&first));
    b.now = 10;
    b.resends.learn_elsewhere(&a.frames[0]);
    assert!(!b.take(&again(first, 2)));
    // Equal hashes of different values are not one message.
    let second = message(2, 1, 1);
    assert!(a.take(&second));
    assert!(a.take_with_value(&again(second, 2), 8));
}

#[test]
fn a_packet_id_that_is_used_again_confirms_the_messages_up_to_its_own() {
    let mut world = World::new(8);
    let all = [1, 2, 3].map(|packet| message(1, 1, packet));
    assert!(all.iter().all(|message| world.take(message)));
    let other = Message { identity: 77, ..message(1, 1, 2) };
    assert!(world.take(&other));
    assert!(!world.take(&again(other, 2)));
    assert!(!world.take(&again(all[2], 2)));
    assert!(world.take(&again(all[0], 2)), "its acknowledgement came before that of the second");
}

#[test]
fn packet_ids_that_begin_anew_are_those_of_another_life() {
    let mut world = World::new(64);
    for packet in 1..=20 {
        assert!(world.take(&message(1, 1, packet)));
    }
    for packet in 1..=5 {
        assert!(world.take(&message(1, 2, packet)));
    }
    // The sixth was lost on its way; it is equal to the sixth of the life before.
    assert!(world.take(&again(message(1, 3, 6), 3)));
    assert!(!world.take(&again(message(1, 3, 5), 3)));
}

#[test]
fn more_messages_than_a_client_has_in_flight_confirm_the_first() {
    let mut world = World::new(8);
    for packet in 1..=9 {
        assert!(world.take(&message(1, 1, packet)));
    }
    assert!(world.take(&again(message(1, 1, 1), 2)));
    assert!(!world.take(&again(message(1, 1, 9), 2)));
}

#[test]
fn a_reading_with_a_time_of_its_own_is_one_under_any_packet_id() {
    let mut world = World::new(8);
    let first = message(1, 1, 5);
    // Only with a time of the device's own, two messages have one identity.
    let copy = Message { sent: Sent { packet: 6, ..first.sent }, ..first };
    assert!(world.take(&first));
    assert!(!world.take(&again(copy, 2)), "its first transmission was lost");
    assert!(!world.take(&again(copy, 3)));
    assert!(world.take(&again(message(1, 3, 6), 3)));
}

#[test]
fn a_released_message_is_not_sent_again() {
    let mut world = World::new(8);
    let first = message(1, 1, 1);
    assert!(world.take(&first));
    world.resends.notice(Notice::Released { client: 1, packet: 1 });
    assert!(world.take(&again(first, 2)));
}

#[test]
fn an_earlier_connection_may_hand_on_its_message_after_the_copy() {
    let mut world = World::new(8);
    world.now = 10;
    let first = message(1, 1, 5);
    assert!(world.take(&again(first, 2)), "the first waits for room in the log");
    world.now = 5;
    assert!(!world.take(&first));
}

#[test]
fn a_replayed_message_is_recognised_without_a_packet_id() {
    let mut world = World::new(8);
    let replay = Sent { client: 9, connection: 0, packet: 0, in_flight: true };
    let one = Message { sent: replay, identity: 1, resent: true, number: 0 };
    assert!(world.take(&one));
    assert!(!world.take(&one));
    assert!(world.take(&Message { identity: 2, ..one }));
    assert!(!world.take(&one));
}

#[test]
fn memory_is_bounded_and_clients_that_left_first_are_forgotten_first() {
    let bounds = Bounds { messages: 1024, bytes: 1 << 20 };
    let mut world = World { resends: Resends::new(bounds), ..World::new(1) };
    let of = |client: u64| u32::try_from(client).unwrap();
    for packet in 1..=2000 {
        assert!(world.take(&message(1, of(1), packet)));
        world.frames.clear();
    }
    assert!(world.resends.clients[&1].capacity() <= 1024);
    for client in 2..4000 {
        for packet in 1..=20 {
            world.take(&message(client, of(client), packet));
            world.frames.clear();
        }
        if client % 2 == 0 {
            world.resends.notice(Notice::Left { client, connection: of(client) });
        }
        let held: usize = world.resends.clients.values().map(|c| CLIENT_BYTES + c.capacity() * HELD_BYTES).sum();
        assert!(held <= bounds.bytes && world.resends.bytes <= bounds.bytes, "{held} {}", world.resends.bytes);
    }
    assert!(!world.resends.clients.contains_key(&2), "it left first");
    assert!(world.resends.clients.contains_key(&3999));
    let (left, open): (Vec<u64>, Vec<u64>) = world.resends.clients.keys().partition(|client| *client % 2 == 0);
    assert!(open.len() > left.len());
}
