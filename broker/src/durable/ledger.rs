//! The numbers of a session's messages, and which of them the client has.

use std::mem;
use std::sync::Arc;

use model::Nanos;
use parking_lot::Mutex;

use super::journal::Journal;
use super::numbers::Numbers;
use super::outbox::Outbox;
use super::record::{self, Progress, ReleasedRecord, SessionRecord, Subscription};
use crate::codec::subscribe::Options;
use crate::fleet::{Change, Owned};
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
    pub(crate) tenant: Arc<str>,
    pub(crate) journal: Arc<Journal>,
    /// In a fleet: the ownership, under which changes go to the store of all its sessions.
    owned: Option<Mutex<Owned>>,
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// The highest number that was given.
    last: u64,
    /// The client has all up to this number.
    done_to: u64,
    /// The ones beyond it that the client has.
    done: Numbers,
    sent_to: u64,
    /// The journal has to store a change.
    is_noted: bool,
    /// Namely, the messages that the client has.
    has_moved: bool,
    /// Namely, whether a connection has the session.
    session: Option<SessionRecord>,
    /// The stored record says that no connection has the session.
    is_left: bool,
    /// The session has ended.
    over: bool,
    /// The messages that the client had by then.
    at_end: Option<Progress>,
}

impl Marks {
    /// The marks of an earlier start, in which these messages are not done. At least `given`
    /// numbers were given.
    fn restored(progress: &Progress, open: &Numbers, given: u64) -> Self {
        let known = [progress.done_to, progress.sent_to, given].into_iter();
        let known = known.chain(progress.done.iter().map(|range| range.1));
        let last = known.chain(open.last()).max().unwrap_or(0);
        // Numbers that were given and not stored are of no message.
        let done_to = open.first().map_or(last, |first| first - 1);
        Self { last, done_to, done: open.missing(last), sent_to: progress.sent_to, ..Self::default() }
    }

    fn progress(&self) -> Progress {
        let done = self.done.ranges().collect();
        Progress { done_to: self.done_to, done, sent_to: self.sent_to, ..Progress::default() }
    }
}

impl Ledger {
    pub(crate) fn new(session: u64, tenant: Arc<str>, journal: Arc<Journal>) -> Arc<Self> {
        Arc::new(Self { session, tenant, journal, owned: None, marks: Mutex::default() })
    }

    /// The ledger of a session that a fleet shares, with the messages that the store has given
    /// numbers, up to `last`, and of which these are not done.
    pub(crate) fn shared(
        owned: Owned,
        journal: Arc<Journal>,
        progress: &Progress,
        open: &Numbers,
        last: u64,
    ) -> Arc<Self> {
        let marks = Marks::restored(progress, open, last);
        let (session, tenant) = (owned.session, Arc::clone(&owned.client.tenant));
        Arc::new(Self { session, tenant, journal, owned: Some(Mutex::new(owned)), marks: Mutex::new(marks) })
    }

    /// The ledger of a session of an earlier start, in which these messages are not done.
    pub(super) fn restored(
        session: u64,
        tenant: Arc<str>,
        journal: Arc<Journal>,
        progress: &Progress,
        open: &Numbers,
    ) -> Arc<Self> {
        let marks = Marks::restored(progress, open, 0);
        Arc::new(Self { session, tenant, journal, owned: None, marks: Mutex::new(marks) })
    }

    /// True when the session is in the log of this process.
    pub(crate) fn is_in_log(&self) -> bool {
        self.owned.is_none()
    }

    /// The ownership of a session that a fleet shares.
    pub(crate) fn owned(&self) -> Option<Owned> {
        self.owned.as_ref().map(|owned| owned.lock().clone())
    }

    /// Continues under a later claim.
    pub(crate) fn claimed(&self, owned: &Owned) {
        if let Some(held) = &self.owned {
            held.lock().clone_from(owned);
        }
    }

    /// Takes a number that the store has given, if it is the next one. Returns how many before it
    /// have not come; None when it is known.
    pub(crate) fn take(&self, number: u64) -> Option<u64> {
        let mut marks = self.marks.lock();
        let missing = number.checked_sub(marks.last + 1)?;
        if missing == 0 {
            marks.last = number;
        }
        Some(missing)
    }

    /// Takes a number behind some whose messages do not come.
    pub(crate) fn skip_to(self: &Arc<Self>, number: u64) {
        let missing = {
            let mut marks = self.marks.lock();
            let before = marks.last;
            marks.last = number.max(before);
            before + 1..number
        };
        missing.for_each(|number| self.complete(number));
    }

    /// Returns the highest number that was given.
    pub(crate) fn last(&self) -> u64 {
        self.marks.lock().last
    }

    /// Notes that the session is no longer that of this node: nothing of it is stored from now on.
    /// Returns the messages that the client has.
    pub(crate) fn abandon(&self) -> Progress {
        let mut marks = self.marks.lock();
        marks.over = true;
        marks.progress()
    }

