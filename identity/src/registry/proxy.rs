//! A connection to a server that breaks when an answer is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Forwards connections to a port of this machine. Once armed, it hands a request that contains the
/// mark on, waits for the answer, and ends the connection in place of handing the answer back.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    armed: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(to: u16, mark: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicUsize::new(0));
        let proxy = Self { port, armed: Arc::clone(&armed) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away ends the connection.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                    tokio::spawn(forward(client, server, mark, Arc::clone(&armed)));
                }
            }
        });
        proxy
    }

    /// Loses the answers to this many requests from now on.
    pub(crate) fn lose(&self, answers: usize) {
        self.armed.store(answers, Ordering::SeqCst);
    }

    /// Returns the number of answers that are still to be lost.
    pub(crate) fn left(&self) -> usize {
        self.armed.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, server: TcpStream, mark: &'static [u8], armed: Arc<AtomicUsize>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let mut request = vec![0; 1 << 16];
    let mut answer = vec![0; 1 << 16];
    loop {
        tokio::select! {
            Ok(length) = from_client.read(&mut request) => {
                if length == 0 {
                    return;
                }
                let request = &request[..length];
                let is_marked = request.windows(mark.len()).any(|bytes| bytes == mark);
                to_server.write_all(request).await.unwrap();
                let take = |left: usize| left.checked_sub(1);
                if is_marked && armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
                {
                    return lost(from_server, to_client).await;
                }
            }
            Ok(length) = from_server.read(&mut answer) => {
                if length == 0 || to_client.write_all(&answer[..length]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

/// Waits for the answer, and drops it with the connection.
async fn lost(mut from_server: OwnedReadHalf, to_client: OwnedWriteHalf) {
    let mut answer = [0; 1024];
    assert!(from_server.read(&mut answer).await.unwrap() > 0, "the server has answered");
    drop(to_client);
}
