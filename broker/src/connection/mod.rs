//! One connection: a task that owns the socket.
//!
//! It is a state machine that is polled whenever the socket, the log or the session has something: each turn answers what is
//! durable, sends what waits for the subscriber, writes once, and reads once. A silent connection holds no buffer: bytes are
//! read into one that the thread shares, and only an unfinished packet is kept.

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

use parking_lot::MutexGuard;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::Broker;
use crate::codec::Version;
use crate::codec::connect::Will;
use crate::inbox::{Client, Inbox, Intake, Ticket};
use crate::session::{Link, Session, State};
use answer::{Pending, Wait};
use end::End;

/// Bytes that may wait for a slow peer before nothing more is read from it.
const OUT_BYTES: usize = 64 << 10;
/// Bytes of a buffer that a connection holds on to between two messages; an idle one gives them back.
const KEEP_BYTES: usize = 16 << 10;
/// Turns before other connections get theirs.
const TURNS: usize = 16;
/// How often a connection without a keep-alive looks whether it is idle.
const IDLE: Duration = Duration::from_secs(60);
/// Least time between two looks at a keep-alive that is over while the client waits for us.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// One in so many batches is timed.
const SAMPLED: u32 = 16;

/// What MQTT is spoken over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves a connection until it ends.
pub(crate) async fn serve<I: Inbox>(broker: &Arc<Broker<I>>, stream: TcpStream, peer: SocketAddr, full: bool) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
    }
    let connect_timeout = Duration::from_millis(broker.config.connect_timeout_ms);
    // Boxed: what the handshake takes, a connection does not hold for the rest of its life.
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
    let end = tokio::select! {
        end = poll_fn(|cx| connection.poll(cx)) => end,
        () = broker.abandon.cancelled() => End::ShutDown,
    };
    Box::pin(connection.finish(end)).await;
}

struct Connection<I: Inbox, S> {
    broker: Arc<Broker<I>>,
    stream: S,
    client: Client,
    number: u64,
    version: Version,
    session: Arc<Session>,
    link: Arc<Link>,
    intake: I::Intake,
    will: Option<Will>,
    /// An unfinished packet, or packets that wait for room in `pending`.
    partial: Vec<u8>,
    /// `partial` may hold whole packets: they came together with CONNECT, or there was no room for them.
    stalled: bool,
    /// Bytes for the peer, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Messages to be acknowledged or routed, in receipt order.
    pending: VecDeque<Pending>,
    /// How many of `pending` are to be acknowledged.
    owed: usize,
    /// The intake has something to submit.
    staged: bool,
    /// The log had no room for it.
    full: bool,
    last_ticket: Ticket,
    batches: u32,
    /// When a batch was submitted that is timed.
    timed: Option<(Ticket, Instant)>,
    aliases: Vec<Option<Box<str>>>,
    /// Messages at QoS 1 that the client takes in flight.
    send_maximum: usize,
    maximum_packet_bytes: usize,
    problem_information: bool,
    /// Silence after which the client is taken for dead.
    patience: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    last_heard: Instant,
    registered: bool,
    draining: bool,
    /// Nobody reads answers any more.
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
            // Who stopped all connections may have done so before this one could hear it.
            self.draining = self.broker.stopping.is_cancelled();
        }
        for _ in 0..TURNS {
            let mut moved = self.heed()?;
            moved |= self.answer()?;
            moved |= self.write(cx)?;
            if self.staged {
                moved |= self.submit(cx)?;
            }
            // The log being full is told to the device by not reading from it.
            if !self.is_behind() && !self.staged && !self.draining {
                moved |= self.read(cx)?;
            }
            if self.draining && self.pending.is_empty() && self.out.is_empty() {
                return Err(End::ShutDown);
            }
            if !moved {
                return self.watch(cx);
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Does what others have asked for. True when there was something to do.
    fn heed(&mut self) -> Result<bool, End> {
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

    /// The session's state, as long as this connection owns it.
    fn state(&self) -> Result<MutexGuard<'_, State>, End> {
        self.session.owned_by(&self.link).ok_or(End::TakenOver)
    }

    fn is_behind(&self) -> bool {
        self.out.len() - self.written > OUT_BYTES
    }

    /// Hands what is staged to the log. True when it was taken.
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

    /// Writes what waits, as far as the socket takes it. True when nothing waits any more.
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
                // Nothing was read from it, yet it lives.
                self.last_heard = Instant::now();
            }
        }
        self.written = 0;
        self.out.clear();
        self.out.shrink_to(KEEP_BYTES);
        // There is room for the subscriber's messages again.
        self.link.remember(Link::ATTENTION);
        Ok(true)
    }

    /// Ends a connection from which nothing came for one and a half keep-alives; gives back what an idle one does not need.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            self.give_back();
            let now = Instant::now();
            let next = match self.patience {
                None => now + IDLE,
                Some(patience) => {
                    let due = self.last_heard + patience;
                    // A client that waits for us, or that we do not read from, is not silent.
                    let ours = self.staged || self.stalled || !self.pending.is_empty();
                    if due <= now && !ours {
                        return Err(End::KeepAlive);
                    }
                    due.max(now + LOOK_AGAIN)
                }
            };
            self.timer.as_mut().reset(next.into());
        }
        Ok(())
    }

    fn give_back(&mut self) {
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }
}

impl<I: Inbox> Broker<I> {
    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
