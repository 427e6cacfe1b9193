//! Connections of a listener: at most a number at one time, each closed when it has been silent for
//! too long.
//!
//! A server that only accepts would run out of file descriptors, and the log with it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tls::{Acceptor, PortStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Time that a new connection has for its first bytes.
const FIRST: Duration = Duration::from_secs(10);
/// Pause after a failure to accept: the limit of open files may be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener with a limit on its connections. One beyond the limit gets `refusal`, and is closed.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    name: &'static str,
    permits: Arc<Semaphore>,
    idle: Duration,
    refusal: &'static [u8],
    full: bool,
    tls: Option<Acceptor>,
}

impl Connections {
    /// Accepts at most `most` connections at one time, and closes each when no byte has moved for
    /// `idle`. `name` names the limit's key in the log.
    pub fn new(listener: TcpListener, name: &'static str, most: usize, idle: Duration, refusal: &'static [u8]) -> Self {
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { listener, name, permits, idle, refusal, full: false, tls: None }
    }

    /// Encrypts the connections. Each performs its handshake when it is first read.
    #[must_use]
    pub fn with_tls(self, tls: Option<Acceptor>) -> Self {
        Self { tls, ..self }
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
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => {
                    self.full = false;
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!("set TCP_NODELAY for {peer}: {error}");
                    }
                    let timer = Box::pin(tokio::time::sleep(FIRST.min(self.idle)));
                    let info = stream.connect_info();
                    let stream = PortStream::new(stream, peer, self.tls.as_ref());
                    return (GuardedStream { stream, info, timer, idle: self.idle, _permit: permit }, peer);
                }
                Err(_) => {
                    if !std::mem::replace(&mut self.full, true) {
                        tracing::warn!("the maximum number of connections is open ({}): refusing others", self.name);
                    }
                    // A new socket can be written to at once, as soon as the runtime has seen it.
                    let writable = tokio::time::timeout(PAUSE, stream.writable()).await;
                    // A client of TLS could not read it.
                    if !self.refusal.is_empty() && self.tls.is_none() && writable.is_ok() {
                        // The peer is refused anyway; it may have gone.
                        stream.try_write(self.refusal).ok();
                    }
                }
            }
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

/// A connection that fails with a time-out when no byte has moved for too long.
#[derive(Debug)]
pub struct GuardedStream {
    stream: PortStream,
    info: TcpConnectInfo,
    timer: Pin<Box<Sleep>>,
    idle: Duration,
    _permit: OwnedSemaphorePermit,
}

impl GuardedStream {
    /// Moves the deadline when bytes have moved, and fails after it.
    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(moved) => {
                let deadline = Instant::now() + self.idle;
                // Rarely, so that a byte costs no timer.
                if deadline.saturating_duration_since(self.timer.deadline()) > self.idle / 8 {
                    self.timer.as_mut().reset(deadline);
                }
                Poll::Ready(moved)
            }
            Poll::Pending => match self.timer.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(cx, polled)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
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
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn listen(most: usize, idle: Duration) -> (Connections, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Connections::new(listener, "test.max_connections", most, idle, b"full\n"), address)
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_refused_until_another_ends() {
        let (mut connections, address) = listen(1, Duration::from_secs(60)).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let (held, _) = connections.accept().await;
        let accepting = tokio::spawn(async move {
            let accepted = connections.accept().await;
            (accepted, connections)
        });
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "full\n");
        drop(held);
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        let mut third = TcpStream::connect(address).await.unwrap();
        let ((mut accepted, _), _connections) = accepting.await.unwrap();
        accepted.write_all(b"x").await.unwrap();
        assert_eq!(third.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_connection_is_closed_when_it_is_silent_and_not_before() {
        let idle = Duration::from_millis(300);
        let (mut connections, address) = listen(1, idle).await;
        let mut peer = TcpStream::connect(address).await.unwrap();
        let (mut held, _) = connections.accept().await;
        let begun = std::time::Instant::now();
        while begun.elapsed() < 2 * idle {
            peer.write_all(b"x").await.unwrap();
            assert_eq!(held.read_u8().await.unwrap(), b'x');
        }
        let silent = std::time::Instant::now();
        assert_eq!(held.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(silent.elapsed() >= idle / 2, "{:?}", silent.elapsed());
    }
}
