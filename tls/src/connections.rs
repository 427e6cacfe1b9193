//! Connections of a listener: at most a number at one time, each closed when it has been silent for
//! too long.
//!
//! A server that only accepts would run out of file descriptors, and the log with it. A connection
//! on which no caller has authenticated yet gives way to those of other sources when all places are
//! used.

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::strangers::{Guest, Strangers};
use crate::{Acceptor, PortStream};

/// Time that a new connection has for its first bytes.
const FIRST: Duration = Duration::from_secs(10);
/// Time after which the oldest connection without a known caller, of the address with the most,
/// gives way to any other one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of HTTP/1 that a caller that is not known may send before its request is complete.
const HEAD_BYTES: usize = 64 << 10;
/// In place of the bytes: a request is being answered.
const IN_REQUEST: usize = usize::MAX;
/// Pause after a failure to accept: the limit of open files may be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with a limit on its connections. One beyond the limit takes the place of another one
/// whose caller is not known, or gets `refusal`, and is closed.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    name: &'static str,
    places: Arc<Semaphore>,
    strangers: Strangers<OwnedSemaphorePermit>,
    idle: Duration,
    known_within: Option<Duration>,
    refusal: &'static [u8],
    full: bool,
    tls: Option<Acceptor>,
}

impl Connections {
    /// Accepts at most `most` connections at one time, and closes each when no byte has moved for
    /// `idle`. `name` names the limit in the log.
    pub fn new(listener: TcpListener, name: &'static str, most: usize, idle: Duration, refusal: &'static [u8]) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let strangers = Strangers::new(PATIENCE);
        Self { listener, name, places, strangers, idle, known_within: None, refusal, full: false, tls: None }
    }

    /// Encrypts the connections. Each performs its handshake when it is first read.
    #[must_use]
    pub fn with_tls(self, tls: Option<Acceptor>) -> Self {
        Self { tls, ..self }
    }

    /// Closes a connection whose caller is not known within this time.
    #[must_use]
    pub fn known_within(self, time: Duration) -> Self {
        Self { known_within: Some(time), ..self }
    }

    /// Returns the next connection within the limit.
    pub async fn accept(&mut self) -> (GuardedStream, SocketAddr) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let free = Arc::clone(&self.places).try_acquire_owned().ok();
            if let Some(place) = free.or_else(|| self.displace(peer)) {
                return (self.guard(stream, peer, place), peer);
            }
            self.refuse(stream).await;
        }
    }

    /// Takes the place of another connection whose caller is not known.
    fn displace(&mut self, newcomer: SocketAddr) -> Option<OwnedSemaphorePermit> {
        self.note_full();
        self.strangers.displace(newcomer.ip())
    }

    fn note_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!(
                "the maximum number of connections is open ({}): refusing others, or closing those of unknown callers",
                self.name
            );
        }
    }

    fn guard(&mut self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) -> GuardedStream {
        self.full &= self.places.available_permits() == 0;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("set TCP_NODELAY for {peer}: {error}");
        }
        let guest = self.strangers.enter(peer.ip(), place);
        let displaced = Box::pin(guest.displaced());
        let first = FIRST.min(self.idle);
        GuardedStream {
            stream: PortStream::new(stream, peer, self.tls.as_ref()),
            peer: Peer(Arc::new(PeerInner {
                address: peer,
                standing: Mutex::new(Standing::Unknown(guest)),
                head_bytes: AtomicUsize::new(0),
            })),
            is_http1: None,
            timer: Box::pin(tokio::time::sleep(self.known_within.map_or(first, |time| first.min(time)))),
            idle: self.idle,
            known_by: self.known_within.map(|time| Instant::now() + time),
            displaced: Some(displaced),
        }
    }

    async fn refuse(&self, stream: TcpStream) {
        // A new socket can be written to at once, as soon as the runtime has seen it.
        let writable = tokio::time::timeout(PAUSE, stream.writable()).await;
        // A client of TLS could not read it.
        if !self.refusal.is_empty() && self.tls.is_none() && writable.is_ok() {
            // The peer is refused anyway; it may have gone.
            stream.try_write(self.refusal).ok();
        }
    }

    /// Returns the address of the listener.
    ///
    /// # Errors
    /// The errors of the operating system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The other side of a connection, among the extensions of each request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peer(Arc<PeerInner>);

