//! The messages of one device in the order of sending.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Nanos, Value};
use rand_pcg::Pcg64Mcg;

use super::device::Device;
use super::payload::{encode, resolution, resolved};
use super::values::{Course, unit};
use super::{Fate, Message, Reading, Trouble};
use crate::scenario::{Faults, Format, Group};

/// Messages of a device until its scenario ends. They depend only on scenario, seed, start and
/// device.
#[derive(Debug)]
pub struct Messages {
    device: Device,
    random: Pcg64Mcg,
    courses: Vec<(Arc<str>, Course)>,
    topics: Vec<Arc<str>>,
    clock: Clock,
    /// Time of the next measurement, without jitter.
    at: Duration,
    number: u64,
    sequence: u64,
    last_time: Nanos,
    /// Measured messages that are waiting to be sent.
    held: BinaryHeap<Reverse<(Duration, u64)>>,
    messages: VecDeque<Message>,
}

/// Error of a device's clock.
#[derive(Debug)]
struct Clock {
    offset: i64,
    drift: f64,
}

impl Messages {
    /// The messages of `device`.
    pub fn new(device: &Device) -> Self {
        let kind = Arc::clone(&device.kind);
        let mut random = device.random("values");
        let courses: Vec<_> =
            kind.sources.iter().map(|(name, source)| (Arc::clone(name), source.begin(&mut random))).collect();
        let topic = kind.group.topic().replace("{device}", &device.id);
        let topics = match kind.group.payload.format {
            Format::Value => courses.iter().map(|(name, _)| topic.replace("{name}", name).into()).collect(),
            _ => vec![topic.into()],
        };
        let faults = &kind.group.faults;
        let clock = Clock {
            offset: signed(faults.clock_skew, &mut random),
            drift: (unit(&mut random) * 2.0 - 1.0) * faults.clock_drift,
        };
        // Spread over the first interval, so that devices do not send in step.
        let at = device.begins() + kind.group.interval.mul_f64(unit(&mut random));
        Self {
            device: device.clone(),
            random,
            courses,
            topics,
            clock,
            at,
            number: 0,
            sequence: 0,
            last_time: Nanos::MIN,
            held: BinaryHeap::new(),
            messages: VecDeque::new(),
        }
    }

    /// Measures the next message and adds it to the waiting ones.
    fn measure(&mut self) {
        let kind = Arc::clone(&self.device.kind);
        let group = &kind.group;
        let interval = interval(group, self.at);
        let shift = (unit(&mut self.random) * 2.0 - 1.0) * group.jitter;
        let measured = (self.at.as_secs_f64() + shift * interval.as_secs_f64()).max(0.0);
        let measured = Duration::from_secs_f64(measured);
        let (topic, readings) = self.readings(group, measured, interval);
        let mut message = Message {
            number: self.number,
            due: measured,
            topic,
            payload: Vec::new(),
            readings,
            fate: Fate::Stored,
            trouble: Trouble::default(),
        };
        self.spoil(group, &mut message, interval);
        self.number += 1;
        self.at += interval;
        self.held.push(Reverse((message.due, message.number)));
        self.messages.push_back(message);
    }

    fn readings(&mut self, group: &Group, measured: Duration, interval: Duration) -> (Arc<str>, Vec<Reading>) {
        if group.payload.format == Format::Value {
            let turn = usize::try_from(self.number % self.courses.len() as u64).expect("below a count of values");
            let time = self.device.kind.start + nanos(measured);
            let (name, course) = &mut self.courses[turn];
            let value = course.next(measured, time, &mut self.random);
            let reading = Reading { time: None, sequence: None, values: vec![(Arc::clone(name), value)] };
            return (Arc::clone(&self.topics[turn]), vec![reading]);
        }
        let batch = group.payload.batch;
        let readings = (0..batch).map(|index| {
            let before = interval.mul_f64(f64::from(batch - 1 - index) / f64::from(batch));
            self.reading(group, measured.saturating_sub(before))
        });
        let readings = readings.collect();
        (Arc::clone(&self.topics[0]), readings)
    }

