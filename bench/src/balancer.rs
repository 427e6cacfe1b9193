//! A TCP load balancer: each connection goes to the next node that is ready, as `/health/ready` of
//! the node reports without TLS.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Options of the balancer.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The file addresses.json of each node, which may start again on other ports.
    #[arg(required = true)]
    nodes: Vec<PathBuf>,
    /// Milliseconds between two checks of a node.
    #[arg(long, default_value_t = 100)]
    check_ms: u64,
}

/// Time for the answer to a check.
const PATIENCE: Duration = Duration::from_secs(1);
/// Buffer of each direction of a connection: telemetry is small, and there are many connections.
const BUFFER_BYTES: usize = 512;

/// Prints the address, and serves until it is killed.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let every = Duration::from_millis(options.check_ms);
        let ready: Arc<[_]> = options.nodes.into_iter().map(|file| follow(file, every)).collect();
        println!("{}", listener.local_addr()?);
        let mut turn = 0;
        loop {
            let (client, _) = listener.accept().await?;
            turn += 1;
            let ready = Arc::clone(&ready);
            tokio::spawn(async move {
                // An error ends the connection.
                relay(client, &ready, turn).await.ok();
            });
        }
    })
}

/// The MQTT address of a node while it is ready.
fn follow(file: PathBuf, every: Duration) -> watch::Receiver<Option<SocketAddr>> {
    let (ready, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut checks = tokio::time::interval(every);
        loop {
            checks.tick().await;
            // A node that stops has removed the file.
            ready.send_replace(check(&file).await.ok());
        }
    });
    receiver
}

async fn check(file: &Path) -> anyhow::Result<SocketAddr> {
    let addresses: Value = serde_json::from_slice(&tokio::task::block_in_place(|| std::fs::read(file))?)?;
    let address = |key: &str| addresses[key].as_str().context("an address")?.parse().context("an address");
    let (mqtt, http): (SocketAddr, SocketAddr) = (address("mqtt")?, address("http")?);
    let answer = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await??;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "it is not ready");
    Ok(mqtt)
}

/// Connects a client to the next node that is ready and accepts it.
async fn relay(mut client: TcpStream, nodes: &[watch::Receiver<Option<SocketAddr>>], turn: usize) -> io::Result<()> {
    let ready: Vec<SocketAddr> = nodes.iter().filter_map(|node| *node.borrow()).collect();
    for step in 0..ready.len() {
        if let Ok(mut node) = TcpStream::connect(ready[(turn + step) % ready.len()]).await {
            client.set_nodelay(true)?;
            node.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut client, &mut node, BUFFER_BYTES, BUFFER_BYTES).await?;
            return Ok(());
        }
    }
    Ok(())
}