    /// Returns the messages that the client has.
    pub(crate) fn progress(&self) -> Progress {
        self.marks.lock().progress()
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
            marks.has_moved = true;
            self.note(&mut marks);
        }
    }

    /// Notes that the client has a message, or does not get it.
    fn complete(self: &Arc<Self>, number: u64) {
        let mut marks = self.marks.lock();
        if number != marks.done_to + 1 {
            marks.done.insert(number);
        } else {
            marks.done_to = marks.done.take_from(number + 1).unwrap_or(number);
        }
        marks.has_moved = true;
        self.note(&mut marks);
    }

    fn note(self: &Arc<Self>, marks: &mut Marks) {
        if !marks.over && !std::mem::replace(&mut marks.is_noted, true) {
            self.journal.progress(&self.tenant, Arc::clone(self));
        }
    }

    /// Notes that the session waits for its client since `left`, or that the client is back.
    pub(crate) fn note_left(self: &Arc<Self>, client: &str, expiry_secs: u32, left: Option<Nanos>) {
        if !self.is_in_log() {
            // The store of the fleet knows it.
            return;
        }
        let mut marks = self.marks.lock();
        if left.is_none() && !marks.is_left {
            // The stored record says so already.
            marks.session = None;
            return;
        }
        marks.session = Some(SessionRecord { client: client.to_owned(), expiry_secs, left });
        self.note(&mut marks);
    }

    /// Goes on from the stored record. The time of a session that had a connection when the process
    /// ended begins now.
    pub(super) fn resume(self: &Arc<Self>, SessionRecord { client, expiry_secs, left }: &SessionRecord) {
        if left.is_some() {
            self.marks.lock().is_left = true;
        } else {
            self.note_left(client, *expiry_secs, Some(model::clock::now()));
        }
    }

    /// Returns what changed since the last call; nothing when the session has ended.
    pub(super) fn take_changes(&self) -> (Option<SessionRecord>, Option<Progress>) {
        let mut marks = self.marks.lock();
        let (session, has_moved) = (marks.session.take(), std::mem::take(&mut marks.has_moved));
        marks.is_noted = false;
        if marks.over {
            return (None, None);
        }
        if let Some(session) = &session {
            marks.is_left = session.left.is_some();
        }
        (session, has_moved.then(|| marks.progress()))
    }

    /// Stages the session.
    pub(crate) fn keep(&self, out: &mut Outbox<impl Intake>, client: &str, expiry_secs: u32) {
        if let Some(owned) = self.owned() {
            return out.changes.push(Change::Keep(owned, expiry_secs));
        }
        let record = SessionRecord { client: client.to_owned(), expiry_secs, left: None };
        stage(out, &self.journal.keys.session(self.session), &record::encode(&record));
    }

    /// Stages the end of the session: without its record, nothing of it is restored. Messages of
    /// shared subscriptions go to other members a moment later, also at the next start.
    pub(crate) fn drop_session(&self, intake: &mut impl Intake) {
        let (progress, last) = {
            let mut marks = self.marks.lock();
            (marks.at_end.take().unwrap_or_else(|| marks.progress()), marks.last)
        };
        if progress.done_to < last {
            stage(intake, &self.journal.keys.progress(self.session), &record::encode(&progress));
        }
        stage(intake, &self.journal.keys.session(self.session), b"");
    }

    /// Stages a subscription.
    pub(crate) fn keep_subscription(
        &self,
        out: &mut Outbox<impl Intake>,
        filter: &str,
        options: Options,
        id: Option<u32>,
    ) {
        let subscription = Subscription::new(options, id);
        if let Some(owned) = self.owned() {
            return out.changes.push(Change::Subscribe(owned, filter.to_owned(), subscription));
        }
        let record = record::encode(&subscription);
        stage(out, &self.journal.keys.subscription(self.session, filter), &record);
    }

    /// Submits a subscription of a session that a fleet shares at once, before it is stored with
    /// what else is staged.
    pub(crate) fn announce_subscription(&self, filter: &str, options: Options, id: Option<u32>) {
        if let Some(owned) = self.owned() {
            self.journal.submit(Change::Subscribe(owned, filter.to_owned(), Subscription::new(options, id)));
        }
    }

    /// Stages the end of a subscription.
    pub(crate) fn drop_subscription(&self, out: &mut Outbox<impl Intake>, filter: &str) {
        if let Some(owned) = self.owned() {
            return out.changes.push(Change::Unsubscribe(owned, filter.to_owned()));
        }
        stage(out, &self.journal.keys.subscription(self.session, filter), b"");
    }

    /// Stages the messages that the client has until it completes them.
    pub(crate) fn keep_released(&self, out: &mut Outbox<impl Intake>, numbers: Vec<u64>) {
        let progress = self.marks.lock().progress();
        if let Some(owned) = self.owned() {
            return out.changes.push(Change::Released(owned, numbers, progress));
        }
        let record = ReleasedRecord { numbers, progress };
        stage(out, &self.journal.keys.released(self.session), &record::encode(&record));
    }

    /// Stages that a QoS 2 message from the client is known.
    pub(crate) fn keep_receipt(&self, intake: &mut impl Intake, packet_id: u16) {
        stage(intake, &self.journal.keys.receipt(self.session, packet_id), b"1");
    }

    /// Stages that the client has released its message.
    pub(crate) fn drop_receipt(&self, out: &mut Outbox<impl Intake>, packet_id: u16) {
        if let Some(owned) = self.owned() {
            return out.changes.push(Change::ReceiptOver(owned, packet_id));
        }
        stage(out, &self.journal.keys.receipt(self.session, packet_id), b"");
    }

    /// Clears the record of a QoS 2 message from the client.
    pub(crate) fn clear_receipt(&self, packet_id: u16) {
        if let Some(owned) = self.owned() {
            return self.journal.submit(Change::ReceiptOver(owned, packet_id));
        }
        self.journal.clear(&self.tenant, self.journal.keys.receipt(self.session, packet_id));
    }

    /// Clears the record of a subscription.
    pub(crate) fn clear_subscription(&self, filter: &str) {
        if let Some(owned) = self.owned() {
            return self.journal.submit(Change::Unsubscribe(owned, filter.to_owned()));
        }
        self.journal.clear(&self.tenant, self.journal.keys.subscription(self.session, filter));
    }

    /// Notes that the session has ended: nothing of it is stored from now on. Clears its own
    /// records, but that of its progress, which goes with the last of its messages; those of its
    /// messages and subscriptions are cleared with them.
    pub(crate) fn end(&self) {
        {
            let mut marks = self.marks.lock();
            // Messages that go to others are done a moment later.
            marks.at_end = Some(marks.progress());
            marks.over = true;
        }
        if let Some(owned) = self.owned() {
            return self.journal.submit(Change::End(owned));
        }
        for topic in [self.journal.keys.session(self.session), self.journal.keys.released(self.session)] {
            self.journal.clear(&self.tenant, topic);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // With the last message of a session that has ended: until then, it says at the next start
        // which messages go to other members of a shared subscription.
        if self.owned.is_none() && self.marks.get_mut().over {
            self.journal.clear(&self.tenant, self.journal.keys.progress(self.session));
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
    /// 0 when it is not to be cleared.
    pub(super) id: u64,
    pub(super) tenant: Arc<str>,
    pub(super) journal: Arc<Journal>,
}

impl StoredMessage {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Forgets the record, which stays. Returns its id.
    pub(crate) fn leave(mut self) -> u64 {
        mem::take(&mut self.id)
    }
}

impl Drop for StoredMessage {
    fn drop(&mut self) {
        if self.id > 0 {
            self.journal.clear(&self.tenant, self.journal.keys.message(self.id));
        }
    }
}

/// A message of QoS 1 or 2 that a session owes its client. It is done when this is dropped.
#[derive(Debug)]
pub(crate) struct Duty {
    pub(crate) ledger: Arc<Ledger>,
    /// 0 when it is owed in another form by now.
    pub(crate) number: u64,
    /// Cleared after the number is done; None in a session that a fleet shares.
    pub(crate) message: Option<Arc<StoredMessage>>,
}

impl Duty {
    pub(crate) fn packet_id(&self) -> u16 {
        packet_id(self.number)
    }

    /// Returns the number and the record, which are owed from now on without this duty.
    pub(crate) fn leave(mut self) -> (Arc<Ledger>, u64, Option<Arc<StoredMessage>>) {
        let number = mem::take(&mut self.number);
        (Arc::clone(&self.ledger), number, self.message.take())
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if self.number > 0 {
            self.ledger.complete(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Arc<Ledger> {
        Ledger::new(1, "t".into(), Journal::new("n", None))
    }

    fn progress(ledger: &Ledger) -> (u64, Vec<(u64, u64)>, u64) {
        let Progress { done_to, done, sent_to, .. } = ledger.marks.lock().progress();
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
        assert!(ledger.take_changes().1.is_some());
        assert_eq!(ledger.take_changes().1, None, "nothing has changed since");
        ledger.complete(5);
        ledger.end();
        assert_eq!(ledger.take_changes().1, None);
    }

    #[test]
    fn a_client_that_is_back_before_its_session_is_stored_costs_no_record() {
        let ledger = ledger();
        let left = |ledger: &Ledger| ledger.take_changes().0.map(|session| session.left);
        ledger.note_left("a", 60, Some(1));
        ledger.note_left("a", 60, None);
        assert_eq!(left(&ledger), None);
        ledger.note_left("a", 60, Some(2));
        assert_eq!(left(&ledger), Some(Some(2)));
        ledger.note_left("a", 60, None);
        assert_eq!(left(&ledger), Some(None));
        assert_eq!(left(&ledger), None);
    }

    #[test]
    fn after_a_restart_numbers_go_on_behind_all_that_a_client_may_know() {
        let record = Progress { done_to: 2, done: vec![(4, 4)], sent_to: 6, ..Progress::default() };
        let restored = |open: &[u64]| {
            let open = open.iter().copied().collect();
            Ledger::restored(1, "t".into(), Journal::new("n", None), &record, &open)
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
