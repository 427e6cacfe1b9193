//! Writes a ledger.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;

use super::{Header, MAGIC, Outcome, Record, VERSION};

/// Capacity of the queue to the writer, in records.
const WAITING: usize = 65_536;
/// Records in one block.
const BLOCK: usize = 16_384;

/// Records outcomes of messages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder(mpsc::Sender<Record>);

impl Recorder {
    /// A recorder that discards records.
    pub fn nowhere() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Submits a record, waiting while the disk is slow. Records are lost only when the writer has
    /// failed, which [`Writer::finish`] reports.
    pub async fn record(&self, record: Record) {
        self.0.send(record).await.ok();
    }
}

/// Writes a ledger on its own thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Creates the file, which must not exist yet.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn create(path: &Path, header: &Header) -> anyhow::Result<(Self, Recorder)> {
        let what = || format!("create the ledger {} (an old one is never overwritten)", path.display());
        let mut file = File::create_new(path).with_context(what)?;
        let text = serde_json::to_vec(header).context("write the ledger's header")?;
        file.write_all(MAGIC).with_context(what)?;
        file.write_all(&[VERSION]).with_context(what)?;
        file.write_all(&u32::try_from(text.len()).context("the scenario is too large")?.to_le_bytes())?;
        file.write_all(&text).with_context(what)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(file, receiver).with_context(|| format!("write the ledger {}", path.display())))?;
        Ok((Self { thread }, Recorder(sender)))
    }

    /// Waits until everything is on disk. Every [`Recorder`] must be gone.
    ///
    /// # Errors
    /// When a write failed: the ledger is then unusable.
    pub fn finish(self) -> anyhow::Result<()> {
        self.thread.join().map_err(|_| anyhow!("the ledger's writer panicked"))?
    }
}

fn run(mut file: File, mut records: mpsc::Receiver<Record>) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(BLOCK);
    let mut bytes = Vec::new();
    while records.blocking_recv_many(&mut batch, BLOCK) > 0 {
        block(&mut file, &mut bytes, &batch)?;
        batch.clear();
    }
    let end = Record { device: 0, number: 0, sent_micros: 0, latency_micros: 0, outcome: Outcome::End };
    block(&mut file, &mut bytes, &[end])?;
    file.sync_all()?;
    Ok(())
}

fn block(file: &mut File, bytes: &mut Vec<u8>, records: &[Record]) -> anyhow::Result<()> {
    bytes.clear();
    bytes.extend_from_slice(&[0; 8]);
    for record in records {
        bytes.push(record.outcome as u8);
        for number in [u64::from(record.device), record.number, record.sent_micros, record.latency_micros] {
            varint(bytes, number);
        }
    }
    let length = u32::try_from(bytes.len() - 8).context("a block is too large")?;
    let sum = crc32c::crc32c(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    file.write_all(bytes)?;
    Ok(())
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}
