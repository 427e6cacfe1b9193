use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(60);

async fn listen(most: usize, idle: Duration) -> (Connections, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Connections::new(listener, "test.max_connections", most, idle, b"full\n"), address)
}

async fn open(address: SocketAddr, source: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// The error of a connection that is closed here.
async fn fault(stream: &mut GuardedStream) -> io::ErrorKind {
    timeout(LONG, stream.read_u8()).await.expect("it is closed").unwrap_err().kind()
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_until_another_ends() {
    let (mut connections, address) = listen(1, LONG).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let (held, _) = connections.accept().await;
    let accepting = tokio::spawn(async move {
        let accepted = connections.accept().await;
        (accepted, connections)
    });
    let mut second = TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "full\n");
    drop(held);
    assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
    let mut third = TcpStream::connect(address).await.unwrap();
    let ((mut accepted, _), _connections) = accepting.await.unwrap();
    accepted.write_all(b"x").await.unwrap();
    assert_eq!(third.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_connection_is_closed_when_it_is_silent_and_not_before() {
    let idle = Duration::from_millis(300);
    let (mut connections, address) = listen(1, idle).await;
    let mut peer = TcpStream::connect(address).await.unwrap();
    let (mut held, _) = connections.accept().await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < 2 * idle {
        peer.write_all(b"x").await.unwrap();
        assert_eq!(held.read_u8().await.unwrap(), b'x');
        // As fast as it can, it would pass the limit of a head within the time.
        tokio::time::sleep(idle / 20).await;
    }
    let silent = std::time::Instant::now();
    assert_eq!(fault(&mut held).await, io::ErrorKind::TimedOut);
    assert!(silent.elapsed() >= idle / 2, "{:?}", silent.elapsed());
}

#[tokio::test]
async fn a_source_that_fills_the_port_gives_way_to_others_and_known_callers_stay() {
    let (mut connections, address) = listen(4, LONG).await;
    let (mut clients, mut held) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        clients.push(open(address, 1).await);
        held.push(connections.accept().await.0);
    }
    held[0].peer().admit();
    let mut other = open(address, 2).await;
    let (mut accepted, from) = timeout(LONG, connections.accept()).await.expect("it has a place");
    assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(fault(&mut held[1]).await, io::ErrorKind::ConnectionAborted, "the oldest without a known caller");
    other.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    // A caller that is known before its connection has to give way keeps its place.
    clients[0].write_all(b"y").await.unwrap();
    assert_eq!(held[0].read_u8().await.unwrap(), b'y');
    // The source itself, which has as many as there are, is refused.
    let mut own = open(address, 1).await;
    let accepting = tokio::spawn(async move { connections.accept().await });
    let mut answer = String::new();
    own.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "full\n");
    accepting.abort();
}

#[tokio::test]
async fn a_caller_that_is_not_known_in_time_is_closed_although_it_sends() {
    let (connections, address) = listen(2, LONG).await;
    let mut connections = connections.known_within(Duration::from_millis(200));
    let (mut unknown, mut known) = (open(address, 1).await, open(address, 1).await);
    let (mut held, mut admitted) = (connections.accept().await.0, connections.accept().await.0);
    admitted.peer().admit();
    let begun = std::time::Instant::now();
    let end = loop {
        unknown.write_all(b"x").await.ok();
        if let Err(error) = held.read_u8().await {
            break error.kind();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not closed");
        // As fast as it can, it would pass the limit of a head within the time.
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(end, io::ErrorKind::TimedOut);
    assert!(timeout(Duration::from_millis(400), admitted.read_u8()).await.is_err(), "it is still open");
    known.write_all(b"x").await.unwrap();
    assert_eq!(admitted.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_place_is_free_when_the_connection_ends_although_a_request_remembers_its_peer() {
    let (mut connections, address) = listen(1, LONG).await;
    let first = open(address, 1).await;
    let (held, _) = connections.accept().await;
    let peer = held.peer().clone();
    peer.admit();
    drop((held, first));
    let _second = open(address, 1).await;
    timeout(LONG, connections.accept()).await.expect("there is a place");
    peer.admit();
    drop(peer);
    assert_eq!(connections.strangers.sources(), 0);
}

#[tokio::test]
async fn the_head_of_a_request_of_http_1_is_bounded_and_its_body_is_not() {
    let (mut connections, address) = listen(3, LONG).await;
    let mut read = async |begin: &[u8], request: bool| {
        let mut client = open(address, 1).await;
        let (mut held, _) = connections.accept().await;
        client.write_all(begin).await.unwrap();
        let mut buffer = vec![0; 16 << 10];
        let mut total = held.read(&mut buffer).await.unwrap();
        if request {
            held.peer().request();
        }
        let sender = tokio::spawn(async move {
            client.write_all(&[b'x'; 200_000]).await.ok();
            client
        });
        while total < 200_000 {
            match held.read(&mut buffer).await {
                Ok(read) => total += read,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    break;
                }
            }
        }
        sender.abort();
        total
    };
    assert!(read(b"GET / HTTP/1.1\r\na: ", false).await <= HEAD_BYTES);
    assert!(read(b"P", false).await <= HEAD_BYTES);
    assert!(read(b"POST / HTTP/1.1\r\n\r\n", true).await >= 200_000);
    assert!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false).await >= 200_000);
    // After the answer another one may come.
    let mut client = open(address, 1).await;
    let (mut held, _) = connections.accept().await;
    for _ in 0..10 {
        client.write_all(&[b'x'; 10_000]).await.unwrap();
        held.read_exact(&mut [0; 10_000]).await.unwrap();
        held.peer().request();
        held.write_all(b"answer").await.unwrap();
    }
}
