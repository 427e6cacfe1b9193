//! The queue of one subscriber: bounded in messages and bytes, QoS 0 first to go.
//!
//! Of a session that lasts, a part of it need not be in memory: see [`away`].

pub(crate) mod away;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Budget, Held, Nanos};

use crate::archive::Run;
use crate::config::QueueFull;
use crate::durable::Duty;
use crate::heavy::{Heavy, Registration};
use crate::message::Message;
use crate::session::Session;

/// Bytes of a place in a queue, without the message, which several queues may share.
const PLACE_BYTES: usize = 160;
/// Places of an empty queue whose memory is kept.
const KEPT_PLACES: usize = 64;
/// One in this many messages of a queue is timed.
const TIMED: u64 = 16;
/// One in this many messages goes when memory is short and messages are dropped by choice.
const PART: usize = 4;

/// A message in one subscriber's queue, or in flight to it.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
    /// Filter of the shared subscription that it was chosen for, with `$share` and the group.
    pub(crate) share: Option<Arc<str>>,
    /// Number of queues that the message was put into, for its part in the memory of each.
    pub(crate) takers: u32,
    /// Present in a session that outlasts the process, at QoS 1 and 2.
    pub(crate) duty: Option<Duty>,
    /// Present once it was queued.
    pub(crate) charge: Option<Charge>,
}

impl Queued {
    /// A message that is in no queue yet.
    pub(crate) fn new(message: Arc<Message>, qos: u8) -> Self {
        let (subscription_ids, share, duty, charge) = Default::default();
        Self { message, qos, retain: false, subscription_ids, share, takers: 1, duty, charge }
    }

    /// True when the store of a fleet has it as a message of the session.
    pub(crate) fn is_in_fleet(&self) -> bool {
        self.duty.as_ref().is_some_and(|duty| !duty.ledger.is_in_log())
    }
}

/// The memory of a message in a queue or in flight. Returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    _place: Held,
    account: Arc<AtomicUsize>,
    bytes: usize,
    /// Time at which it was queued, for one message in [`TIMED`]; 0 for the others.
    since: Nanos,
}

impl Queued {
    /// Time at which it was queued, if it is among those that are timed.
    pub(crate) fn timed(&self) -> Option<Nanos> {
        self.charge.as_ref().map(|charge| charge.since).filter(|since| *since > 0)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) when_full: QueueFull,
}

impl Bounds {
    /// No bounds but the memory of all queues.
    pub(crate) const NONE: Self = Self { messages: usize::MAX, bytes: usize::MAX, when_full: QueueFull::DropNewest };
}

/// The reason why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The bounds are reached, and this message goes.
    Full,
    /// The bounds are reached by messages of QoS 1 and 2, and the session ends for it.
    Overflow,
    /// The memory of all queues is used up.
    Memory,
}

/// Messages that were dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Of QoS 0.
    pub(crate) qos0: u64,
    /// Of QoS 1 and 2.
    pub(crate) others: u64,
}

impl Dropped {
    pub(crate) fn any(self) -> bool {
        self.qos0 + self.others > 0
    }
}

/// A place in the queue of messages of QoS 1 and 2.
#[derive(Debug)]
enum Place {
    Here(Queued),
    /// Several messages that are not in memory.
    Away(Box<Run>),
}

/// Messages that wait, in the order of their arrival. The ones of QoS 0 are kept apart, so that the
/// oldest of them is found at once.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Messages of QoS 0, each with the order of the last other one before it.
    qos0: VecDeque<(u64, Queued)>,
    /// The others by their order: 1, 2, 3, …, for several messages that of the first.
    others: VecDeque<(u64, Place)>,
    /// Order of the last of them.
    last: u64,
    /// Messages that were queued.
    pushed: u64,
    /// Bytes of topics, payloads and properties.
    bytes: usize,
    away: away::Away,
    /// The part of all queues' memory that the session holds, with messages in flight: each place,
    /// and of a message as much as falls to one of its takers.
    account: Arc<AtomicUsize>,
    /// Memory of the places; None when the session has ended.
    places: Option<Budget>,
    heavy: Option<Arc<Heavy>>,
    registration: Option<Registration>,
}

