//! Reads a ledger.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::{Header, MAGIC, Outcome, Record, VERSION};

/// The outcome of every message, by device.
#[derive(Debug)]
pub struct Ledger {
    /// Header of the ledger.
    pub header: Header,
    /// True when the run ended normally. Otherwise the ledger may lack messages that were sent.
    pub complete: bool,
    /// Outcomes by device, then by number; 0 where none is known.
    outcomes: Vec<Vec<u8>>,
}

impl Ledger {
    /// Reads a whole ledger; one byte for each message stays in memory. An incomplete block at the
    /// end of an interrupted run is ignored.
    ///
    /// # Errors
    /// The error names the file and the damaged byte.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read the ledger {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("ledger {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.len() > 9 && &bytes[..4] == MAGIC, "it is not a ledger");
        ensure!(bytes[4] == VERSION, "its version is {}, this program reads {VERSION}", bytes[4]);
        let length = word(bytes, 5).context("it ends in its header")? as usize;
        let header = bytes.get(9..9 + length).context("it ends in its header")?;
        let header = serde_json::from_slice(header).context("its header cannot be read")?;
        let mut ledger = Self { header, complete: false, outcomes: Vec::new() };
        let mut at = 9 + length;
        while at < bytes.len() {
            let (Some(length), Some(sum)) = (word(bytes, at), word(bytes, at + 4)) else { break };
            let Some(block) = bytes.get(at + 8..at + 8 + length as usize) else { break };
            ensure!(crc32c::crc32c(block) == sum, "it is damaged at byte {at}");
            ledger.take(block).with_context(|| format!("block at byte {at}"))?;
            at += 8 + block.len();
        }
        Ok(ledger)
    }

    fn take(&mut self, mut block: &[u8]) -> anyhow::Result<()> {
        while let Some((&outcome, rest)) = block.split_first() {
            block = rest;
            let Some(outcome) = Outcome::of(outcome) else { bail!("unknown outcome {outcome}") };
            let mut next = || varint(&mut block).context("it ends in a record");
            let (device, number) = (next()?, next()?);
            let (sent_micros, latency_micros) = (next()?, next()?);
            let device = u32::try_from(device).context("device")?;
            self.put(Record { device, number, sent_micros, latency_micros, outcome });
        }
        Ok(())
    }

    fn put(&mut self, record: Record) {
        if record.outcome == Outcome::End {
            self.complete = true;
            return;
        }
        let (device, number) = (record.device as usize, usize::try_from(record.number).unwrap_or(usize::MAX));
        if self.outcomes.len() <= device {
            self.outcomes.resize_with(device + 1, Vec::new);
        }
        let of_device = &mut self.outcomes[device];
        if of_device.len() <= number {
            of_device.resize(number + 1, 0);
        }
        // An acknowledgement replaces an earlier outcome.
        of_device[number] = of_device[number].max(record.outcome as u8);
    }

    /// The outcome of a message; `None` when it was never sent.
    pub fn outcome(&self, device: u32, number: u64) -> Option<Outcome> {
        let number = usize::try_from(number).ok()?;
        Outcome::of(*self.outcomes.get(device as usize)?.get(number)?)
    }

    /// Number of messages in the ledger.
    pub fn messages(&self) -> u64 {
        self.outcomes.iter().flatten().filter(|outcome| **outcome != 0).count() as u64
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}