    fn reading(&mut self, group: &Group, measured: Duration) -> Reading {
        let faults = &group.faults;
        if faults.clock_jump > 0.0 && unit(&mut self.random) < faults.clock_jump {
            self.clock.offset += signed(faults.clock_jump_by, &mut self.random);
        }
        let truth = self.device.kind.start + nanos(measured);
        let values = self.courses.iter_mut().map(|(name, course)| {
            let value = course.next(measured, truth, &mut self.random);
            (Arc::clone(name), value)
        });
        let values = values.collect();
        #[expect(clippy::cast_possible_truncation, reason = "far below the range")]
        let drift = (measured.as_secs_f64() * self.clock.drift * 1e9) as i64;
        let format = group.payload.time;
        let mut time = resolved(truth + self.clock.offset + drift, format);
        if let Some(time) = &mut time
            && !group.payload.sequence
        {
            // Only the time distinguishes readings: it never repeats.
            *time = (*time).max(self.last_time.saturating_add(resolution(format)));
            self.last_time = *time;
        }
        let sequence = group.payload.sequence.then_some(self.sequence);
        self.sequence += 1;
        Reading { time, sequence, values }
    }

    /// Draws the faults of a message. Every draw is made regardless of the others, so that a change
    /// of one probability does not affect the rest.
    fn spoil(&mut self, group: &Group, message: &mut Message, interval: Duration) {
        let faults: &Faults = &group.faults;
        let mut drawn = |share: f64| unit(&mut self.random) < share;
        message.trouble = Trouble {
            drop_before_ack: drawn(faults.drop_before_ack),
            drop_after_ack: drawn(faults.drop_after_ack),
            duplicate: drawn(faults.duplicate),
            resend: drawn(faults.resend),
            half_open: drawn(faults.half_open),
        };
        let (flipped, malformed, oversize) = (drawn(faults.type_flip), drawn(faults.malformed), drawn(faults.oversize));
        let (late, swapped) = (drawn(faults.late), drawn(faults.out_of_order));
        let delay = unit(&mut self.random);
        let bare = group.payload.format == Format::Value;
        if flipped && let Some((_, value)) = message.readings.first_mut().and_then(|r| r.values.first_mut()) {
            *value = Value::Str("fault".into());
        }
        message.payload = encode(&group.payload, &self.device.id, &message.readings);
        if oversize {
            message.fate = Fate::Oversize;
            let size = usize::try_from(faults.oversize_bytes).expect("a platform of 32 bits or more");
            message.payload = vec![b'x'; size.max(message.payload.len())];
            message.readings.clear();
        } else if malformed && !bare {
            message.fate = Fate::Unreadable;
            // The end is missing; the rest still identifies the message.
            message.payload.truncate(message.payload.len() - 1);
            message.readings.clear();
        }
        if late {
            message.due += faults.late_by.mul_f64(delay);
        } else if swapped {
            message.due += interval.mul_f64(1.5);
        }
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        loop {
            let group = &self.device.kind.group;
            let over = self.at >= self.device.kind.duration;
            // Jitter does not move a later message before this time.
            let certain = self.at.saturating_sub(interval(group, self.at).mul_f64(group.jitter));
            match self.held.peek() {
                Some(Reverse((due, number))) if over || *due < certain => {
                    let place = self.messages.iter().position(|m| m.number == *number)?;
                    self.held.pop();
                    return self.messages.remove(place);
                }
                None if over => return None,
                _ => self.measure(),
            }
        }
    }
}

fn interval(group: &Group, at: Duration) -> Duration {
    let pace = group.paces.iter().find(|pace| pace.from <= at && at < pace.until);
    pace.map_or(group.interval, |pace| pace.interval)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A random offset of up to `most`, ahead or behind.
fn signed(most: Duration, random: &mut Pcg64Mcg) -> i64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a random offset")]
    let offset = ((unit(random) * 2.0 - 1.0) * nanos(most) as f64) as i64;
    offset
}
