//! Group commit: many producers, one writer thread, one durable append per batch.
//!
//! During an append, new records collect in the open batch, which the next append writes as a
//! whole. A single submit on an idle log is written at once. Nothing waits for a timer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use model::trace::Tracer;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::backlog::{Account, Backlog};
use crate::frame::{FrameBuilder, MAX_BODY_BYTES, Staged};
use crate::metrics::Metrics;
use crate::resends::{Bounds, Resends};
use crate::traces::{Appended, Appends};

pub use crate::backend::{AppendError, LogBackend, Placed};
pub use crate::resends::Notice;
/// Number of a batch, from 1; batches become durable in order.
pub use model::Ticket;

/// Limits of batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Maximum number of records in a frame, limited to 32,768.
    pub max_records: u32,
    /// Maximum number of bytes that wait for the writer, beyond which producers wait, and of a
    /// frame. Limited to 16 MiB.
    pub max_bytes: usize,
    /// Messages of one client among which a resent one is recognised: as many as a client may have
    /// in flight.
    pub resend_messages: usize,
    /// Bytes of memory for the last messages of all clients. With more clients than these hold,
    /// fewer messages of each are kept.
    pub resend_bytes: usize,
}

impl BatchConfig {
    /// Within these limits every frame can be read, even with the longest device ids.
    fn limited(self) -> Self {
        Self {
            max_records: self.max_records.clamp(1, 32_768),
            max_bytes: self.max_bytes.clamp(1, 16 << 20),
            resend_messages: self.resend_messages.max(1),
            ..self
        }
    }
}

const _: () = assert!((16 << 20) + 32_768 * FrameBuilder::OWNER_BYTES + (1 << 10) < MAX_BODY_BYTES);

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_records: 16_384, max_bytes: 8 << 20, resend_messages: 1024, resend_bytes: 64 << 20 }
    }
}

/// News of clients that wait for the writer at most.
const MAX_NOTICES: usize = 1 << 16;

/// Resent messages that were routed and whose connections have not asked, at most.
const MAX_ROUTED: usize = 1 << 16;

/// A task, told from others by its waker: the addresses of its data and table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId(usize, usize);

impl TaskId {
    /// The task of a waker.
    pub fn of(waker: &Waker) -> Self {
        Self(waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
    }
}

/// The reason why a submit was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// The batch is full, or the tenant holds its share of the log: staged records stay staged, and
    /// the waker is called when there may be room.
    #[error("the log is full")]
    Full,
    /// The log has failed.
    #[error("the log has failed and accepts no more records: {0}")]
    Failed(Arc<str>),
}

/// Submits records to a log. Cheap to clone; dropping the last clone closes the log.
#[derive(Clone)]
pub struct Batcher {
    shared: Arc<Shared>,
    writer: Arc<Handle>,
}

/// Handle of the writer thread, which ends with the last batcher.
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Handle {
    fn close(&self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        // Held while waiting, so that every caller returns only after the end.
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    durable: AtomicU64,
    failed: OnceLock<Arc<str>>,
    config: BatchConfig,
    metrics: Arc<Metrics>,
    traces: OnceLock<Appends>,
    key: [u64; 2],
    backlog: Option<Arc<Backlog>>,
    /// Resent messages that were in the log at the start together with the sessions that get them,
    /// by connection and packet id, until their connections ask.
    routed: Mutex<HashSet<(u32, u16)>>,
}

struct State {
    open: FrameBuilder,
    /// Submitted bytes of the open batch, and those of accounts among them.
    submitted: u64,
    accounts: Vec<(Arc<Account>, u64)>,
    ticket: u64,
    waiting: Vec<Waker>,
    /// Wakers by task, so that a task that polls repeatedly is kept once.
    for_room: HashMap<TaskId, Waker>,
    notices: Vec<Notice>,
    closing: bool,
    /// True while the writer sleeps: the next submit must wake it.
    idle: bool,
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("durable", &self.shared.durable).finish_non_exhaustive()
    }
}

