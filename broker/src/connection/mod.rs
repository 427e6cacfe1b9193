//! One connection: a task that owns the socket.
//!
//! It is a state machine, polled when the socket, the log or the session wakes it. Each turn
//! acknowledges durable messages, sends queued messages to the subscriber, writes once, and reads
//! once. An idle connection holds no buffer: all connections of a thread read into one, and only an
//! unfinished packet is kept.

mod admission;
mod answer;
mod deliver;
mod end;
mod handshake;
mod packet;
mod read;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use model::{Full, Held};
use parking_lot::MutexGuard;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::codec::Version;
use crate::memory::FREE_BYTES;
use crate::pending_wills;
use crate::session::{Link, Session, State};
use crate::tenant::Tenant;
use crate::will::Before;
use answer::{Pending, Wait};
use door::{Grants, Inbox, Intake, Sender, Ticket};
use end::End;
pub(crate) use handshake::NO_CONNECTION;

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
/// One batch in this many is timed.
const SAMPLED: u32 = 16;

/// The byte stream below MQTT.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves a connection until it ends.
pub(crate) async fn serve<I: Inbox>(broker: &Arc<Broker<I>>, stream: TcpStream, peer: SocketAddr, full: bool) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
    }
    let connect_timeout = Duration::from_millis(broker.config.connect_timeout_ms);
    // Boxed, so that the connection does not hold the memory of the handshake for the rest of its
    // life.
    let opening = Box::pin(handshake::open(broker, stream, peer, full));
    let opened = tokio::select! {
        opened = tokio::time::timeout(connect_timeout, opening) => opened,
        () = broker.stopping.cancelled() => return broker.count_end("shut_down"),
    };
    let mut connection = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return broker.count_end(reason),
        Err(_) => return broker.count_end("connect_timeout"),
    };
    let ended = connection.ended.take();
    let revoked = async {
        match &ended {
            Some(ended) => ended.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        // A client whose credential was revoked is not read again.
        biased;
        () = revoked => End::Revoked,
        end = async {
            if let Some(before) = connection.before.take() {
                // Boxed, as it is rare.
                Box::pin(connection.broker.settle(before, &connection.tenant)).await;
            }
            connection.keep_will();
            poll_fn(|cx| connection.poll(cx)).await
        } => end,
        () = broker.abandon.cancelled() => End::ShutDown,
    };
    Box::pin(connection.finish(end)).await;
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Stages the will message for the next start, in case that this one ends without it.
    fn keep_will(&mut self) {
        if let Some(state) = self.session.owned_by(&self.link)
            && let Some(last) = &state.last_will
        {
            pending_wills::keep(&mut self.intake, last);
            self.staged = true;
        }
    }
}

