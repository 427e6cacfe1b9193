//! A small MQTT 3.1.1 device that does what careful firmware does: it keeps what was not acknowledged and sends it again, marked DUP,
//! with the packet id it had.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A message on its way.
#[derive(Debug, Clone)]
struct Message {
    id: u16,
    number: u64,
    topic: String,
    payload: Vec<u8>,
}

/// A device that loses nothing by itself.
#[derive(Debug)]
pub struct Device {
    client: String,
    broker: SocketAddr,
    stream: Option<TcpStream>,
    unacknowledged: VecDeque<Message>,
    next_id: u16,
    partial: Vec<u8>,
}

impl Device {
    /// A device with this client id; connects at its first message.
    pub fn new(client: &str, broker: SocketAddr) -> Self {
        Self {
            client: client.to_owned(),
            broker,
            stream: None,
            unacknowledged: VecDeque::new(),
            next_id: 1,
            partial: Vec::new(),
        }
    }

    /// Messages not acknowledged yet.
    pub fn in_flight(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Connects, unless it is, and sends again what was not acknowledged.
    ///
    /// # Errors
    /// When the broker is away or refuses.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.stream.is_some() {
            return Ok(());
        }
        let mut stream = TcpStream::connect(self.broker)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let id = self.client.as_bytes();
        let mut packet = vec![0x10, u8::try_from(12 + id.len()).map_err(io::Error::other)?, 0, 4];
        // Clean session off, keep-alive off.
        packet.extend_from_slice(b"MQTT\x04\0\0\0\0");
        packet.push(u8::try_from(id.len()).map_err(io::Error::other)?);
        packet.extend_from_slice(id);
        stream.write_all(&packet)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        if answer[0] != 0x20 || answer[3] != 0 {
            return Err(io::Error::other(format!("CONNECT was answered with {answer:02x?}")));
        }
        self.partial.clear();
        for message in &self.unacknowledged {
            stream.write_all(&publish(message, true))?;
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends a message at QoS 1; `number` is given back when it is acknowledged. Kept, and sent again after the next connect, also
    /// when this fails.
    ///
    /// # Errors
    /// When the connection breaks; it is then closed.
    pub fn send(&mut self, number: u64, topic: &str, payload: &[u8]) -> io::Result<()> {
        let message = Message { id: self.next_id, number, topic: topic.to_owned(), payload: payload.to_owned() };
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let bytes = publish(&message, false);
        let connected = self.stream.is_some();
        self.unacknowledged.push_back(message);
        if !connected {
            return self.connect();
        }
        self.with_stream(|stream| stream.write_all(&bytes))
    }

    /// Waits for at least one PUBACK. Returns the numbers that were acknowledged.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for ten seconds; it is then closed. Also when an answer is not the PUBACK that is
    /// due: acknowledgements come in the order of the messages.
    pub fn acknowledged(&mut self) -> io::Result<Vec<u64>> {
        let mut input = [0; 4096];
        let read = self.with_stream(|stream| match stream.read(&mut input)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        })?;
        self.partial.extend_from_slice(&input[..read]);
        let mut numbers = Vec::new();
        let whole = self.partial.len() / 4 * 4;
        for packet in self.partial[..whole].chunks_exact(4) {
            let id = u16::from_be_bytes([packet[2], packet[3]]);
            match self.unacknowledged.pop_front() {
                Some(message) if packet[..2] == [0x40, 2] && message.id == id => numbers.push(message.number),
                due => return Err(io::Error::other(format!("got {packet:02x?}, due was {due:?}"))),
            }
        }
        self.partial.drain(..whole);
        Ok(numbers)
    }

    /// Breaks the connection.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    fn with_stream<T>(&mut self, act: impl FnOnce(&mut TcpStream) -> io::Result<T>) -> io::Result<T> {
        let result = self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into()).and_then(act);
        if result.is_err() {
            self.stream = None;
        }
        result
    }
}

fn publish(message: &Message, again: bool) -> Vec<u8> {
    let mut length = 4 + message.topic.len() + message.payload.len();
    let mut out = vec![if again { 0x3A } else { 0x32 }];
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
    out.extend_from_slice(&(message.topic.len() as u16).to_be_bytes());
    out.extend_from_slice(message.topic.as_bytes());
    out.extend_from_slice(&message.id.to_be_bytes());
    out.extend_from_slice(&message.payload);
    out
}
