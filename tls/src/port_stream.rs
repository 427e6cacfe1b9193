//! A connection of a port that may speak TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::{Accepted, Acceptor, HandshakeError, ServerStream};

/// A connection whose handshake, if it has one, is part of its first read or write: the task that
/// accepts connections does not wait for it.
pub struct PortStream(State);

enum State {
    Plain(TcpStream),
    Handshake(Pin<Box<dyn Future<Output = Result<Accepted, HandshakeError>> + Send>>, SocketAddr),
    Encrypted(Box<ServerStream>),
    Failed,
}

impl PortStream {
    /// Wraps an accepted connection.
    pub fn new(stream: TcpStream, peer: SocketAddr, tls: Option<&Acceptor>) -> Self {
        Self(match tls.cloned() {
            None => State::Plain(stream),
            Some(acceptor) => State::Handshake(Box::pin(async move { acceptor.accept(stream, peer.ip()).await }), peer),
        })
    }

    /// Performs what is left of the handshake.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut (dyn Duplex + 'static)>>> {
        if let State::Handshake(handshake, peer) = &mut self.0 {
            let accepted = ready!(handshake.as_mut().poll(cx));
            let peer = *peer;
            self.0 = match accepted {
                Ok(accepted) => State::Encrypted(Box::new(accepted.stream)),
                Err(error) => {
                    tracing::info!("refused a connection from {peer} to a TLS port: {error}");
                    State::Failed
                }
            };
        }
        Poll::Ready(match &mut self.0 {
            State::Plain(stream) => Ok(Pin::new(stream)),
            State::Encrypted(stream) => Ok(Pin::new(&mut **stream)),
            State::Handshake(..) | State::Failed => Err(io::ErrorKind::ConnectionAborted.into()),
        })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl fmt::Debug for PortStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortStream").finish_non_exhaustive()
    }
}

impl AsyncRead for PortStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            State::Handshake(..) | State::Failed => Poll::Ready(Ok(())),
            _ => ready!(self.poll_open(cx))?.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            State::Handshake(..) | State::Failed => Poll::Ready(Ok(())),
            _ => ready!(self.poll_open(cx))?.poll_shutdown(cx),
        }
    }
}
