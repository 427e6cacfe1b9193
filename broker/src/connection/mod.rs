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

use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::Broker;
use crate::codec::Version;
use crate::codec::connect::Will;
use crate::inbox::{Client, Inbox, Intake, Ticket};
use crate::session::{Kick, Session};
use answer::Pending;
use end::End;

/// Bytes that may wait for a slow peer before nothing more is read from it.
const OUT_BYTES: usize = 64 << 10;
/// Turns before other connections get theirs.
const TURNS: usize = 16;

/// Serves a connection until it ends.
pub(crate) async fn serve<I: Inbox>(broker: &Arc<Broker<I>>, stream: TcpStream, peer: SocketAddr, full: bool) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
    }
    let connect_timeout = Duration::from_millis(broker.config.connect_timeout_ms);
    let opening = handshake::open(broker, stream, peer, full);
    let opened = tokio::select! {
        opened = tokio::time::timeout(connect_timeout, opening) => opened,
        () = broker.abandon.cancelled() => return,
    };
    let (mut connection, early) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return broker.count_end(reason),
        Err(_) => return broker.count_end("connect_timeout"),
    };
    connection.early = !early.is_empty();
    connection.partial = early;
    let end = tokio::select! {
        end = poll_fn(|cx| connection.poll(cx)) => end,
        () = broker.abandon.cancelled() => End::ShutDown,
    };
    connection.finish(end).await;
}

struct Connection<I: Inbox> {
    broker: Arc<Broker<I>>,
    stream: TcpStream,
    client: Client,
    number: u64,
    version: Version,
    session: Arc<Session>,
    intake: I::Intake,
    will: Option<Will>,
    /// An unfinished packet, or packets that wait for room in `pending`.
    partial: Vec<u8>,
    /// Bytes for the peer, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Messages to be acknowledged, in receipt order.
    pending: VecDeque<Pending>,
    /// How many at the end of `pending` have no ticket yet.
    unsubmitted: usize,
    /// The intake has something to submit.
    staged: bool,
    last_ticket: Ticket,
    /// `partial` holds whole packets that there was no room for.
    stalled: bool,
    aliases: Vec<Option<Box<str>>>,
    /// Messages at QoS 1 that the client takes in flight.
    send_maximum: usize,
    maximum_packet_bytes: usize,
    problem_information: bool,
    keep_alive: Option<(Duration, Pin<Box<Sleep>>)>,
    last_read: Instant,
    registered: bool,
    draining: bool,
    /// `partial` came together with CONNECT and has not been looked at.
    early: bool,
    /// Something in `pending` may be answered without waiting for the log.
    answer_now: bool,
}

impl<I: Inbox> Connection<I> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.turns(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn turns(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !self.registered {
            self.registered = true;
            self.session.state.lock().waker = Some(cx.waker().clone());
            self.session.attend();
        }
        for _ in 0..TURNS {
            let mut moved = std::mem::take(&mut self.answer_now);
            moved |= self.answer()?;
            if self.session.attended() {
                self.obey()?;
                moved |= self.deliver();
            }
            self.write(cx)?;
            if self.staged {
                moved |= self.submit(cx)?;
            }
            let behind = self.out.len() - self.written > OUT_BYTES;
            // The log being full is told to the device by not reading from it.
            if !behind && !self.staged && !self.draining {
                moved |= self.read(cx)?;
            }
            if self.draining && self.pending.is_empty() && self.out.is_empty() {
                return Err(End::ShutDown);
            }
            if !moved {
                return self.watch_silence(cx);
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Does what the session was told.
    fn obey(&mut self) -> Result<(), End> {
        let kick = {
            let state = self.session.state.lock();
            state.kick
        };
        match kick {
            Some(Kick::TakenOver) => Err(End::TakenOver),
            Some(Kick::ShuttingDown) => {
                self.draining = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Hands what is staged to the log. True when it was taken.
    fn submit(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.intake.poll_submit(cx) {
            Poll::Pending => {
                self.broker.metrics.waits.inc();
                Ok(false)
            }
            Poll::Ready(Err(error)) => Err(End::Failed(error)),
            Poll::Ready(Ok(ticket)) => {
                self.staged = false;
                self.last_ticket = ticket;
                let from = self.pending.len() - self.unsubmitted;
                self.pending.range_mut(from..).for_each(|p| p.ticket = Some(ticket));
                self.unsubmitted = 0;
                Ok(true)
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.written < self.out.len() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready.map_err(End::Io)?,
            }
            match self.stream.try_write(&self.out[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    self.broker.metrics.sent.inc_by(n as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(End::Io(error)),
            }
        }
        if self.written > 0 {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > 4096 {
                self.out = Vec::new();
            }
            // There is room for the subscriber's messages again.
            self.session.attend();
        }
        Ok(())
    }

    /// Ends a connection from which nothing came for one and a half keep-alives.
    fn watch_silence(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some((limit, timer)) = &mut self.keep_alive else { return Ok(()) };
        while timer.as_mut().poll(cx).is_ready() {
            let due = self.last_read + *limit;
            // A client that waits for our acknowledgement is not silent.
            if due <= Instant::now() && self.pending.is_empty() {
                return Err(End::KeepAlive);
            }
            timer.as_mut().reset(tokio::time::Instant::from_std(due.max(Instant::now() + Duration::from_millis(500))));
        }
        Ok(())
    }
}

impl<I: Inbox> Broker<I> {
    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }
}
