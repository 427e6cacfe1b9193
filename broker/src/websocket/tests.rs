use tokio::io::{DuplexStream, duplex};

use super::*;

/// A frame of a client, with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; 10];
    let length = usize::from(frame::binary(&mut header, payload.len()));
    (header[0], header[1]) = (first, header[1] | 0x80);
    [&header[..length], &[0; 4], payload].concat()
}

fn open(bytes: usize) -> (DuplexStream, WebSocket<DuplexStream>) {
    let (client, server) = duplex(bytes);
    (client, WebSocket::new(server, Vec::new()))
}

async fn received(client: &mut DuplexStream, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, wanted);
}

#[tokio::test]
async fn payloads_are_one_stream_and_writes_are_frames() {
    let (mut client, mut socket) = open(1 << 16);
    let bytes = [frame(0x02, b"ab"), frame(0x89, b"?"), frame(0x80, b"c"), frame(0x82, b""), frame(0x82, b"d")];
    client.write_all(&bytes.concat()).await.unwrap();
    let mut read = [0; 4];
    socket.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"abcd");
    socket.write_all(&[7; 200]).await.unwrap();
    received(&mut client, &[0x8A, 1, b'?', 0x82, 126, 0, 200]).await;
    received(&mut client, &[7; 200]).await;
    client.write_all(&frame(0x88, &1001_u16.to_be_bytes())).await.unwrap();
    assert_eq!(socket.read(&mut read).await.unwrap(), 0, "it ends");
    received(&mut client, &[0x88, 2, 3, 0xE9]).await;
    assert_eq!(socket.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    socket.shutdown().await.unwrap();
    assert_eq!(client.read(&mut read).await.unwrap(), 0, "one close frame only");
}

#[tokio::test]
async fn a_violation_comes_after_the_data_before_it_and_closes_with_its_code() {
    let (mut client, mut socket) = open(1 << 10);
    client.write_all(&[frame(0x82, b"ok"), frame(0x81, b"text"), frame(0x82, b"late")].concat()).await.unwrap();
    let mut read = [0; 64];
    assert_eq!(socket.read(&mut read).await.unwrap(), 2);
    let error = socket.read(&mut read).await.unwrap_err();
    assert_eq!(violation(&error).unwrap().code, code::UNSUPPORTED);
    // MQTT may send its own reason first.
    socket.write_all(&[0xE0, 0]).await.unwrap();
    socket.shutdown().await.unwrap();
    received(&mut client, &[0x82, 2, 0xE0, 0, 0x88, 2, 3, 0xEB]).await;
    client.write_all(b"still under way").await.unwrap();
    drop(client);
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"still under way"), "it is read, to be dropped");
}

#[tokio::test]
async fn a_pipe_of_three_bytes_moves_frames_in_both_directions_with_pongs_between_them() {
    let (mut client, mut socket) = open(3);
    let payload: Vec<u8> = (0..1_000).map(|n| n as u8).collect();
    let sent = payload.clone();
    let peer = tokio::spawn(async move {
        // It does not read meanwhile.
        for part in sent.chunks(70) {
            client.write_all(&frame(0x89, b"ping")).await.unwrap();
            client.write_all(&frame(0x82, part)).await.unwrap();
        }
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        all
    });
    let mut read = vec![0; payload.len()];
    // The pongs wait for a client that does not read them, and keep nothing back.
    socket.read_exact(&mut read).await.unwrap();
    assert!(read == payload);
    socket.write_all(&payload).await.unwrap();
    socket.shutdown().await.unwrap();
    drop(socket);
    let all = peer.await.unwrap();
    let data = [&[0x82, 126, 3, 0xE8][..], &payload, &[0x88, 2, 3, 0xE8]].concat();
    let pong = [0x8A, 4, b'p', b'i', b'n', b'g'];
    let (pongs, rest) = all.split_at(all.len() - data.len());
    assert!(rest == data, "the frame is whole");
    assert!((pong.len()..=2 * pong.len()).contains(&pongs.len()), "two of them at most were held");
    assert!(pongs.chunks(pong.len()).all(|found| found == pong));
}

#[tokio::test]
async fn frames_behind_the_request_are_kept_and_a_long_request_is_refused() {
    let request = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let (mut client, server) = duplex(1 << 16);
    client.write_all(&[request.as_bytes(), &frame(0x82, b"abc")].concat()).await.unwrap();
    let mut socket = accept(server, &Origins::default(), false).await.unwrap();
    let mut read = [0; 2];
    socket.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ab");
    assert_eq!((socket.read(&mut read).await.unwrap(), read[0]), (1, b'c'));
    assert_eq!(socket.early.capacity(), 0);

    let (mut client, server) = duplex(1 << 16);
    client.write_all(&vec![b'a'; HEAD_BYTES + 1]).await.unwrap();
    let refused = accept(server, &Origins::default(), false).await.unwrap_err();
    assert!(matches!(refused, UpgradeError::Refused(_)), "{refused}");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}