impl Queue {
    /// An empty queue with its places in `memory`, which gives way to others as `heavy` knows.
    pub(crate) fn new(memory: Budget, heavy: Arc<Heavy>) -> Self {
        Self { places: Some(memory), heavy: Some(heavy), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.qos0.len() + self.owed()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of topics, payloads and properties.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages of QoS 1 and 2.
    pub(crate) fn owed(&self) -> usize {
        self.here() + self.away.messages
    }

    /// True when there is a message of QoS 1 or 2 of this kind in memory.
    pub(crate) fn any(&self, is_it: impl Fn(&Queued) -> bool) -> bool {
        self.others.iter().any(|(_, place)| matches!(place, Place::Here(queued) if is_it(queued)))
    }

    /// The message whose turn it is; None also when that is not in memory.
    pub(crate) fn front(&self) -> Option<&Queued> {
        match (self.qos0.front(), self.others.front()) {
            (Some((a, first)), Some((b, _))) if a < b => Some(first),
            (Some((_, first)), None) | (_, Some((_, Place::Here(first)))) => Some(first),
            (None, None) | (_, Some((_, Place::Away(_)))) => None,
        }
    }

    /// Removes the message whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let is_qos0 = self.front()?.qos == 0;
        if is_qos0 {
            return self.drop_oldest_qos0();
        }
        match self.others.pop_front()? {
            (_, Place::Here(queued)) => {
                self.freed(&queued);
                Some(queued)
            }
            away => {
                // It is not at the front: that is one in memory.
                self.others.push_front(away);
                None
            }
        }
    }

    fn drop_oldest_qos0(&mut self) -> Option<Queued> {
        let (_, queued) = self.qos0.pop_front()?;
        self.freed(&queued);
        Some(queued)
    }

    /// Drops the oldest message of QoS 1 or 2. False when there is none.
    fn drop_oldest(&mut self) -> bool {
        match self.others.pop_front() {
            Some((_, Place::Here(queued))) => self.freed(&queued),
            Some((order, Place::Away(mut run))) => {
                self.bytes -= self.away.forget_one();
                drop(run.pop());
                if run.len() > 0 {
                    self.others.push_front((order + 1, Place::Away(run)));
                } else {
                    self.away.runs -= 1;
                }
            }
            None => return false,
        }
        true
    }

    fn freed(&mut self, queued: &Queued) {
        self.bytes -= queued.message.bytes();
        if self.qos0.is_empty() && self.qos0.capacity() > KEPT_PLACES {
            self.qos0 = VecDeque::new();
        }
        if self.others.is_empty() && self.others.capacity() > KEPT_PLACES {
            self.others = VecDeque::new();
        }
    }

    fn fits(&self, bytes: usize, bounds: &Bounds) -> bool {
        self.len() < bounds.messages && self.bytes + bytes <= bounds.bytes
    }

    /// Queues a message. Returns the messages that went for it, and why it was refused itself.
    pub(crate) fn push(&mut self, mut queued: Queued, bounds: &Bounds) -> (Dropped, Option<Refused>) {
        let bytes = queued.message.bytes();
        let mut dropped = Dropped::default();
        let is_qos0 = queued.qos == 0;
        let refused = match bounds.when_full {
            QueueFull::EndSession if !is_qos0 => Refused::Overflow,
            _ => Refused::Full,
        };
        if bytes > bounds.bytes {
            return (dropped, Some(refused));
        }
        while !self.fits(bytes, bounds) {
            if is_qos0 && bounds.when_full == QueueFull::DropNewest {
                return (dropped, Some(refused));
            }
            if self.drop_oldest_qos0().is_some() {
                dropped.qos0 += 1;
            } else if is_qos0 || bounds.when_full != QueueFull::DropOldest || !self.drop_oldest() {
                return (dropped, Some(refused));
            } else {
                dropped.others += 1;
            }
        }
        self.pushed += 1;
        let since = if self.pushed.is_multiple_of(TIMED) { model::clock::now() } else { 0 };
        let Some(charge) = self.charge(bytes, queued.takers, since) else {
            return (dropped, Some(Refused::Memory));
        };
        queued.charge = Some(charge);
        self.bytes += bytes;
        if is_qos0 {
            self.qos0.push_back((self.last, queued));
        } else {
            self.last += 1;
            self.others.push_back((self.last, Place::Here(queued)));
        }
        (dropped, None)
    }

    /// Acquires the memory of a message. None when there is none.
    fn charge(&self, bytes: usize, takers: u32, since: Nanos) -> Option<Charge> {
        let place = self.places.as_ref()?.acquire(PLACE_BYTES).ok()?;
        let cost = PLACE_BYTES + bytes / takers.max(1) as usize;
        self.account.fetch_add(cost, Ordering::Relaxed);
        Some(Charge { _place: place, account: Arc::clone(&self.account), bytes: cost, since })
    }

    /// Drops messages because memory is short: the ones of QoS 0, and when there are none, as the
    /// configuration says: all of them, the oldest in memory, or the newest.
    pub(crate) fn give_way(&mut self, when_full: QueueFull) -> Dropped {
        let mut dropped = Dropped { qos0: self.qos0.len() as u64, others: 0 };
        while self.drop_oldest_qos0().is_some() {}
        if dropped.any() {
            return dropped;
        }
        let here = self.here();
        let part = here.div_ceil(PART);
        let going = match when_full {
            QueueFull::EndSession => {
                dropped.others = self.owed() as u64;
                drop(std::mem::take(&mut self.others));
                (self.bytes, self.away) = (0, away::Away::default());
                return dropped;
            }
            QueueFull::DropOldest => 0..part,
            QueueFull::DropNewest => here - part..here,
        };
        let mut at = 0;
        let gone = self.extract(|_| {
            at += 1;
            going.contains(&(at - 1))
        });
        dropped.others = gone.len() as u64;
        dropped
    }

    /// Removes the messages of shared subscriptions for which `take` is true.
    pub(crate) fn take_shared(&mut self, mut take: impl FnMut(&Arc<str>) -> bool) -> Vec<Queued> {
        if !self.any(|queued| queued.share.is_some()) {
            return Vec::new();
        }
        self.extract(|queued| queued.share.as_ref().is_some_and(&mut take))
    }

    /// Removes the messages of QoS 1 and 2 in memory for which `is_going` is true.
    fn extract(&mut self, mut is_going: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut gone = Vec::new();
        let kept = std::mem::take(&mut self.others).into_iter().filter_map(|(order, place)| match place {
            Place::Here(queued) if is_going(&queued) => {
                gone.push(queued);
                None
            }
            place => Some((order, place)),
        });
        self.others = kept.collect();
        gone.iter().for_each(|queued| self.freed(queued));
        gone
    }

    /// True when the session is among those that may have to give way.
    pub(crate) fn is_noted(&self) -> bool {
        self.registration.is_some()
    }

    /// Notes how much the session holds, for the choice of the one that gives way. One that is
    /// `away` is noted early: it only grows.
    pub(crate) fn note(&mut self, session: &Arc<Session>, away: bool) {
        let Some(heavy) = &self.heavy else { return };
        let class = Heavy::class(self.account.load(Ordering::Relaxed), away);
        let before = self.registration.as_ref().map_or(0, Registration::class);
        // One that shrinks by little stays where it is.
        if class > before || class + 1 < before {
            self.registration = None;
            if class > 0 {
                let key = Arc::as_ptr(session).addr();
                self.registration = Some(Heavy::register(heavy, class, key, Arc::downgrade(session)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Budget;

    fn queued(qos: u8, n: u8) -> Queued {
        let message = Arc::new(Message::new("t", &[n; 10], qos, false, &[]));
        Queued::new(message, qos)
    }

    fn queue() -> (Queue, Budget) {
        let budget = Budget::new("tests", 1 << 20);
        (Queue::new(budget.clone(), Arc::default()), budget)
    }

    fn held(queue: &Queue) -> usize {
        queue.account.load(Ordering::Relaxed)
    }

    fn bounds(messages: usize, when_full: QueueFull) -> Bounds {
        Bounds { messages, bytes: 1 << 20, when_full }
    }

    fn rest(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop()).map(|queued| queued.message.payload[0]).collect()
    }

    #[test]
    fn messages_leave_in_the_order_of_their_arrival_and_return_their_memory() {
        let (mut queue, budget) = queue();
        for n in 0..200 {
            assert_eq!(queue.push(queued(n % 3, n), &Bounds::NONE), (Dropped::default(), None));
        }
        assert_eq!(budget.held(), 200 * PLACE_BYTES);
        // As long as it is in flight, it holds its memory.
        let in_flight = queue.pop();
        assert_eq!(rest(&mut queue), (1..200).collect::<Vec<_>>());
        assert_eq!((budget.held(), held(&queue)), (PLACE_BYTES, PLACE_BYTES + 11));
        drop(in_flight);
        assert_eq!((budget.held(), held(&queue), queue.bytes, queue.others.capacity()), (0, 0, 0, 0));
    }

    #[test]
    fn the_oldest_of_qos_0_goes_first_in_every_mode() {
        for when_full in [QueueFull::EndSession, QueueFull::DropOldest, QueueFull::DropNewest] {
            let (mut queue, _) = queue();
            let bounds = bounds(4, when_full);
            for (qos, n) in [(1, 1), (0, 2), (0, 3), (1, 4)] {
                queue.push(queued(qos, n), &bounds);
            }
            assert_eq!(queue.push(queued(1, 5), &bounds), (Dropped { qos0: 1, others: 0 }, None));
            assert_eq!(rest(&mut queue), [1, 3, 4, 5], "{when_full:?}");
        }
    }

    #[test]
    fn a_queue_full_of_qos_1_does_as_it_is_told() {
        for (when_full, outcome, kept) in [
            (QueueFull::EndSession, (Dropped::default(), Some(Refused::Overflow)), [1, 2]),
            (QueueFull::DropNewest, (Dropped::default(), Some(Refused::Full)), [1, 2]),
            (QueueFull::DropOldest, (Dropped { qos0: 0, others: 1 }, None), [2, 3]),
        ] {
            let (mut queue, _) = queue();
            let bounds = bounds(2, when_full);
            queue.push(queued(1, 1), &bounds);
            queue.push(queued(2, 2), &bounds);
            let refused = queue.push(queued(0, 9), &bounds);
            assert_eq!(refused, (Dropped::default(), Some(Refused::Full)), "QoS 0 ends no session");
            assert_eq!(queue.push(queued(1, 3), &bounds), outcome);
            assert_eq!(rest(&mut queue), kept, "{when_full:?}");
        }
    }

    #[test]
    fn of_qos_0_alone_the_oldest_or_the_newest_goes() {
        for (when_full, kept) in [(QueueFull::EndSession, [2, 3]), (QueueFull::DropNewest, [1, 2])] {
            let (mut queue, _) = queue();
            for n in 1..=3 {
                queue.push(queued(0, n), &bounds(2, when_full));
            }
            assert_eq!(rest(&mut queue), kept, "{when_full:?}");
        }
    }

    #[test]
    fn a_message_larger_than_the_queue_drops_no_other() {
        let (mut queue, _) = queue();
        let bounds = Bounds { messages: 10, bytes: 15, when_full: QueueFull::DropOldest };
        queue.push(queued(0, 1), &bounds);
        let message = Arc::new(Message::new("t", &[2; 100], 1, false, &[]));
        let large = Queued { message, ..queued(1, 2) };
        assert_eq!(queue.push(large, &bounds), (Dropped::default(), Some(Refused::Full)));
        assert_eq!(rest(&mut queue), [1]);
    }

    #[test]
    fn messages_of_shared_subscriptions_are_taken_out_with_their_memory() {
        let (mut queue, budget) = queue();
        for n in 0..6 {
            let share = (n % 2 == 0).then(|| "$share/g/t".into());
            queue.push(Queued { share, ..queued(1, n) }, &Bounds::NONE);
        }
        let taken: Vec<u8> = queue.take_shared(|_| true).into_iter().map(|queued| queued.message.payload[0]).collect();
        assert_eq!((taken, budget.held()), (vec![0, 2, 4], 3 * PLACE_BYTES));
        assert_eq!(rest(&mut queue), [1, 3, 5]);
        assert_eq!((budget.held(), held(&queue)), (0, 0));
    }

    #[test]
    fn a_queue_that_gives_way_drops_qos_0_and_only_then_others() {
        for (when_full, kept) in [
            (QueueFull::EndSession, vec![]),
            (QueueFull::DropOldest, (3..=8).collect()),
            (QueueFull::DropNewest, (1..=6).collect::<Vec<u8>>()),
        ] {
            let (mut queue, _) = queue();
            for n in 1..=8 {
                queue.push(queued(1, n), &Bounds::NONE);
            }
            queue.push(queued(0, 9), &Bounds::NONE);
            assert_eq!(queue.give_way(when_full), Dropped { qos0: 1, others: 0 });
            let dropped = queue.give_way(when_full).others;
            assert_eq!(dropped, 8 - kept.len() as u64);
            assert_eq!(rest(&mut queue), kept, "{when_full:?}");
        }
    }
}
