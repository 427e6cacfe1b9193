//! MQTT over WebSocket: the payloads of binary messages are one stream of bytes (MQTT 5.0,
//! section 6).

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink, Stream as Messages};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::config::Address;
use crate::side::Stream;

/// The largest message: that of the largest packet of MQTT. Brokers send smaller ones.
const MOST_BYTES: usize = 256 << 20;
/// Bytes that are read at a time.
const READ_BYTES: usize = 16 << 10;

/// The client's side of a WebSocket.
pub(crate) struct WebSocket {
    inner: WebSocketStream<Box<dyn Stream>>,
    /// The rest of a message.
    unread: Bytes,
}

/// Asks the server behind `stream` for a WebSocket with the sub-protocol of MQTT.
pub(crate) async fn connect(place: &Address, path: &str, stream: Box<dyn Stream>) -> io::Result<WebSocket> {
    let scheme = if place.is_encrypted { "wss" } else { "ws" };
    let host = if place.host.contains(':') { format!("[{}]", place.host) } else { place.host.clone() };
    let url = format!("{scheme}://{host}:{}{path}", place.port);
    let mut request = url.into_client_request().map_err(failed)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        // Written at once: packets are collected before.
        .write_buffer_size(0)
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES));
    let (inner, _) = client_async_with_config(request, stream, Some(config)).await.map_err(failed)?;
    Ok(WebSocket { inner, unread: Bytes::new() })
}

/// The error of a stream.
fn failed(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => ErrorKind::ConnectionReset.into(),
        Error::Http(answer) => io::Error::other(format!(
            "the server answers the request for a WebSocket with {}: check the path in `address`",
            answer.status()
        )),
        error => io::Error::other(format!("the WebSocket failed: {error}")),
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        while me.unread.is_empty() {
            match ready!(Pin::new(&mut me.inner).poll_next(cx)) {
                None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(Message::Binary(bytes))) => me.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    let error = "a text message: packets of MQTT are in binary ones";
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
                }
                // Pings are answered by the next write.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let length = me.unread.len().min(buf.remaining());
        buf.put_slice(&me.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().inner;
        ready!(Pin::new(&mut *inner).poll_ready(cx)).map_err(failed)?;
        Pin::new(inner).start_send(Message::Binary(Bytes::copy_from_slice(bytes))).map_err(failed)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx).map_err(failed)
    }
}
