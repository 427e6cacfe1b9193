//! Eclipse Paho for Python as a process that a test drives step by step.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{Weir, checked, python};

/// Bound for an event that a test waits for.
const WAIT: Duration = Duration::from_secs(30);
/// Time between two messages of [`Paho::wait_routed`].
const AGAIN: Duration = Duration::from_millis(100);
/// Begin of the topics of these messages.
const READY: &str = "ready/";

/// A message that a client has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: String,
    /// QoS of the delivery.
    pub qos: u8,
    /// Marked as retained.
    pub retain: bool,
}

impl Message {
    fn of(event: &Value) -> anyhow::Result<Self> {
        let text = |key: &str| event[key].as_str().map(str::to_owned).context("a text");
        let qos = event["qos"].as_u64().context("a QoS")?.try_into()?;
        Ok(Self { topic: text("topic")?, payload: text("payload")?, qos, retain: event["retain"] == true })
    }
}

/// How a client connects.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// MQTT 5: clean start. 3.1.1: clean session, the same for all connections of a client.
    pub clean: bool,
    /// MQTT 5: session expiry, seconds.
    pub expiry_secs: u32,
    /// Will message of QoS 1: topic, payload, and (MQTT 5) its delay in seconds.
    pub will: Option<(&'a str, &'a str, u32)>,
}

impl Session<'_> {
    /// A session that ends with its connection.
    pub const CLEAN: Self = Session { clean: true, expiry_secs: 0, will: None };
    /// A session that lasts an hour.
    pub const LASTING: Self = Session { clean: false, expiry_secs: 3600, will: None };
}

/// A client. Its process ends when dropped.
#[derive(Debug)]
pub struct Paho {
    child: Child,
    input: ChildStdin,
    events: mpsc::Receiver<Value>,
    /// Events that nothing has waited for yet.
    kept: VecDeque<Value>,
    name: String,
}

impl Paho {
    /// Starts a client with this id; `version` is `3.1.1` or `5`.
    ///
    /// # Errors
    /// When Python does not start.
    pub fn new(client: &str, version: &str) -> anyhow::Result<Self> {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/paho_driven.py");
        let mut command = Command::new(python()?);
        command.arg(script).args(["127.0.0.1", version, client]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start Python")?;
        let input = child.stdin.take().context("stdin was piped")?;
        let output = BufReader::new(child.stdout.take().context("stdout was piped")?);
        let (send, events) = mpsc::channel();
        std::thread::spawn(move || {
            let parsed = output.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            parsed.take_while(|event| send.send(Value::clone(event)).is_ok()).for_each(drop);
        });
        Ok(Self { child, input, events, kept: VecDeque::new(), name: client.to_owned() })
    }

    /// Connects. Returns whether the session was present.
    ///
    /// # Errors
    /// When the connection is refused.
    pub fn connect(&mut self, to: SocketAddr, session: Session<'_>) -> anyhow::Result<bool> {
        let Session { clean, expiry_secs, will } = session;
        let port = to.port();
        self.tell(&json!({ "do": "connect", "port": port, "clean": clean, "expiry": expiry_secs, "will": will }))?;
        let event = self.event("connected")?;
        ensure!(event["reason"] == 0, "{} is refused: {event}", self.name);
        event["present"].as_bool().context("a flag")
    }

    /// Subscribes, and waits for the grant of this QoS.
    ///
    /// # Errors
    /// When it is not granted.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> anyhow::Result<()> {
        self.tell(&json!({ "do": "subscribe", "filter": filter, "qos": qos }))?;
        let event = self.event("subscribed")?;
        ensure!(event["reasons"] == json!([qos]), "{} got {event} for {filter}", self.name);
        Ok(())
    }

