//! The numbers of a session's messages, and which of them the client has.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::journal::Journal;
use super::record::{self, OptionsRecord, ProgressRecord, ReleasedRecord, SessionRecord};
use crate::codec::subscribe::Options;
use door::{Intake, Retained};

/// Packet ids that there are.
const PACKET_IDS: u64 = u16::MAX as u64;

/// The packet id of a session's message.
pub(crate) fn packet_id(number: u64) -> u16 {
    u16::try_from(number.wrapping_sub(1) % PACKET_IDS + 1).unwrap_or(1)
}

/// The messages of QoS 1 and 2 of a session that lasts. Each is sent in the end, or given up.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The session's id, which no other session of the node has.
    pub(crate) session: u64,
    tenant: Arc<str>,
    journal: Arc<Journal>,
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// The highest number that was given.
    last: u64,
    /// The client has all up to this number.
    done_to: u64,
    /// And these beyond it.
    done: BTreeSet<u64>,
    sent_to: u64,
    /// The journal has to store a change.
    is_noted: bool,
    /// The session has ended.
    over: bool,
}

impl Marks {
    fn progress(&self) -> ProgressRecord {
        let mut done: Vec<(u64, u64)> = Vec::new();
        for number in &self.done {
            match done.last_mut() {
                Some((_, to)) if *to + 1 == *number => *to = *number,
                _ => done.push((*number, *number)),
            }
        }
        ProgressRecord { done_to: self.done_to, done, sent_to: self.sent_to }
    }
}

impl Ledger {
    pub(crate) fn new(session: u64, tenant: Arc<str>, journal: Arc<Journal>) -> Arc<Self> {
        Arc::new(Self { session, tenant, journal, marks: Mutex::default() })
    }

    /// The ledger of a session of an earlier start, in which these messages are not done.
    pub(super) fn restored(
        session: u64,
        tenant: Arc<str>,
        journal: Arc<Journal>,
        progress: &ProgressRecord,
        open: &BTreeSet<u64>,
    ) -> Arc<Self> {
        let known = [progress.done_to, progress.sent_to].into_iter().chain(progress.done.iter().map(|range| range.1));
        let last = known.chain(open.last().copied()).max().unwrap_or(0);
        // Numbers that were given and not stored are of no message.
        let done_to = open.first().map_or(last, |first| first - 1);
        let done = (done_to + 1..=last).filter(|number| !open.contains(number)).collect();
        let marks = Marks { last, done_to, done, sent_to: progress.sent_to, ..Marks::default() };
        Arc::new(Self { session, tenant, journal, marks: Mutex::new(marks) })
    }

    /// Gives the next message a number.
    pub(crate) fn next(&self) -> u64 {
        let mut marks = self.marks.lock();
        marks.last += 1;
        marks.last
    }

    /// Notes that a message was sent.
    pub(crate) fn sent(self: &Arc<Self>, number: u64) {
        let mut marks = self.marks.lock();
        if number > marks.sent_to {
            marks.sent_to = number;
            self.note(&mut marks);
        }
    }

    /// Notes that the client has a message, or does not get it.
    fn complete(self: &Arc<Self>, number: u64) {
        let mut marks = self.marks.lock();
        if number != marks.done_to + 1 {
            marks.done.insert(number);
        } else {
            marks.done_to = number;
            while let Some(next) = marks.done.first().copied().filter(|next| *next == marks.done_to + 1) {
                marks.done.remove(&next);
                marks.done_to = next;
            }
        }
        self.note(&mut marks);
    }

    fn note(self: &Arc<Self>, marks: &mut Marks) {
        if !marks.over && !std::mem::replace(&mut marks.is_noted, true) {
            self.journal.progress(&self.tenant, Arc::clone(self));
        }
    }

    /// Returns the progress to store; None when the session has ended.
    pub(super) fn take_progress(&self) -> Option<ProgressRecord> {
        let mut marks = self.marks.lock();
        marks.is_noted = false;
        (!marks.over).then(|| marks.progress())
    }

    /// Stages the session.
    pub(crate) fn keep(&self, intake: &mut impl Intake, client: &str, expiry_secs: u32) {
        let record = SessionRecord { client: client.to_owned(), expiry_secs };
        stage(intake, &self.journal.keys.session(self.session), &record::encode(&record));
    }

    /// Stages a subscription.
    pub(crate) fn keep_subscription(&self, intake: &mut impl Intake, filter: &str, options: Options, id: Option<u32>) {
        let record = record::encode(&OptionsRecord::new(options, id));
        stage(intake, &self.journal.keys.subscription(self.session, filter), &record);
    }

    /// Stages the end of a subscription.
    pub(crate) fn drop_subscription(&self, intake: &mut impl Intake, filter: &str) {
        stage(intake, &self.journal.keys.subscription(self.session, filter), b"");
    }