#[derive(Debug)]
struct PeerInner {
    address: SocketAddr,
    standing: Mutex<Standing>,
    /// Bytes since the last answer.
    head_bytes: AtomicUsize,
}

/// Knowledge of the other side, with the place of the connection.
#[derive(Debug)]
enum Standing {
    Unknown(Guest<OwnedSemaphorePermit>),
    Known {
        _place: OwnedSemaphorePermit,
    },
    /// The connection has ended, or has to.
    Over,
}

impl Peer {
    /// Returns the address of the other side.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Notes that a request has arrived: what follows is its body.
    pub fn request(&self) {
        self.0.head_bytes.store(IN_REQUEST, Ordering::Relaxed);
    }

    /// Notes that a caller on this connection has authenticated: it no longer gives way to others.
    pub fn admit(&self) {
        let mut standing = self.0.standing.lock();
        if matches!(*standing, Standing::Unknown(_))
            && let Standing::Unknown(guest) = std::mem::replace(&mut *standing, Standing::Over)
            && let Some(place) = guest.leave()
        {
            *standing = Standing::Known { _place: place };
        }
    }

    fn is_known(&self) -> bool {
        matches!(*self.0.standing.lock(), Standing::Known { .. })
    }
}

/// A connection that fails when no byte has moved for too long, or when it has to give way.
#[derive(Debug)]
pub struct GuardedStream {
    stream: PortStream,
    peer: Peer,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    /// Time at which the caller has to be known.
    known_by: Option<Instant>,
    /// `None` before the first bytes.
    is_http1: Option<bool>,
    /// `None` once the caller is known.
    displaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl GuardedStream {
    /// Returns the other side.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Fails when the connection has to give way. Its task is woken then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(displaced) = &mut self.displaced else { return Ok(()) };
        if displaced.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.peer.is_known() {
            self.displaced = None;
            if self.known_by.take().is_some() {
                self.timer.as_mut().reset(Instant::now() + self.idle);
            }
        }
        Ok(())
    }

    /// Counts bytes of a caller that is not known. The head of a request in HTTP/1 is held in
    /// memory; HTTP/2 has a limit of its own.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.displaced.is_none() {
            return Ok(());
        }
        let is_http1 = *self.is_http1.get_or_insert_with(|| !bytes.starts_with(b"PRI"));
        let head_bytes = &self.peer.0.head_bytes;
        let before = head_bytes.load(Ordering::Relaxed);
        if !is_http1 || before == IN_REQUEST {
            return Ok(());
        }
        if before + bytes.len() > HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // An answer to a request before may be written at this moment.
        head_bytes.compare_exchange(before, before + bytes.len(), Ordering::Relaxed, Ordering::Relaxed).ok();
        Ok(())
    }

    /// Notes an answer.
    fn answered<T>(&self, written: &Poll<io::Result<T>>) {
        if written.is_ready() && self.displaced.is_some() {
            self.peer.0.head_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Moves the deadline when bytes have moved, and fails after it.
    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.check(cx)?;
        match polled {
            Poll::Ready(moved) => {
                let now = Instant::now();
                if self.known_by.is_some_and(|by| by <= now) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                let next = self.known_by.map_or(now + self.idle, |by| by.min(now + self.idle));
                // Rarely, so that a byte costs no timer.
                if next.saturating_duration_since(self.timer.deadline()) > self.idle / 8 {
                    self.timer.as_mut().reset(next);
                }
                Poll::Ready(moved)
            }
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        // A request may be longer in memory than its connection.
        *self.peer.0.standing.lock() = Standing::Over;
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.count(&buf.filled()[before..])?;
        self.watch(cx, polled)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.answered(&polled);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.answered(&polled);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for GuardedStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