    /// Waits until these nodes know the subscriptions that the client has made so far: nodes learn
    /// in order of those of the others, a moment after SUBACK.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn wait_routed(&mut self, nodes: &[&Weir]) -> anyhow::Result<()> {
        for node in nodes {
            let topic = format!("{READY}{}/{}", self.name, node.mqtt.port());
            self.subscribe(&topic, 0)?;
            let begun = Instant::now();
            loop {
                let mut command = Command::new("mosquitto_pub");
                command.args(["-h", "127.0.0.1", "-p", &node.mqtt.port().to_string(), "-t", &topic, "-m", "ready"]);
                checked("mosquitto_pub", command.output()?)?;
                let is_it = |event: &Value| event["event"] == "message" && event["topic"] == *topic;
                if self.take(is_it, AGAIN).is_some() {
                    break;
                }
                ensure!(begun.elapsed() < WAIT, "a node does not know the subscriptions of {}", self.name);
            }
        }
        Ok(())
    }

    /// Publishes a message, and waits until it is acknowledged (QoS 0: sent).
    ///
    /// # Errors
    /// When it is not acknowledged in time.
    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> anyhow::Result<()> {
        self.send(topic, payload, qos, retain)?;
        self.published()
    }

    /// Publishes a message without waiting: [`Paho::published`] does.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn send(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> anyhow::Result<()> {
        let publish = json!({ "do": "publish", "topic": topic, "payload": payload, "qos": qos, "retain": retain });
        self.tell(&publish)
    }

    /// Waits until one more message is acknowledged.
    ///
    /// # Errors
    /// When it is refused, or not acknowledged in time.
    pub fn published(&mut self) -> anyhow::Result<()> {
        let event = self.event("published")?;
        let reason = event["reason"].as_u64().context("a reason")?;
        ensure!(reason < 0x80, "a message of {} is refused: {event}", self.name);
        Ok(())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn message(&mut self) -> anyhow::Result<Message> {
        match self.take(is_message, WAIT) {
            Some(event) => Message::of(&event),
            None => bail!("{}: no message within {WAIT:?}: {:?}", self.name, self.kept),
        }
    }

    /// The messages that have come by now.
    ///
    /// # Errors
    /// When an event of the client has no message.
    pub fn messages(&mut self) -> anyhow::Result<Vec<Message>> {
        let messages = std::iter::from_fn(|| self.take(is_message, Duration::ZERO));
        messages.map(|event| Message::of(&event)).collect()
    }

    /// Waits for messages up to the one with this payload. Returns the payloads of all.
    ///
    /// # Errors
    /// When it does not come in time; the error has those that came.
    pub fn messages_to(&mut self, last: &str) -> anyhow::Result<Vec<String>> {
        let mut payloads = Vec::new();
        while payloads.last().is_none_or(|payload| payload != last) {
            let message = self.message().with_context(|| format!("after {payloads:?}"))?;
            payloads.push(message.payload);
        }
        Ok(payloads)
    }

    /// Waits until the connection is closed. Returns the reason that the server gave.
    ///
    /// # Errors
    /// When it stays open.
    pub fn closed(&mut self) -> anyhow::Result<u64> {
        self.event("closed")?["reason"].as_u64().context("a reason")
    }

    /// Sends DISCONNECT, and waits until the connection is closed.
    ///
    /// # Errors
    /// When it stays open.
    pub fn disconnect(&mut self) -> anyhow::Result<()> {
        self.tell(&json!({ "do": "disconnect" }))?;
        self.closed().map(drop)
    }

    fn tell(&mut self, command: &Value) -> anyhow::Result<()> {
        writeln!(self.input, "{command}").with_context(|| format!("the process of {}", self.name))
    }

    fn event(&mut self, kind: &str) -> anyhow::Result<Value> {
        match self.take(|event| event["event"] == kind, WAIT) {
            Some(event) => Ok(event),
            None => bail!("{}: no event {kind:?} within {WAIT:?}: {:?}", self.name, self.kept),
        }
    }

    /// The first event that is wanted, of those that come within a time.
    fn take(&mut self, is_wanted: impl Fn(&Value) -> bool, within: Duration) -> Option<Value> {
        if let Some(place) = self.kept.iter().position(&is_wanted) {
            return self.kept.remove(place);
        }
        let begun = Instant::now();
        while let Ok(event) = self.events.recv_timeout(within.saturating_sub(begun.elapsed())) {
            if is_wanted(&event) {
                return Some(event);
            }
            self.kept.push_back(event);
        }
        None
    }
}

/// A message, but for those of [`Paho::wait_routed`].
fn is_message(event: &Value) -> bool {
    event["event"] == "message" && !event["topic"].as_str().is_some_and(|topic| topic.starts_with(READY))
}

impl Drop for Paho {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