impl Batcher {
    /// Starts the writer thread for a backend.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(config: BatchConfig, metrics: Arc<Metrics>, form: impl LogBackend + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                open: FrameBuilder::default(),
                submitted: 0,
                accounts: Vec::new(),
                ticket: 1,
                waiting: Vec::new(),
                for_room: HashMap::new(),
                notices: Vec::new(),
                closing: false,
                idle: false,
            }),
            work: Condvar::new(),
            durable: AtomicU64::new(0),
            failed: OnceLock::new(),
            config: config.limited(),
            metrics,
            traces: OnceLock::new(),
            key: form.key(),
            backlog: form.backlog(),
            routed: Mutex::default(),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || Writer::new(writer, form).run_to_the_end())?;
        let writer = Arc::new(Handle { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) });
        Ok(Self { shared, writer })
    }

    /// Adds all staged records to the open batch in one step. The waker is called when the batch is
    /// durable or has failed.
    ///
    /// # Errors
    /// [`SubmitError`]; `staged` is then unchanged.
    pub fn submit(&self, staged: &mut Staged, waker: &Waker) -> Result<Ticket, SubmitError> {
        self.submit_of(None, staged, waker)
    }

    /// Returns the account of a tenant; `None` when tenants are not held to a share of the log.
    pub fn account(&self, tenant: &Arc<str>) -> Option<Arc<Account>> {
        self.shared.backlog.as_ref().map(|backlog| backlog.account(tenant))
    }

    /// As [`Batcher::submit`], for records of one tenant: [`SubmitError::Full`] also while the
    /// tenant holds its share of the log.
    ///
    /// # Errors
    /// [`SubmitError`]; `staged` is then unchanged.
    pub fn submit_of(
        &self,
        account: Option<&Arc<Account>>,
        staged: &mut Staged,
        waker: &Waker,
    ) -> Result<Ticket, SubmitError> {
        if let Some(reason) = self.shared.failed.get() {
            return Err(SubmitError::Failed(Arc::clone(reason)));
        }
        let may_submit = match (&self.shared.backlog, account) {
            (Some(backlog), Some(account)) => backlog.may_submit(account, waker),
            _ => true,
        };
        if !may_submit {
            self.shared.metrics.share_waits.inc();
            // The end of the log wakes the tasks that wait at that time.
            return Err(match self.shared.state.lock().closing {
                true => self.closed(),
                false => SubmitError::Full,
            });
        }
        let mut state = self.shared.state.lock();
        if state.closing {
            return Err(self.closed());
        }
        let full = state.open.bytes() + staged.bytes() > self.shared.config.max_bytes;
        if full && !state.open.is_empty() {
            state.for_room.insert(TaskId::of(waker), waker.clone());
            self.shared.metrics.full.inc();
            return Err(SubmitError::Full);
        }
        let bytes = staged.bytes() as u64;
        state.open.absorb(staged);
        state.submitted += bytes;
        if let Some(account) = account {
            account.submitted(bytes);
            match state.accounts.last_mut() {
                Some((last, held)) if Arc::ptr_eq(last, account) => *held += bytes,
                _ => state.accounts.push((Arc::clone(account), bytes)),
            }
        }
        if state.waiting.last().is_none_or(|last| !last.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        let ticket = Ticket(state.ticket);
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.shared.work.notify_one();
        }
        Ok(ticket)
    }

    /// Forgets a task that waits for room and has ended. It is woken: should it still run, it asks
    /// again.
    pub fn no_longer_waits(&self, account: Option<&Arc<Account>>, task: TaskId) {
        let of_account = account.and_then(|account| account.no_longer_waits(task));
        let of_log = self.shared.state.lock().for_room.remove(&task);
        of_account.into_iter().chain(of_log).for_each(Waker::wake);
    }

    fn closed(&self) -> SubmitError {
        SubmitError::Failed(self.shared.failed.get().map_or_else(|| "it is being closed".into(), Arc::clone))
    }

    /// Key of the hashes by which resent messages are recognised: see [`LogBackend::key`].
    pub fn key(&self) -> [u64; 2] {
        self.shared.key
    }

    /// Hands news of a client to the writer, in order with what is submitted.
    pub fn notice(&self, notice: Notice) {
        let mut state = self.shared.state.lock();
        // While the log is full the writer takes none; without them some clients are
        // remembered for longer.
        if !state.closing && state.notices.len() < MAX_NOTICES {
            state.notices.push(notice);
        }
    }

    /// True, once, for a resent message that is durable, and that was in the log at the start
    /// together with the sessions that get it. Its connection and its packet id name it.
    pub fn was_routed(&self, connection: u32, packet: u16) -> bool {
        self.shared.routed.lock().remove(&(connection, packet))
    }

    /// Records spans of traced messages that become durable in this log from now on. Only the first
    /// call has an effect.
    pub fn trace(&self, tracer: Tracer, log: &str) {
        self.shared.traces.get_or_init(|| Appends::new(tracer, log));
    }

    /// The highest ticket that is durable.
    ///
    /// # Errors
    /// The reason, once the log has failed.
    pub fn durable(&self) -> Result<Ticket, Arc<str>> {
        match self.shared.failed.get() {
            Some(reason) => Err(Arc::clone(reason)),
            None => Ok(Ticket(self.shared.durable.load(Ordering::Acquire))),
        }
    }

    /// Writes the open batch and ends the writer thread. Returns when the thread has ended.
    pub fn close(&self) {
        self.writer.close();
    }
}