struct Connection<I: Inbox, S> {
    broker: Arc<Broker<I>>,
    stream: S,
    sender: Sender,
    grants: Arc<Grants>,
    /// Cancelled when the credential is revoked or expires.
    ended: Option<CancellationToken>,
    tenant: Arc<Tenant>,
    number: u64,
    version: Version,
    /// The client asked for a clean start.
    clean: bool,
    session: Arc<Session>,
    link: Arc<Link>,
    intake: I::Intake,
    /// The intake reads trace contexts.
    is_traced: bool,
    /// Work that the CONNACK waits for.
    before: Option<Before>,
    /// An unfinished packet, or packets that wait for room in `pending`.
    partial: Vec<u8>,
    /// `partial` may hold whole packets: they came together with CONNECT, or there was no room for
    /// them.
    stalled: bool,
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
    /// A message for the subscriber found no memory.
    starved: bool,
    /// Retained messages may wait for a place in the session's queue.
    walking: bool,
    /// Bytes for the peer, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Messages to be acknowledged or routed, in receipt order.
    pending: VecDeque<Pending>,
    /// Number of messages in `pending` that are to be acknowledged.
    owed: usize,
    /// The intake has staged records.
    staged: bool,
    /// The log had no room for them.
    full: bool,
    last_ticket: Ticket,
    batches: u32,
    /// The batch that is timed, and the time of its submission.
    timed: Option<(Ticket, Instant)>,
    aliases: Vec<Option<Box<str>>>,
    /// QoS 1 messages that the client accepts in flight.
    send_maximum: usize,
    maximum_packet_bytes: usize,
    problem_information: bool,
    /// Silence after which the connection is closed.
    patience: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    last_heard: Instant,
    registered: bool,
    /// A denial was logged.
    was_denied: bool,
    draining: bool,
    /// The peer no longer reads acknowledgements.
    gone: bool,
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.turns(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn turns(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !self.registered {
            self.registered = true;
            self.link.listen(cx.waker());
            // The signal to stop may have been sent before this connection was registered.
            self.draining = self.broker.stopping.is_cancelled();
        }
        for _ in 0..TURNS {
            let mut moved = self.handle_signals()?;
            moved |= self.answer()?;
            if self.walking {
                moved |= self.walk_retained()?;
            }
            moved |= self.write(cx)?;
            if self.staged {
                moved |= self.submit(cx)?;
            }
            // A full log slows the device down: its socket is not read.
            if !self.is_behind() && !self.staged && !self.draining {
                moved |= self.read(cx)?;
            }
            if self.draining && self.pending.is_empty() && self.out.is_empty() {
                return Err(End::ShutDown);
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
        self.draining |= signals & Link::STOP != 0;
        if signals & Link::ATTENTION == 0 {
            return Ok(false);
        }
        self.deliver()
    }

    /// Returns the session's state, as long as this connection owns the session.
    fn state(&self) -> Result<MutexGuard<'_, State>, End> {
        self.session.owned_by(&self.link).ok_or(End::TakenOver)
    }

    fn is_behind(&self) -> bool {
        self.out.len() - self.written > OUT_BYTES
    }

    /// Submits staged records to the log. True when the log accepted them.
    fn submit(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
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
                if self.batches.is_multiple_of(SAMPLED) && self.owed > 0 && self.timed.is_none() {
                    self.timed = Some((ticket, Instant::now()));
                }
                self.batches = self.batches.wrapping_add(1);
                Ok(true)
            }
        }
    }

    /// Writes pending bytes, as far as the socket accepts them. True when all are written.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.out.is_empty() {
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
        if self.out_bytes > 0 {
            self.out_bytes = 0;
            self.count_memory().map_err(End::Memory)?;
        }
        // There is room again for the subscriber's messages.
        self.link.remember(Link::ATTENTION);
        Ok(true)
    }

    /// Closes a connection after one and a half keep-alives of silence; frees the buffers of an
    /// idle one.
    fn check_keep_alive(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            self.free_buffers();
            let now = Instant::now();
            let next = match self.patience {
                None => now + IDLE,
                Some(patience) => {
                    let due = self.last_heard + patience;
                    // A client that waits for this side, or whose socket is not read, is not
                    // silent.
                    let ours = self.staged || self.stalled || !self.pending.is_empty();
                    if due <= now && !ours {
                        return Err(End::KeepAlive);
                    }
                    due.max(now + RECHECK)
                }
            };
            let next = self.packet_due(now)?.map_or(next, |due| due.min(next));
            if self.starved {
                // Others may have returned memory meanwhile.
                self.starved = false;
                self.link.remember(Link::ATTENTION);
                cx.waker().wake_by_ref();
            }
            self.timer.as_mut().reset(next.into());
        }
        Ok(())
    }

    /// Returns when the rest of an unfinished packet is due.
    fn packet_due(&mut self, now: Instant) -> Result<Option<Instant>, End> {
        let Some(since) = &mut self.unfinished_since else { return Ok(None) };
        if self.staged || self.stalled || self.out.len() - self.written > OUT_BYTES {
            // Its socket is not read.
            *since = now;
        }
        let timeout = Duration::from_millis(self.broker.config.packet_timeout_ms);
        // A second for each KiB, as slow as the slowest networks.
        let due = *since + timeout + Duration::from_millis(self.partial.len() as u64);
        if due <= now { Err(End::Unfinished) } else { Ok(Some(due)) }
    }

    /// Sets the timer for at most this time from now.
    fn wake_within(&mut self, time: Duration) {
        let due = (Instant::now() + time).into();
        if self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
    }

    /// Acquires the memory that the connection holds, or returns what it no longer holds.
    fn count_memory(&mut self) -> Result<(), Full> {
        let bytes = self.own_bytes + self.alias_bytes + self.partial.capacity() + self.out_bytes;
        let counted = bytes.saturating_sub(FREE_BYTES);
        if counted == self.memory.bytes() { Ok(()) } else { self.memory.resize(counted) }
    }

    fn free_buffers(&mut self) {
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
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
