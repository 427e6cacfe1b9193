//! The floor: PUBLISH in, PUBACK out, nothing kept.

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
                // A connection that breaks ends; there is nobody to tell.
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
        while let Some((header, length)) = packet(&input[at..filled]) {
            let body = &input[at + header..at + length];
            match input[at] >> 4 {
                1 => out.extend_from_slice(&[0x20, 2, 0, 0]),
                3 if input[at] & 6 == 2 => {
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    out.extend_from_slice(&[0x40, 2, body[2 + topic], body[3 + topic]]);
                }
                12 => out.extend_from_slice(&[0xD0, 0]),
                _ => {}
            }
            at += length;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
    }
}

/// Bytes of the fixed header and of the whole packet, once all of it is there.
fn packet(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 127) << (7 * i);
        if byte & 128 == 0 {
            let total = 2 + i + length;
            return (bytes.len() >= total).then_some((2 + i, total));
        }
    }
    None
}
