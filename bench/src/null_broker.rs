//! The lower bound: a broker that only answers PUBLISH with PUBACK.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // An error ends the connection.
                serve(stream).await.ok();
            });
        }
    })
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = vec![0; 16 * 1024];
    let mut filled = 0;
    let mut out = Vec::new();
    loop {
        let read = stream.read(&mut input[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut at = 0;
        while let Some(found) = mqtt_client::framing(&input[at..filled]).map_err(io::Error::other)? {
            let Some(body) = input[..filled].get(at + found.header_bytes..at + found.total_bytes) else { break };
            match input[at] >> 4 {
                1 => out.extend_from_slice(&[0x20, 2, 0, 0]),
                3 if input[at] & 6 == 2 => {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    out.extend_from_slice(&[0x40, 2, body[2 + topic], body[3 + topic]]);
                }
                12 => out.extend_from_slice(&[0xD0, 0]),
                _ => {}
            }
            at += found.total_bytes;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
    }
}