struct Writer<A> {
    shared: Arc<Shared>,
    form: A,
    resends: Resends,
    /// End of the log, once it is known.
    end: Option<u64>,
    /// The other logs were looked into.
    looked: bool,
    notices: Vec<Notice>,
    spare: FrameBuilder,
    /// As [`State::submitted`] and [`State::accounts`], of the current batch.
    submitted: u64,
    accounts: Vec<(Arc<Account>, u64)>,
    /// The place of the last frame, with the bytes that the current batch took.
    placed: Placed,
    /// Wakers of the current batch.
    waiting: Vec<Waker>,
    /// Frames with traced messages whose spans are not recorded yet.
    appended: Vec<Appended>,
}

impl<A: LogBackend> Writer<A> {
    fn new(shared: Arc<Shared>, form: A) -> Self {
        let BatchConfig { resend_messages: messages, resend_bytes: bytes, .. } = shared.config;
        Self {
            resends: Resends::new(Bounds { messages, bytes }),
            shared,
            form,
            end: None,
            looked: false,
            notices: Vec::new(),
            spare: FrameBuilder::default(),
            submitted: 0,
            accounts: Vec::new(),
            placed: Placed::default(),
            waiting: Vec::new(),
            appended: Vec::new(),
        }
    }

    /// Runs until the log is closed or has failed. A panic counts as a failure; all waiting tasks
    /// are woken.
    fn run_to_the_end(mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run())) {
            let what = panic.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of an unknown kind");
            self.fail(&format!("the log's writer panicked: {what}"));
        }
        let mut state = self.shared.state.lock();
        state.closing = true;
        let waiting = std::mem::take(&mut state.waiting);
        let for_room = std::mem::take(&mut state.for_room);
        drop(state);
        self.waiting.into_iter().chain(waiting).chain(for_room.into_values()).for_each(Waker::wake);
        if let Some(backlog) = &self.shared.backlog {
            backlog.wake(true);
        }
    }

    fn run(&mut self) {
        for frame in self.form.recent() {
            self.resends.learn(&frame);
            self.end = Some(frame.header().end_offset());
        }
        while let Some((mut batch, ticket)) = self.next() {
            if let Err(reason) = self.commit(&mut batch) {
                self.fail(&reason);
                return;
            }
            if let Some(backlog) = &self.shared.backlog {
                backlog.appended(&mut self.accounts, self.submitted, self.placed);
                self.placed.bytes = 0;
            }
            self.shared.durable.store(ticket, Ordering::Release);
            self.waiting.drain(..).for_each(Waker::wake);
            // No task waits for this.
            if let Some(traces) = self.shared.traces.get() {
                self.appended.drain(..).for_each(|appended| traces.tell(&appended));
            }
            self.spare = batch;
        }
        if let Err(error) = self.form.close() {
            tracing::warn!("close the log: {error}");
        }
    }

    /// Waits for records and takes the open batch; None when the log is closed.
    fn next(&mut self) -> Option<(FrameBuilder, u64)> {
        let mut state = self.shared.state.lock();
        while state.open.is_empty() {
            if state.closing {
                return None;
            }
            state.idle = true;
            self.shared.work.wait(&mut state);
            state.idle = false;
        }
        let batch = std::mem::replace(&mut state.open, std::mem::take(&mut self.spare));
        let ticket = state.ticket;
        state.ticket += 1;
        // Both keep their allocations.
        std::mem::swap(&mut self.waiting, &mut state.waiting);
        std::mem::swap(&mut self.notices, &mut state.notices);
        std::mem::swap(&mut self.accounts, &mut state.accounts);
        self.submitted = std::mem::take(&mut state.submitted);
        let for_room = std::mem::take(&mut state.for_room);
        drop(state);
        for_room.into_values().for_each(Waker::wake);
        Some((batch, ticket))
    }

    /// Drops resent records, then appends the rest as one frame, or as several when it is large.
    fn commit(&mut self, batch: &mut FrameBuilder) -> Result<(), String> {
        self.notices.drain(..).for_each(|notice| self.resends.notice(notice));
        if batch.has_resent() {
            let anew = !std::mem::replace(&mut self.looked, true);
            let elsewhere = self.retry(|form| form.recent_elsewhere(anew))?;
            elsewhere.iter().for_each(|frame| self.resends.learn_elsewhere(frame));
        }
        if batch.has_senders() {
            let mut routed = Vec::new();
            let dropped = self.resends.screen(batch, self.end, |offset| self.form.recent_at(offset), &mut routed);
            if !routed.is_empty() {
                let mut known = self.shared.routed.lock();
                if known.len() + routed.len() > MAX_ROUTED {
                    // Of connections that have ended. The other ones are routed once more.
                    known.clear();
                }
                known.extend(routed);
            }
            self.shared.metrics.duplicates.inc_by(u64::from(dropped));
        }
        let BatchConfig { max_records, max_bytes, .. } = self.shared.config;
        while !batch.is_empty() {
            if batch.count() <= max_records && batch.bytes() <= max_bytes {
                self.append_parts(batch)?;
            } else {
                self.append_parts(&mut batch.take_front(max_records, max_bytes))?;
            }
        }
        Ok(())
    }

    /// Appends one frame, or several when the log needs them smaller.
    fn append_parts(&mut self, part: &mut FrameBuilder) -> Result<(), String> {
        while part.count() > 1 && !self.form.fits(part) {
            let mut front = part.take_front(part.count() / 2, usize::MAX);
            self.append_parts(&mut front)?;
        }
        self.append(part)
    }

    /// Appends one frame, retrying until there is space.
    fn append(&mut self, part: &mut FrameBuilder) -> Result<(), String> {
        let mut begun = std::time::Instant::now();
        let frame = self.retry(|form| {
            begun = std::time::Instant::now();
            form.append(part)
        })?;
        let writing = begun.elapsed();
        self.shared.metrics.appended(&frame, writing);
        let placed = self.form.placed(&frame);
        self.placed = Placed { bytes: self.placed.bytes + placed.bytes, ..placed };
        if frame.traced().next().is_some() && self.shared.traces.get().is_some() {
            self.appended.push(Appended::now(&frame, writing, self.shared.metrics.spilling.get() > 0));
        }
        self.end = Some(frame.header().end_offset());
        Ok(())
    }

    /// Repeats a step until it succeeds, reports meanwhile that the log takes no records.
    fn retry<T>(&mut self, mut step: impl FnMut(&mut A) -> Result<T, AppendError>) -> Result<T, String> {
        let mut pause = Duration::from_millis(20);
        let mut blocked = false;
        loop {
            match step(&mut self.form) {
                Ok(done) => {
                    if blocked {
                        self.form.blocked(None);
                        tracing::info!("the log takes records again");
                    }
                    return Ok(done);
                }
                Err(AppendError::Fatal(reason)) => return Err(reason),
                Err(AppendError::Retry(reason)) => {
                    if !blocked {
                        tracing::warn!("the log takes no records: {reason}");
                        self.form.blocked(Some(&reason));
                        blocked = true;
                    }
                    if self.pause(pause) {
                        return Err(format!("closed while the log took no records: {reason}"));
                    }
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
    }

    /// Waits before a retry. True when the log is being closed.
    fn pause(&self, time: Duration) -> bool {
        let mut state = self.shared.state.lock();
        if !state.closing {
            // A wake-up and a time-out are handled alike.
            self.shared.work.wait_for(&mut state, time);
        }
        state.closing
    }

    fn fail(&self, reason: &str) {
        tracing::error!("the log has failed and accepts no more records: {reason}");
        self.form.blocked(Some(reason));
        // A log fails once: the thread ends after this.
        self.shared.failed.set(reason.into()).ok();
    }
}
