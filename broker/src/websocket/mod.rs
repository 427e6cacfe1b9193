//! MQTT over WebSocket (RFC 6455; MQTT 5.0, section 6): a stream of bytes in binary frames.
//!
//! Frames are read in place, in the buffer of the reader, and their payloads handed on as they
//! come: a frame is never held whole, so that its announced length costs no memory, and an idle
//! connection has no buffer. Packets may be cut across frames and share frames at will.

#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
pub mod frame;
mod upgrade;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use frame::{Decoder, Violation, code};
pub use upgrade::Origins;
use upgrade::{HEAD_BYTES, TOO_LONG};

/// Reads without a payload in one poll, before other tasks run.
const READS: usize = 16;

/// The reason why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// The request was answered with an error.
    #[error("{0}")]
    Refused(&'static str),
    /// The connection ended.
    #[error("the connection ended before the request was complete")]
    Ended,
}

impl From<io::Error> for UpgradeError {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

/// The answer to a whole request; an error is that of one that is refused. For the fuzz targets.
///
/// # Errors
/// The answer to a request that opens no WebSocket.
#[cfg(feature = "fuzzing")]
pub fn answer_request(head: &[u8], origins: &Origins, is_encrypted: bool) -> Result<Vec<u8>, Vec<u8>> {
    upgrade::answer(head, origins, is_encrypted).map_err(|refused| refused.answer())
}

/// Reads the request and answers it. It holds less than 9 KiB meanwhile.
///
/// # Errors
/// [`UpgradeError`]; the client has its answer.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    origins: &Origins,
    is_encrypted: bool,
) -> Result<WebSocket<S>, UpgradeError> {
    let mut head = Vec::with_capacity(1 << 10);
    let answer = loop {
        let before = head.len();
        if (&mut stream).take((HEAD_BYTES - before) as u64).read_buf(&mut head).await? == 0 {
            return Err(UpgradeError::Ended);
        }
        let from = before.saturating_sub(3);
        if let Some(at) = head[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            let early = head.split_off(from + at + 4);
            break upgrade::answer(&head, origins, is_encrypted).map(|answer| (answer, early));
        }
        if head.len() >= HEAD_BYTES {
            break Err(TOO_LONG);
        }
    };
    match answer {
        Ok((answer, early)) => {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            Ok(WebSocket::new(stream, early))
        }
        Err(refused) => {
            // The client is refused anyway; it may have gone.
            stream.write_all(&refused.answer()).await.ok();
            stream.shutdown().await.ok();
            Err(UpgradeError::Refused(refused.what))
        }
    }
}

/// The violation behind an error of a read.
pub(crate) fn violation(error: &io::Error) -> Option<Violation> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
}

/// The server's side of a WebSocket: the payloads of its messages.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    inner: S,
    /// Bytes that came with the request.
    early: Vec<u8>,
    decoder: Decoder,
    /// A pong or close frame, from `control_written` on.
    control: Vec<u8>,
    control_written: usize,
    /// The stream below may hold bytes of it.
    unflushed: bool,
    /// The header of the data frame that is being written.
    header: [u8; 10],
    header_bytes: u8,
    header_written: u8,
    /// Bytes of its payload that are to come.
    left: usize,
    close_sent: bool,
}

impl<S> WebSocket<S> {
    fn new(inner: S, early: Vec<u8>) -> Self {
        Self {
            inner,
            early,
            decoder: Decoder::default(),
            control: Vec::new(),
            control_written: 0,
            unflushed: false,
            header: [0; 10],
            header_bytes: 0,
            header_written: 0,
            left: 0,
            close_sent: false,
        }
    }

    /// True between the first and the last byte of a data frame: nothing else can be written.
    fn is_inside_frame(&self) -> bool {
        self.left > 0
    }

    fn queue_close(&mut self, code: u16) {
        if !std::mem::replace(&mut self.close_sent, true) {
            frame::close(&mut self.control, code);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes control frames that are due, unless a data frame is being written. Ready when there
    /// are none.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_inside_frame() {
            return Poll::Ready(Ok(()));
        }
        // A pong that is not written yet is followed by the last one only: a client that pings and
        // does not read holds two.
        if self.control.is_empty()
            && let Some(payload) = self.decoder.take_ping()
            && !self.close_sent
        {
            frame::pong(&mut self.control, &payload);
        }
        if let Some(code) = self.decoder.closed() {
            self.queue_close(code);
        }
        while self.control_written < self.control.len() {
            let rest = &self.control[self.control_written..];
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.control_written += written;
            self.unflushed = true;
        }
        (self.control, self.control_written) = (Vec::new(), 0);
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        for _ in 0..READS {
            // One that does not read its pongs may go on to write; others of its kind wake it.
            if let Poll::Ready(Err(error)) = me.poll_control(cx) {
                return Poll::Ready(Err(error));
            }
            if me.decoder.closed().is_some() {
                return Poll::Ready(Ok(()));
            }
            if let Some(violation) = me.decoder.violation() {
                if me.close_sent {
                    // Read to its end, or the peer might not get the reason.
                    return Pin::new(&mut me.inner).poll_read(cx, buf);
                }
                return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, violation)));
            }
            let before = buf.filled().len();
            if me.early.is_empty() {
                ready!(Pin::new(&mut me.inner).poll_read(cx, buf))?;
            } else {
                let length = me.early.len().min(buf.remaining());
                buf.put_slice(&me.early[..length]);
                me.early.drain(..length);
                if me.early.is_empty() {
                    me.early = Vec::new();
                }
            }
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            // A violation is reported by the next turn.
            let length = me.decoder.decode(&mut buf.filled_mut()[before..]).unwrap_or(0);
            buf.set_filled(before + length);
            if length > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    /// Begins a frame with as many bytes as there are, and goes on with it until all of them are
    /// written: a call after one that was pending has to have at least as many.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !me.is_inside_frame() {
            ready!(me.poll_control(cx))?;
            if me.close_sent {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            (me.left, me.header_written) = (bytes.len(), 0);
            me.header_bytes = frame::binary(&mut me.header, bytes.len());
        }
        loop {
            let header = &me.header[usize::from(me.header_written)..usize::from(me.header_bytes)];
            let part = &bytes[..bytes.len().min(me.left)];
            let parts = [IoSlice::new(header), IoSlice::new(part)];
            // Together, so that they are in one record of TLS and one segment.
            let parts = if header.is_empty() { &parts[1..] } else { &parts[..] };
            let written = ready!(Pin::new(&mut me.inner).poll_write_vectored(cx, parts))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_header = written.min(header.len());
            me.header_written += of_header as u8;
            if written > of_header {
                me.left -= written - of_header;
                return Poll::Ready(Ok(written - of_header));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_control(cx))?;
        Pin::new(&mut me.inner).poll_flush(cx)
    }

    /// Sends a close frame, with the code of a violation if there was one, and closes the stream
    /// below.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !me.is_inside_frame() {
            me.queue_close(me.decoder.violation().map_or(code::NORMAL, |violation| violation.code));
            ready!(me.poll_control(cx))?;
        }
        Pin::new(&mut me.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
