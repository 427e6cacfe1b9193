//! A small MQTT 3.1.1 device that behaves like careful firmware: it keeps unacknowledged messages
//! and sends them again with DUP and their packet ids.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mqtt_client::{Ack, Connect, Packet, Publish, Version};

/// An unacknowledged message.
#[derive(Debug, Clone)]
struct Message {
    id: u16,
    number: u64,
    topic: String,
    payload: Vec<u8>,
}

/// A device that keeps its messages until they are acknowledged.
#[derive(Debug)]
pub struct Device {
    client: String,
    broker: SocketAddr,
    /// User name and password.
    credentials: Option<(String, String)>,
    stream: Option<TcpStream>,
    unacknowledged: VecDeque<Message>,
    next_id: u16,
    partial: Vec<u8>,
}

impl Device {
    /// Creates a device with this client id. It connects at its first message.
    pub fn new(client: &str, broker: SocketAddr) -> Self {
        Self {
            client: client.to_owned(),
            broker,
            credentials: None,
            stream: None,
            unacknowledged: VecDeque::new(),
            next_id: 1,
            partial: Vec::new(),
        }
    }

    /// The device with a user name and a password.
    #[must_use]
    pub fn with_password(self, user: &str, password: &str) -> Self {
        Self { credentials: Some((user.to_owned(), password.to_owned())), ..self }
    }

    /// Connects to this broker from the next connection on.
    pub fn reach(&mut self, broker: SocketAddr) {
        self.broker = broker;
    }

    /// Number of unacknowledged messages.
    pub fn in_flight(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Connects unless it is connected, and sends unacknowledged messages again.
    ///
    /// # Errors
    /// When the broker is unavailable or refuses the connection.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.stream.is_some() {
            return Ok(());
        }
        let mut stream = TcpStream::connect(self.broker)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let credentials = self.credentials.as_ref();
        let connect = Connect {
            client_id: &self.client,
            username: credentials.map(|(user, _)| user.as_str()),
            password: credentials.map(|(_, password)| password.as_bytes()),
            ..Connect::default()
        };
        let mut out = Vec::new();
        mqtt_client::connect(&mut out, &connect);
        stream.write_all(&out)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        let connack = mqtt_client::decode(&answer, Version::V4).map_err(io::Error::other)?;
        if !matches!(connack, Some((Packet::Connack { reason: 0, .. }, 4))) {
            return Err(io::Error::other(format!("the answer to CONNECT is {answer:02x?}")));
        }
        self.partial.clear();
        for message in &self.unacknowledged {
            stream.write_all(&publish(message, true))?;
        }
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends a message at QoS 1; `number` is returned when it is acknowledged. The message is kept
    /// and sent again after the next connect, also when this fails.
    ///
    /// # Errors
    /// When the connection breaks; the device is then disconnected.
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

    /// Waits for at least one PUBACK. Returns the numbers of acknowledged messages.
    ///
    /// # Errors
    /// When the connection breaks or nothing arrives within ten seconds; the device is then
    /// disconnected. Also when a packet is not the expected PUBACK: acknowledgements arrive in the
    /// order of the messages.
    pub fn acknowledged(&mut self) -> io::Result<Vec<u64>> {
        let mut input = [0; 4096];
        let read = self.with_stream(|stream| match stream.read(&mut input)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        })?;
        self.partial.extend_from_slice(&input[..read]);
        let mut numbers = Vec::new();
        let mut used = 0;
        while let Some((packet, length)) =
            mqtt_client::decode(&self.partial[used..], Version::V4).map_err(io::Error::other)?
        {
            match (packet, self.unacknowledged.pop_front()) {
                (Packet::Ack { ack: Ack::Puback, packet_id, .. }, Some(message)) if message.id == packet_id => {
                    numbers.push(message.number);
                }
                (packet, due) => {
                    return Err(io::Error::other(format!("received {packet:?} in place of the PUBACK for {due:?}")));
                }
            }
            used += length;
        }
        self.partial.drain(..used);
        Ok(numbers)
    }

    /// Waits until every message is acknowledged.
    ///
    /// # Errors
    /// Like [`Device::acknowledged`].
    pub fn wait_for_all(&mut self) -> io::Result<()> {
        while self.in_flight() > 0 {
            self.acknowledged()?;
        }
        Ok(())
    }

    /// As [`Device::acknowledged`], within a time after which there is no number and the connection
    /// stays.
    ///
    /// # Errors
    /// Like [`Device::acknowledged`].
    pub fn acknowledged_within(&mut self, time: Duration) -> io::Result<Vec<u64>> {
        let arrived = {
            let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            stream.set_read_timeout(Some(time))?;
            let peeked = stream.peek(&mut [0]);
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            match peeked {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => false,
                peeked => peeked.map(|_| true)?,
            }
        };
        if arrived { self.acknowledged() } else { Ok(Vec::new()) }
    }

    /// As [`Device::acknowledged`]; no number when the connection was lost.
    ///
    /// # Errors
    /// When a packet is not the expected PUBACK.
    pub fn acknowledged_until_lost(&mut self) -> io::Result<Vec<u64>> {
        self.acknowledged().or_else(|error| match error.kind() {
            io::ErrorKind::Other => Err(error),
            _ => Ok(Vec::new()),
        })
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

fn publish(message: &Message, dup: bool) -> Vec<u8> {
    let Message { id, topic, payload, .. } = message;
    let mut out = Vec::new();
    let publish = Publish { topic, payload, qos: 1, dup, packet_id: *id, ..Publish::default() };
    mqtt_client::publish(&mut out, Version::V4, &publish);
    out
}