    /// Stages the messages that the client has until it completes them.
    pub(crate) fn keep_released(&self, intake: &mut impl Intake, numbers: Vec<u64>) {
        let record = ReleasedRecord { numbers, progress: self.marks.lock().progress() };
        stage(intake, &self.journal.keys.released(self.session), &record::encode(&record));
    }

    /// Stages that a QoS 2 message from the client is known.
    pub(crate) fn keep_receipt(&self, intake: &mut impl Intake, packet_id: u16) {
        stage(intake, &self.journal.keys.receipt(self.session, packet_id), b"1");
    }

    /// Stages that the client has released its message.
    pub(crate) fn drop_receipt(&self, intake: &mut impl Intake, packet_id: u16) {
        stage(intake, &self.journal.keys.receipt(self.session, packet_id), b"");
    }

    /// Clears the record of a QoS 2 message from the client.
    pub(crate) fn clear_receipt(&self, packet_id: u16) {
        self.journal.clear(&self.tenant, self.journal.keys.receipt(self.session, packet_id));
    }

    /// Clears the record of a subscription.
    pub(crate) fn clear_subscription(&self, filter: &str) {
        self.journal.clear(&self.tenant, self.journal.keys.subscription(self.session, filter));
    }

    /// Notes that the session has ended: nothing of it is stored from now on. Clears its own
    /// records; those of its messages and subscriptions are cleared with them.
    pub(crate) fn end(&self) {
        self.marks.lock().over = true;
        let keys = &self.journal.keys;
        for topic in [keys.session(self.session), keys.released(self.session), keys.progress(self.session)] {
            self.journal.clear(&self.tenant, topic);
        }
    }
}

/// Stages a record; without contents, its end.
fn stage(intake: &mut impl Intake, topic: &str, payload: &[u8]) {
    intake.retain(&Retained { topic, payload, qos: 0, properties: b"" });
}

/// The record of a message, cleared when the last session has it.
#[derive(Debug)]
pub(crate) struct StoredMessage {
    pub(super) topic: String,
    pub(super) tenant: Arc<str>,
    pub(super) journal: Arc<Journal>,
}

impl Drop for StoredMessage {
    fn drop(&mut self) {
        self.journal.clear(&self.tenant, std::mem::take(&mut self.topic));
    }
}

/// A message of QoS 1 or 2 that a session owes its client. It is done when this is dropped.
#[derive(Debug)]
pub(crate) struct Duty {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) number: u64,
    /// Cleared after the number is done.
    pub(crate) _message: Arc<StoredMessage>,
}

impl Duty {
    pub(crate) fn packet_id(&self) -> u16 {
        packet_id(self.number)
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        self.ledger.complete(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(1, "t".into(), Journal::new("n"))
    }

    fn progress(ledger: &Ledger) -> (u64, Vec<(u64, u64)>, u64) {
        let ProgressRecord { done_to, done, sent_to } = ledger.take_progress().unwrap();
        (done_to, done, sent_to)
    }

    #[test]
    fn packet_ids_follow_the_numbers_round_and_round() {
        let ids = [1, 2, 65_535, 65_536, 131_071].map(packet_id);
        assert_eq!(ids, [1, 2, 65_535, 1, 1]);
        assert_eq!(packet_id(131_070), 65_535);
    }

    #[test]
    fn messages_are_done_in_any_order() {
        let ledger = ledger();
        let numbers: Vec<u64> = (0..5).map(|_| ledger.next()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        for (number, done_to, done) in
            [(2, 0, vec![(2, 2)]), (4, 0, vec![(2, 2), (4, 4)]), (1, 2, vec![(4, 4)]), (3, 4, vec![])]
        {
            ledger.complete(number);
            assert_eq!(progress(&ledger), (done_to, done, 0));
        }
        ledger.sent(5);
        ledger.sent(3);
        assert_eq!(progress(&ledger), (4, vec![], 5));
        ledger.end();
        assert_eq!(ledger.take_progress(), None);
    }

    #[test]
    fn after_a_restart_numbers_go_on_behind_all_that_a_client_may_know() {
        let record = ProgressRecord { done_to: 2, done: vec![(4, 4)], sent_to: 6 };
        let restored = |open: &[u64]| {
            let open = open.iter().copied().collect();
            Ledger::restored(1, "t".into(), Journal::new("n"), &record, &open)
        };
        // 3 and 5 were given to messages that were not stored.
        let ledger = restored(&[]);
        assert_eq!((progress(&ledger), ledger.next()), ((6, vec![], 6), 7));
        let ledger = restored(&[5, 9]);
        assert_eq!((progress(&ledger), ledger.next()), ((4, vec![(6, 8)], 6), 10));
        ledger.complete(5);
        assert_eq!(progress(&ledger).0, 8);
    }
}
