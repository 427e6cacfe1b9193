//! Ledger of deliveries to subscribers: `LEDGER.deliveries`, a line of JSON for each event.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Capacity of the queue to the writer, in events.
const WAITING: usize = 65_536;

/// An event of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A PUBLISH has arrived.
    Delivery(Delivery),
    /// The broker had no session after the first connection: what waited in it is lost.
    SessionLost {
        /// Client id of the subscriber.
        subscriber: String,
        /// Number of the connection, from 1.
        connection: u32,
    },
}

/// A PUBLISH to a subscriber, recorded before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Client id of the subscriber.
    pub subscriber: String,
    /// Number of the connection, from 1.
    pub connection: u32,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// QoS.
    pub qos: u8,
    /// The DUP flag.
    pub dup: bool,
    /// QoS 2: the subscriber has this message already, under the same packet id, and PUBREL has not
    /// arrived. It is not handed on once more.
    pub is_known: bool,
    /// Identifies topic and payload: see [`key`].
    pub key: u64,
}

/// A number for topic and payload of a message.
pub fn key(topic: &str, payload: &[u8]) -> u64 {
    let mut bytes = Vec::with_capacity(topic.len() + 1 + payload.len());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(payload);
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// The file of deliveries that belongs to a ledger.
pub fn path(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".deliveries");
    name.into()
}

/// Records events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EventRecorder(mpsc::Sender<Event>);

impl EventRecorder {
    /// Submits an event, waiting while the disk is slow. Events are lost only when the writer has
    /// failed, which [`EventWriter::finish`] reports.
    pub async fn record(&self, event: Event) {
        self.0.send(event).await.ok();
    }
}

/// Writes events on its own thread.
#[derive(Debug)]
pub struct EventWriter(JoinHandle<anyhow::Result<()>>);

impl EventWriter {
    /// Creates the file, which must not exist yet.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<(Self, EventRecorder)> {
        let what = format!("create the ledger {} (an old one is never overwritten)", path.display());
        let file = File::create_new(path).context(what)?;
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let name = path.display().to_string();
        let thread = std::thread::Builder::new().name("deliveries".into()).spawn(move || {
            let mut out = BufWriter::new(file);
            while let Some(event) = receiver.blocking_recv() {
                serde_json::to_writer(&mut out, &event).with_context(|| format!("write {name}"))?;
                out.write_all(b"\n").with_context(|| format!("write {name}"))?;
            }
            out.flush().with_context(|| format!("write {name}"))
        })?;
        Ok((Self(thread), EventRecorder(sender)))
    }

    /// Waits until everything is written. Every [`EventRecorder`] must be gone.
    ///
    /// # Errors
    /// When a write failed: the ledger is then unusable.
    pub fn finish(self) -> anyhow::Result<()> {
        self.0.join().map_err(|_| anyhow!("the writer of deliveries panicked"))?
    }
}

/// Reads the events of all subscribers, in the order of their arrival.
///
/// # Errors
/// The error names the file and the line.
pub fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let what = || format!("{}, line {}", path.display(), number + 1);
        events.push(serde_json::from_str(&line.with_context(what)?).with_context(what)?);
    }
    Ok(events)
}
