//! One connection: a task that owns the socket.
//!
//! It is a state machine, polled when the socket, the log or the session wakes it. Each turn
//! acknowledges durable messages, sends queued messages to the subscriber, writes once, and reads
//! once. An idle connection holds no buffer: all connections of a thread read into one, and only an
//! unfinished packet is kept.

mod admission;
mod aliases;
mod answer;
mod authenticate;
mod connack;
mod deliver;
mod end;
mod hand_over;
mod handshake;
mod pace;
mod packet;
mod read;
mod serve;
mod subscribe;
mod timer;
mod waiting;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use model::{Full, Held};
use parking_lot::MutexGuard;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::codec::Version;
use crate::durable::Outbox;
use crate::link::Link;
use crate::memory::FREE_BYTES;
use crate::pending_wills;
use crate::session::{Session, State};
use crate::tenant::Tenant;
use crate::will::{Before, SETTLE};
pub(crate) use admission::INTERNAL;
use aliases::Aliases;
use answer::{Pending, Wait};
use authenticate::Authentication;
use door::quota::ConnectionPermit;
use door::{Grants, Inbox, Intake, Sender, Ticket};
use end::End;
use hand_over::HandOver;
use pace::Pace;
pub(crate) use serve::{open, open_in_memory};
pub(crate) use waiting::Waiting;

/// Bytes that may wait for a slow peer before reading from it stops.
const OUT_BYTES: usize = 64 << 10;
/// Bytes of a buffer that a connection keeps between two messages; an idle connection frees them.
const KEEP_BYTES: usize = 16 << 10;
/// Turns of one poll, before other tasks run.
const TURNS: usize = 16;
/// Interval at which a connection without a keep-alive frees its buffers.
const IDLE: Duration = Duration::from_secs(60);
/// Minimum time between two checks of an expired keep-alive while the client waits for this side.
const RECHECK: Duration = Duration::from_millis(500);
/// Silence after which a connection is idle.
const QUIET: Duration = Duration::from_millis(100);
/// One batch in this many is timed.
const SAMPLED: u32 = 16;

/// Metric label of a connection that gave way to others before its client was known.
pub(crate) const DISPLACED: &str = "displaced";

