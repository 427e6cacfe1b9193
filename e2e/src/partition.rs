//! A network that can be cut: a TCP relay to a server.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay to a server. While it is cut, connections stay open and nothing passes.
#[derive(Debug)]
pub struct Partition {
    /// Address of the relay.
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
    /// The number of times that all connections were dropped.
    dropped: watch::Sender<u64>,
}

impl Partition {
    /// Starts a relay to `server`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn new(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (cut, is_cut) = watch::channel(false);
        let (dropped, drops) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (is_cut, mut drops) = (is_cut.clone(), drops.clone());
                drops.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = relay(from_client, to_server, is_cut.clone()) => {}
                        () = relay(from_server, to_client, is_cut) => {}
                        _ = drops.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, cut, dropped })
    }

    /// Drops all connections, with what is on its way. New ones are accepted.
    pub fn drop_connections(&self) {
        self.dropped.send_modify(|count| *count += 1);
    }

    /// Holds up everything from now on.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.cut.send_replace(false);
    }
}

async fn relay(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut cut: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if cut.wait_for(|is_cut| !is_cut).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
