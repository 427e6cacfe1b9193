//! The part of a queue that is not in memory.
//!
//! A message that waits for a session that lasts has a record in the log, which is in the store a
//! few seconds later. From then on it need not be in memory: only its id is kept, and its contents
//! are read when its turn comes near. The first messages of a queue stay, so that a client that
//! comes back gets them at once, and so do those of shared subscriptions, which may go to another
//! member at any time.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::{Place, Queue, Queued};
use crate::archive::Run;
use crate::durable::{Duty, Ledger};
use crate::message::Message;

/// Bytes of the messages at the front that stay in memory.
const HEAD_BYTES: usize = 256 << 10;

/// Bytes of messages in memory from which on a queue is long: its head, and what is read at a time.
const LONG_BYTES: usize = 1 << 20;

/// Messages that are not in memory.
#[derive(Debug, Default)]
pub(crate) struct Away {
    pub(super) messages: usize,
    /// Places that they take.
    pub(super) runs: usize,
    /// Bytes of their topics, payloads and properties.
    bytes: usize,
    /// The archive is asked for some of them.
    is_read: bool,
    /// The queue is among those of which messages are put away.
    is_listed: bool,
    /// Messages up to this number may have been sent in an earlier start.
    sent_to: u64,
}

impl Away {
    /// Removes one, and returns its bytes: as many as each has on average.
    pub(super) fn forget_one(&mut self) -> usize {
        let bytes = if self.messages > 1 { self.bytes / self.messages } else { self.bytes };
        self.remove(bytes);
        bytes
    }