/// The byte stream below MQTT.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Stages the will message for the next start, in case that this one ends without it, and the
    /// session.
    fn keep_state(&mut self) {
        if let Some(state) = self.session.owned_by(&self.link) {
            if let Some(last) = state.last_will.as_ref().filter(|last| last.kept_as.is_some()) {
                pending_wills::keep(&mut self.intake, last);
                self.staged = true;
            }
            if self.keeps_session
                && let Some(ledger) = &state.ledger
            {
                ledger.keep(&mut self.intake, &self.sender.client, state.expiry_secs);
                self.staged = true;
            }
        }
    }

    /// Does what comes before the CONNACK, because of the connections before: publishes a will
    /// message, and stores the end of the session. A log that is full for longer does not keep the
    /// client out.
    async fn settle(&mut self, mut before: Before) {
        let ended = before.ended.take();
        self.broker.settle(before, &self.tenant).await;
        self.keep_state();
        if let Some(ledger) = ended {
            ledger.drop_session(&mut self.intake);
            self.staged = true;
            if tokio::time::timeout(SETTLE, poll_fn(|cx| self.poll_stored(cx))).await.is_err() {
                tracing::debug!("a client connects although the end of its session before is not stored yet");
            }
        }
    }

    /// Ready when all that is staged is durable, or the log has failed: the next turn reports that.
    fn poll_stored(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.staged && self.submit(cx).is_err() {
            return Poll::Ready(());
        }
        match self.intake.durable() {
            Ok(durable) if self.staged || durable < self.last_ticket => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

pub(crate) struct Connection<I: Inbox, S> {
    broker: Arc<Broker<I>>,
    stream: S,
    sender: Sender,
    grants: Arc<Grants>,
    /// Cancelled when the credential is revoked or expires. Taken by the task, which watches it.
    ended: Option<CancellationToken>,
    /// Present when CONNECT named an authentication method.
    authentication: Option<Box<Authentication>>,
    tenant: Arc<Tenant>,
    /// Present when the tenant may have limits.
    pace: Option<Pace>,
    permit: Option<ConnectionPermit>,
    number: u64,
    version: Version,
    /// The client asked for a clean start.
    clean: bool,
    /// The client is a broker that bridges, or the bridge of this one.
    is_bridge: bool,
    /// The client speaks MQTT 3.1.
    is_3_1: bool,
    session: Arc<Session>,
    link: Arc<Link>,
    /// Wakes the connection for what has arrived.
    arrival: Waker,
    /// It has let others read first that were woken before it.
    has_yielded: bool,
    /// Another connection waits for the session.
    handing_over: Option<Box<HandOver>>,
    /// The connection of the client before: its messages come first.
    earlier: Option<Weak<Link>>,
    intake: Outbox<I::Intake>,
    /// The intake reads trace contexts.
    is_traced: bool,
    /// The session is new, or its expiry is.
    keeps_session: bool,
    /// Work that the CONNACK waits for.
    before: Option<Box<Before>>,
    /// An unfinished packet, or packets that wait for room in `pending`.
    partial: Vec<u8>,
    /// `partial` may hold whole packets: they came together with CONNECT, or have to wait.
    stalled: bool,
    /// They wait until the messages before them are routed.
    awaits_routing: bool,
    /// Since when the front of `partial` has waited for its rest.
    unfinished_since: Option<Instant>,
    /// Memory of `partial`, of a large message in `out`, of the aliases, of the will message and of
    /// the names of the client, beyond [`FREE_BYTES`].
    memory: Held,
    /// Bytes of names and will message.
    own_bytes: usize,
    alias_bytes: usize,
    /// Bytes of `out` that are counted.
    out_bytes: usize,
    /// Messages for the subscriber wait for memory, or rest: the timer goes on with them.
    delivers_later: bool,
    /// Retained messages may wait for a place in the session's queue.
    walking: bool,
    /// Bytes for the peer, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// The stream holds bytes that it has not sent.
    unflushed: bool,
    /// Messages to be acknowledged or routed, in receipt order.
    pending: VecDeque<Pending>,
    /// Number of the ones at the front that are durable in the log, and routed.
    routed: usize,
    /// Number of messages in `pending` that are to be acknowledged.
    owed: usize,
    /// In a fleet, its last message of QoS 1 or 2 went to subscribers at other nodes.
    is_forwarding: bool,
    /// The client has messages of QoS 2 that it had not before.
    has_released: bool,
    /// The intake has staged records.
    staged: bool,
    /// The log had no room for them.
    full: bool,
    last_ticket: Ticket,
    batches: u32,
    /// The batch that is timed, and the time of its submission.
    timed: Option<(Ticket, Instant)>,
    aliases: Vec<Option<Box<str>>>,
    /// The aliases of messages to the client; `None` until the first one.
    sent_aliases: Option<Box<Aliases>>,
    /// Their maximum number.
    sent_aliases_most: u16,
    /// QoS 1 messages that the client accepts in flight.
    send_maximum: usize,
    maximum_packet_bytes: usize,
    problem_information: bool,
    /// Silence after which the connection is closed.
    patience: Option<Duration>,
    /// Time at which the connection ends with its token.
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    last_heard: Instant,
    registered: bool,
    /// A denial was logged.
    was_denied: bool,
    draining: bool,
    /// It drains so that its client connects to another process.
    is_moved: bool,
    /// The peer no longer reads acknowledgements.
    gone: bool,
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Ready with `None` when there is another credential to watch (`ended`).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        match self.turns(cx) {
            Ok(()) if self.ended.is_some() => Poll::Ready(None),
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(Some(end)),
        }
    }

    fn turns(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !self.registered {
            self.registered = true;
            self.link.listen(cx.waker());
            // The signal to stop may have been sent before this connection was registered.
            self.draining = self.broker.stopping.is_cancelled();
        }
        if self.earlier.is_some() {
            self.await_earlier(cx);
        }
        if self.link.arrival.is_ahead() && !self.has_yielded {
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        self.has_yielded = false;
        self.link.arrival.begin();
        // A connection that is never idle does not come to its timer.
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(End::Expired);
        }
        for _ in 0..TURNS {
            let mut moved = self.handle_signals()?;
            moved |= self.poll_authentication(cx)?;
            moved |= self.answer()?;
            if self.walking && self.walk_retained()? {
                // Right behind the SUBACK, before answers to what comes next.
                self.deliver()?;
                moved = true;
            }
            moved |= self.write(cx)?;
            if self.ended.is_some() {
                // To be watched from now on.
                return Ok(());
            }
            if self.staged {
                moved |= self.submit(cx)?;
            }
            // A full log slows the device down: its socket is not read.
            if !self.is_behind() && !self.staged && !self.draining && self.fleet_has_room() {
                let has_read = self.read()?;
                moved |= has_read;
                self.hand_over(has_read);
            }
            self.leave_in_time();
            if self.draining && self.pending.is_empty() && self.out.is_empty() && !self.unflushed {
                return Err(if self.is_moved { End::Moved(self.broker.drain.cause()) } else { End::ShutDown });
            }
            if !moved {
                return self.check_keep_alive(cx);
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Handles the signals of other tasks. True when there was something to do.
    fn handle_signals(&mut self) -> Result<bool, End> {
        let signals = self.link.take();
        if signals & Link::TAKEN_OVER != 0 {
            return Err(End::TakenOver);
        }
        if signals & Link::KICKED != 0 {
            return Err(End::Kicked { ends_session: signals & Link::ENDED != 0 });
        }
        if let Some(refusal) = self.link.refusal() {
            return Err(refusal.into());
        }
        if signals & Link::MOVE != 0 {
            self.begin_to_leave();
        }
        // One that is to leave reads what has arrived first.
        self.draining |= signals & Link::STOP != 0 && !self.is_leaving();
        if signals & Link::HAND_OVER != 0 && !self.is_leaving() {
            self.handing_over = Some(Box::new(HandOver::new()));
        }
        if signals & Link::ATTENTION == 0 {
            return Ok(false);
        }
        self.deliver()
    }

    /// Returns the session's state, as long as this connection owns the session.
    fn state(&self) -> Result<MutexGuard<'_, State>, End> {
        self.session.owned_by(&self.link).ok_or(End::TakenOver)
    }

    /// True while too many bytes wait for the peer. One that no longer reads is still read for a
    /// moment, when it has connected again.
    fn is_behind(&self) -> bool {
        let most = if self.handing_over.is_some() { 2 * OUT_BYTES } else { OUT_BYTES };
        self.out.len() - self.written > most
    }

    /// Writes an answer, without its reason string when the packet is larger with it than the
    /// client accepts.
    fn reply(&mut self, text: Option<&str>, write: impl Fn(&mut Vec<u8>, Option<&str>)) -> Result<(), End> {
        let begun = self.out.len();
        for text in [text, None] {
            write(&mut self.out, text);
            if self.out.len() - begun <= self.maximum_packet_bytes {
                return Ok(());
            }
            self.out.truncate(begun);
        }
        Err(End::Oversize)
    }

    /// Submits staged records to the log. True when the log accepted them.
    fn submit(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        self.stage_released();
        self.submit_changes();
        match self.intake.poll_submit(cx) {
            Poll::Pending => {
                self.broker.metrics.waits.inc_by(u64::from(!self.full));
                self.full = true;
                Ok(false)
            }
            Poll::Ready(Err(error)) => Err(End::Failed(error)),
            Poll::Ready(Ok(ticket)) => {
                self.staged = false;
                self.full = false;
                self.last_ticket = ticket;
                for pending in self.pending.iter_mut().rev() {
                    match pending.wait {
                        Wait::Submit => pending.wait = Wait::Ticket(ticket),
                        Wait::Elsewhere => {}
                        Wait::Ticket(_) => break,
                    }
                }
                // One that was staged once more is not the last.
                if let Some(next) = self.pending.get_mut(self.routed).filter(|next| next.wait == Wait::Submit) {
                    next.wait = Wait::Ticket(ticket);
                }
                if self.batches.is_multiple_of(SAMPLED) && self.owed > 0 && self.timed.is_none() {
                    self.timed = Some((ticket, Instant::now()));
                }
                self.batches = self.batches.wrapping_add(1);
                Ok(true)
            }
        }
    }

    /// Submits staged changes to the store of the fleet's sessions.
    fn submit_changes(&mut self) {
        if self.intake.changes.is_empty() {
            return;
        }
        let Some(fleet) = &self.broker.fleet else { return };
        let changes = std::mem::take(&mut self.intake.changes);
        let ticket = fleet.store.submit_for(changes, Some(Arc::clone(&self.link) as _));
        fleet.store.wake(ticket, &self.arrival);
        for pending in self.pending.iter_mut().rev().take_while(|pending| pending.wait == Wait::Submit) {
            pending.shared = ticket;
        }
    }

    /// True while the store of the fleet's sessions takes more, for a client whose messages go
    /// there, and the way to the other nodes, for one whose last message went there.
    fn fleet_has_room(&self) -> bool {
        let Some(fleet) = &self.broker.fleet else { return true };
        let cx = &mut Context::from_waker(&self.arrival);
        let is_waiting = self.pending.back().is_some_and(|pending| pending.shared > 0);
        (!is_waiting || fleet.store.poll_room(&self.tenant.id, cx).is_ready())
            && (!self.is_forwarding || fleet.bus.poll_forward(&self.tenant.id, cx).is_ready())
    }

    /// Writes pending bytes, as far as the socket accepts them. True when all are written.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.out.is_empty() {
            if self.unflushed {
                self.flush(cx)?;
            }
            return Ok(false);
        }
        let was_behind = self.is_behind();
        while self.written < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(End::Closed),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.broker.metrics.sent.inc_by(n as u64);
                }
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
            }
            if was_behind {
                // Its socket was not read meanwhile, but it accepts bytes.
                self.last_heard = Instant::now();
            }
        }
        self.written = 0;
        self.out.clear();
        self.out.shrink_to(KEEP_BYTES);
        self.flush(cx)?;
        if self.out_bytes > 0 {
            self.out_bytes = 0;
            self.count_memory().map_err(End::Memory)?;
        }
        // There is room again for the subscriber's messages.
        self.link.remember(Link::ATTENTION);
        Ok(true)
    }

    /// Sends bytes that the stream holds: TLS has records that the socket did not accept.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.unflushed = match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => return Err(End::Io(error)),
        };
        Ok(())
    }

    /// Acquires the memory that the connection holds, or returns what it no longer holds.
    fn count_memory(&mut self) -> Result<(), Full> {
        let bytes = self.own_bytes + self.alias_bytes + self.partial.capacity() + self.out_bytes;
        let bytes = bytes + self.sent_aliases.as_ref().map_or(0, |aliases| aliases.bytes());
        let counted = bytes.saturating_sub(FREE_BYTES);
        if counted == self.memory.bytes() { Ok(()) } else { self.memory.resize(counted) }
    }

    fn free_buffers(&mut self) {
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
            if !self.staged {
                self.intake.rest();
            }
        }
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
            // It returns memory.
            self.count_memory().ok();
        }
    }
}

impl<I: Inbox> Broker<I> {
    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
