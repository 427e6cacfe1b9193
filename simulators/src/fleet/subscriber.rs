//! A subscriber whose session outlasts its connections: it records each delivery before it
//! acknowledges it, and gets to the end what the broker owes it.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mqtt_client::{Ack, Connect, Packet, PropertyList, Subscription, Version, id};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::broker::{Dialer, PATIENCE, Stream};
use crate::credentials::Credentials;
use crate::ledger::deliveries::{Delivery, Event, EventRecorder, key};
use crate::scenario::{self, Subscribers};

/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);
/// Time between two PINGREQs; the keep-alive is twice as long.
const PING: Duration = Duration::from_secs(10);
const SUBSCRIBE: u16 = 1;

/// The messages that a subscriber has, by [`key`].
pub(super) type Seen = Arc<Mutex<HashSet<u64>>>;

pub(super) struct Subscriber {
    client: String,
    group: Subscribers,
    dialer: Dialer,
    credentials: Credentials,
    recorder: EventRecorder,
    seen: Seen,
    /// Its subscription is granted.
    ready: watch::Sender<bool>,
    connection: u32,
    /// QoS 2 messages that it has and that are not released.
    held: HashSet<u16>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Subscriber {
    pub(super) fn new(
        (group, number): (&Subscribers, u32),
        dialer: Dialer,
        credentials: Credentials,
        recorder: EventRecorder,
        ready: watch::Sender<bool>,
    ) -> Self {
        Self {
            client: group.client(number),
            group: group.clone(),
            dialer,
            credentials,
            recorder,
            seen: Seen::default(),
            ready,
            connection: 0,
            held: HashSet::new(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    pub(super) fn seen(&self) -> Seen {
        Arc::clone(&self.seen)
    }

    fn version(&self) -> Version {
        match self.group.mqtt {
            scenario::Version::V3 => Version::V4,
            scenario::Version::V5 => Version::V5,
        }
    }

    /// Connects again and again, until the caller drops the task. Connections break as the broker
    /// does.
    pub(super) async fn play(mut self, failures: Arc<Mutex<String>>) {
        loop {
            if let Err(error) = self.connection().await {
                *failures.lock() = format!("{}: {error}", self.client);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn connection(&mut self) -> io::Result<()> {
        self.input.clear();
        self.output.clear();
        let mut stream = self.dialer.connect().await?;
        self.connect()?;
        self.flush(&mut stream).await?;
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "no CONNACK within 30 s");
        tokio::time::timeout(PATIENCE, self.connack(&mut stream)).await.map_err(silent)??;
        loop {
            self.handle().await?;
            self.flush(&mut stream).await?;
            tokio::select! {
                read = stream.read_buf(&mut self.input) => if read? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker"));
                },
                () = tokio::time::sleep(PING) => mqtt_client::pingreq(&mut self.output),
            }
        }
    }

    async fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        stream.write_all(&self.output).await?;
        self.output.clear();
        stream.flush().await
    }

    fn connect(&mut self) -> io::Result<()> {
        let expiry = u32::try_from(self.group.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let properties = PropertyList::new().number(id::SESSION_EXPIRY, expiry);
        let login = self.credentials.login(&self.client).map_err(io::Error::other)?;
        let connect = Connect {
            version: self.version(),
            client_id: &self.client,
            clean_start: false,
            keep_alive_secs: 2 * PING.as_secs() as u16,
            username: login.as_ref().map(|login| login.username),
            password: login.as_ref().and_then(|login| login.password.as_deref()).map(str::as_bytes),
            properties: properties.as_bytes(),
            ..Connect::default()
        };
        mqtt_client::connect(&mut self.output, &connect);
        Ok(())
    }

    /// Reads CONNACK, and subscribes when there is no session.
    async fn connack(&mut self, stream: &mut Stream) -> io::Result<()> {
        let version = self.version();
        let (present, length) = loop {
            match mqtt_client::decode(&self.input, version).map_err(io::Error::other)? {
                Some((Packet::Connack { session_present, reason: 0, .. }, length)) => break (session_present, length),
                Some((packet, _)) => return Err(io::Error::other(format!("the answer to CONNECT is {packet:?}"))),
                None => {}
            }
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before CONNACK"));
            }
        };
        self.input.drain(..length);
        self.connection += 1;
        if present {
            return Ok(());
        }
        self.held.clear();
        // A connection that broke before SUBACK may have left none.
        if *self.ready.borrow() {
            let (subscriber, connection) = (self.client.clone(), self.connection);
            self.recorder.record(Event::SessionLost { subscriber, connection }).await;
        }
        self.subscribe();
        Ok(())
    }

    fn subscribe(&mut self) {
        let subscription = Subscription { filter: &self.group.filter, qos: self.group.qos, ..Subscription::default() };
        let version = self.version();
        mqtt_client::subscribe(&mut self.output, version, SUBSCRIBE, &[], &[subscription]);
    }

    /// Handles all packets that have arrived.
    async fn handle(&mut self) -> io::Result<()> {
        let version = self.version();
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        while let Some((packet, length)) = mqtt_client::decode(&input[used..], version).map_err(io::Error::other)? {
            used += length;
            match packet {
                Packet::Publish(publish) => self.deliver(&publish).await,
                Packet::Ack { ack: Ack::Pubrel, packet_id, .. } => {
                    self.held.remove(&packet_id);
                    mqtt_client::ack(&mut self.output, version, Ack::Pubcomp, packet_id, 0);
                }
                Packet::Suback { reasons, .. } if reasons == [self.group.qos] => {
                    self.ready.send_replace(true);
                }
                Packet::Pingresp => {}
                packet => return Err(io::Error::other(format!("the broker sent {packet:?}"))),
            }
        }
        self.input = input;
        self.input.drain(..used);
        Ok(())
    }

    async fn deliver(&mut self, publish: &mqtt_client::Publish<'_>) {
        let version = self.version();
        let mqtt_client::Publish { topic, payload, qos, dup, packet_id, .. } = *publish;
        let key = key(topic, payload);
        let is_known = qos == 2 && !self.held.insert(packet_id);
        let (subscriber, connection) = (self.client.clone(), self.connection);
        let delivery = Delivery { subscriber, connection, packet_id, qos, dup, is_known, key };
        self.recorder.record(Event::Delivery(delivery)).await;
        self.seen.lock().insert(key);
        match qos {
            0 => {}
            1 => mqtt_client::ack(&mut self.output, version, Ack::Puback, packet_id, 0),
            _ => mqtt_client::ack(&mut self.output, version, Ack::Pubrec, packet_id, 0),
        }
    }
}