    fn remove(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

/// The contents of a message that was read.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

impl Queue {
    /// Messages of QoS 1 and 2 in memory.
    pub(crate) fn here(&self) -> usize {
        self.others.len() - self.away.runs
    }

    /// True when more than `most` messages are in memory, or many bytes.
    pub(crate) fn is_long(&self, most: usize) -> bool {
        self.here() > most || self.bytes - self.away.bytes > LONG_BYTES && self.here() > 1
    }

    /// Notes that messages are put away from now on. False when that is known.
    pub(crate) fn list(&mut self) -> bool {
        !std::mem::replace(&mut self.away.is_listed, true)
    }

    /// Notes that no messages are put away from now on.
    pub(crate) fn unlist(&mut self) {
        self.away.is_listed = false;
    }

    /// Ids of messages that could be put away, at most so many. The first `head` stay, and all that
    /// were read for their turn; none does without a head.
    pub(crate) fn candidates(&self, head: usize, most: usize) -> Vec<u64> {
        let (mut seen, mut bytes) = (0, 0);
        let read = if head > 0 && self.away.runs > 0 { self.before_run() } else { 0 };
        let here = self.others.iter().skip(read).filter_map(|(_, place)| match place {
            Place::Here(queued) => Some(queued),
            Place::Away(_) => None,
        });
        let behind = here.filter(|queued| {
            (seen, bytes) = (seen + 1, bytes + queued.message.bytes());
            read > 0 || seen > head || bytes > HEAD_BYTES
        });
        behind.filter_map(record).take(most).collect()
    }

    /// Lets the messages of these ids go from memory, as the archive has them. Returns how many.
    pub(crate) fn put_away(&mut self, held: &HashSet<u64, RandomState>) -> usize {
        if held.is_empty() {
            return 0;
        }
        let Some(memory) = self.places.clone() else { return 0 };
        let before = self.away.messages;
        for (order, place) in std::mem::take(&mut self.others) {
            let queued = match place {
                Place::Here(queued) if record(&queued).is_some_and(|id| held.contains(&id)) => queued,
                place => {
                    self.others.push_back((order, place));
                    continue;
                }
            };
            let bytes = queued.message.bytes();
            let Queued { duty: Some(duty), charge, message, .. } = queued else { continue };
            // Its memory is free before that of its place is counted.
            drop((message, charge));
            let (ledger, number, Some(record)) = duty.leave() else { continue };
            if !matches!(self.others.back(), Some((_, Place::Away(run))) if run.is_of(&ledger)) {
                let run = Run::new(Arc::clone(&ledger), &memory, Arc::clone(&self.account));
                self.others.push_back((order, Place::Away(Box::new(run))));
                self.away.runs += 1;
            }
            if let Some((_, Place::Away(run))) = self.others.back_mut() {
                run.push(number, record);
            }
            self.away.messages += 1;
            self.away.bytes += bytes;
        }
        for (_, place) in &mut self.others {
            if let Place::Away(run) = place {
                run.count();
            }
        }
        self.away.messages - before
    }

    /// A run without messages, for [`Self::push_away`]; None when the session has ended.
    pub(crate) fn new_run(&self, ledger: &Arc<Ledger>) -> Option<Run> {
        Some(Run::new(Arc::clone(ledger), self.places.as_ref()?, Arc::clone(&self.account)))
    }

    /// Adds messages of an earlier start behind the others, which are in the archive.
    pub(crate) fn push_away(&mut self, mut run: Run, bytes: usize) {
        if run.len() == 0 {
            return;
        }
        run.count();
        self.away.messages += run.len();
        self.away.bytes += bytes;
        self.away.runs += 1;
        self.bytes += bytes;
        let order = self.last + 1;
        self.last += run.len() as u64;
        self.others.push_back((order, Place::Away(Box::new(run))));
    }

    /// True, once, when messages have to be read from the archive: fewer than `ahead` are in memory
    /// before one that is not.
    pub(crate) fn begin_read(&mut self, ahead: usize) -> bool {
        if self.away.runs == 0 || self.away.is_read {
            return false;
        }
        self.away.is_read = self.others.iter().take(ahead).any(|(_, place)| matches!(place, Place::Away(_)));
        self.away.is_read
    }

    /// Notes that the archive is no longer asked.
    pub(crate) fn end_read(&mut self) {
        self.away.is_read = false;
    }

    /// Messages in memory before the first that is not.
    fn before_run(&self) -> usize {
        self.others.iter().position(|(_, place)| matches!(place, Place::Away(_))).unwrap_or(self.others.len())
    }

    /// The session's ledger, and the ids of the next messages that are not in memory.
    pub(crate) fn to_read(&self, most: usize) -> Option<(Arc<Ledger>, Vec<u64>)> {
        let (_, Place::Away(run)) = self.others.get(self.before_run())? else { return None };
        Some((Arc::clone(run.ledger()), run.ids(most)))
    }

    /// Takes the contents of messages that were read, as far as there is memory for them. Returns
    /// how many of them the archive has lost, and whether all were taken.
    pub(crate) fn put_back(&mut self, read: Vec<(u64, Option<Contents>)>) -> (u64, bool) {
        let at = self.before_run();
        let mut before: Vec<_> = self.others.drain(..at).collect();
        let Some((mut order, Place::Away(mut run))) = self.others.pop_front() else {
            self.others.extend(before);
            return (0, true);
        };
        let (mut lost, mut is_all) = (0, true);
        for (id, contents) in read {
            // It was dropped meanwhile.
            if run.first_id() != Some(id) {
                continue;
            }
            let Some(Contents { message, qos, retain, subscription_ids }) = contents else {
                drop(run.pop());
                self.bytes -= self.away.forget_one();
                (order, lost) = (order + 1, lost + 1);
                continue;
            };
            let bytes = message.bytes();
            let Some(charge) = self.charge(bytes, 1, 0) else {
                is_all = false;
                break;
            };
            // Of an earlier start, the sum is known.
            let known = bytes.min(self.away.bytes);
            self.away.remove(known);
            self.bytes += bytes - known;
            let (share, takers, duty, charge) = (None, 1, run.pop(), Some(charge));
            let queued = Queued { message, qos, retain, subscription_ids, share, takers, duty, charge };
            before.push((order, Place::Here(queued)));
            order += 1;
        }
        if run.len() > 0 {
            run.count();
            self.others.push_front((order, Place::Away(run)));
        } else {
            self.away.runs -= 1;
        }
        if self.away.messages == 0 {
            self.bytes -= std::mem::take(&mut self.away.bytes);
        }
        before.into_iter().rev().for_each(|place| self.others.push_front(place));
        (lost, is_all)
    }

    /// Notes that messages up to this number may have been sent before.
    pub(crate) fn note_sent(&mut self, number: u64) {
        self.away.sent_to = number;
    }

    /// True for a message that may have been sent in an earlier start.
    pub(crate) fn may_have_sent(&self, duty: Option<&Duty>) -> bool {
        duty.is_some_and(|duty| duty.number <= self.away.sent_to)
    }
}

/// Id of the record of a message that can be put away.
fn record(queued: &Queued) -> Option<u64> {
    let duty = queued.duty.as_ref().filter(|_| queued.share.is_none())?;
    Some(duty.message.as_ref()?.id())
}
