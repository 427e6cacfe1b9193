//! Asks a port whether it speaks TLS, after a connection to it failed.

use std::time::Duration;

use model::tls::{Difference, PLAIN_GREETING, Speaks, client_hello, is_tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns the difference between the port and settings that ask for TLS or not. `None` when there
/// is none, or when no connection can be made.
pub(super) async fn differs(host: &str, port: u16, wants_tls: bool) -> Option<Difference> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let first = answer(host, port, &client_hello()).await?;
    let speaks = if is_tls(&first) {
        Speaks::Tls
    } else if !first.is_empty() {
        Speaks::Plain
    } else {
        let plain = answer(host, port, PLAIN_GREETING).await?;
        if plain.is_empty() || is_tls(&plain) { Speaks::Nothing } else { Speaks::Plain }
    };
    speaks.differs(wants_tls)
}

/// Returns the first bytes of the answer to a greeting; empty when there are none.
async fn answer(host: &str, port: u16, greeting: &[u8]) -> Option<Vec<u8>> {
    let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await.ok()?.ok()?;
    let mut first = [0; 16];
    let exchange = async {
        stream.write_all(greeting).await?;
        stream.read(&mut first).await
    };
    let length = tokio::time::timeout(PATIENCE, exchange).await.ok().and_then(Result::ok).unwrap_or(0);
    Some(first[..length].to_vec())
}
