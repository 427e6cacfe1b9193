//! The audit: a hash chain for each tenant.
//!
//! ```text
//! h_0 = 0…0      h_n = SHA-256(0x01 | h_{n-1} | stored bytes of event n)      n = 1, 2, 3 …
//! ```
//! A changed, missing or moved event breaks the chain at its place. Events that are missing at the
//! end are found by the head, which is kept beside the chain. A chain that was computed anew in
//! whole is found by a [`Checkpoint`] that was noted outside of Weir.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use model::Nanos;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hex;

/// Name of the chain of events that belong to no tenant; no tenant can have this id.
pub const INSTALLATION: &str = "#installation";

/// An audit event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditEvent {
    /// Position in the chain, from 1, without gaps.
    pub sequence: u64,
    /// Time of the event, of the first one if it stands for several.
    pub at: Nanos,
    /// Name of the principal.
    pub principal: String,
    /// The method: `CreateApiKey`, `Connect`.
    pub method: String,
    /// The resource: `apiKeys/4ZjQ0kq8yW2a`.
    pub resource: String,
    /// Address of the client or caller.
    pub address: Option<String>,
    /// Id of the request.
    pub request_id: Option<String>,
    /// True for a change that was made, false for a denial.
    pub granted: bool,
    /// The content of the change, or the reason of the denial; never a secret.
    pub detail: String,
    /// Count of equal events within a minute.
    pub count: u64,
    /// Its hash.
    #[serde(skip)]
    pub hash: [u8; 32],
}

/// Denials of one kind within a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The tenant, or [`INSTALLATION`] while it is unknown.
    pub tenant: String,
    /// Name of the principal; empty while it is unknown.
    pub principal: String,
    /// The method.
    pub method: String,
    /// Address of the client or caller; `None` for those of many addresses.
    pub address: Option<std::net::IpAddr>,
    /// The reason.
    pub reason: String,
    /// Time of the first one.
    pub at: Nanos,
    /// Their count.
    pub count: u64,
}

/// A point of a chain, to be noted outside of Weir.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Sequence of an event, or 0 before the first one.
    pub sequence: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// `SEQUENCE:HASH`, the hash in hexadecimal digits.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, hex::encode(&self.hash))
    }
}

impl FromStr for Checkpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed =
            text.split_once(':').and_then(|(sequence, hash)| Some((sequence.parse().ok()?, hex::decode(hash)?)));
        parsed.map(|(sequence, hash)| Self { sequence, hash }).ok_or("expected SEQUENCE:HASH, as 12:9f…")
    }
}

/// The part of a chain that is to be checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditRange {
    /// An event that was noted before: the check begins with it, and the chain has to contain it.
    /// Sequence 0: it begins with the first event.
    pub from: Checkpoint,
    /// The last event to check. `None`: the chain is checked to its end, and compared with its
    /// head.
    pub to: Option<u64>,
    /// Events that were noted before.
    pub known: Vec<Checkpoint>,
}

/// The outcome of a check of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The last event up to which the chain is whole.
    pub verified: Checkpoint,
    /// The first fault.
    pub fault: Option<Fault>,
}

/// A fault of a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The event is missing.
    #[error("event {0} is missing")]
    Missing(u64),
    /// The bytes of the event, or of the one before it, are not those that were written.
    #[error("event {0} was changed")]
    Changed(u64),
    /// Events after the end of the chain are missing, or its head was changed.
    #[error("the chain ends at event {ends}, its head names event {head}")]
    End {
        /// The last event.
        ends: u64,
        /// The event that the head names.
        head: u64,
    },
    /// The chain does not contain the checkpoint.
    #[error("event {0} is not the one of the checkpoint: the chain was written anew")]
    Checkpoint(u64),
}

/// Returns the hash of an event.
pub(super) fn link(previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(previous);
    hash.update(bytes);
    hash.finalize().into()
}

/// Returns the head of a chain behind one more event, and the bytes of the event that are stored.
pub(super) fn extend(head: Checkpoint, mut event: AuditEvent) -> (Checkpoint, Vec<u8>) {
    event.sequence = head.sequence + 1;
    let bytes = serde_json::to_vec(&event).expect("plain fields are JSON");
    (Checkpoint { sequence: event.sequence, hash: link(&head.hash, &bytes) }, bytes)
}

/// Reads an event that was stored.
pub(super) fn read_event(hash: &[u8], bytes: &[u8]) -> Option<AuditEvent> {
    let mut event: AuditEvent = serde_json::from_slice(bytes).ok()?;
    event.hash = hash.try_into().ok()?;
    Some(event)
}

/// Follows a chain, from its beginning or from an event that was noted.
#[derive(Debug)]
pub(super) struct Walk {
    last: Checkpoint,
    /// The hash of the event before the first one that is checked is taken as it is stored.
    takes_first: bool,
    to: Option<u64>,
    /// Events that the chain has to contain, the next one first.
    known: VecDeque<Checkpoint>,
}

impl Walk {
    pub(super) fn new(range: &AuditRange) -> Self {
        let mut known: VecDeque<_> = range.known.iter().copied().filter(|known| known.sequence > 0).collect();
        known.make_contiguous().sort_by_key(|known| known.sequence);
        if range.from.sequence > 0 {
            known.push_front(range.from);
        }
        let last = Checkpoint { sequence: range.from.sequence.saturating_sub(2), ..Checkpoint::default() };
        Self { last, takes_first: range.from.sequence > 1, to: range.to, known }
    }

    /// Returns the sequence of the next event to read.
    pub(super) fn next(&self) -> u64 {
        self.last.sequence + 1
    }

    /// True when all events that were to be checked are.
    pub(super) fn is_done(&self) -> bool {
        !self.takes_first && self.to.is_some_and(|to| self.last.sequence >= to)
    }

    /// Returns the event up to which the chain is whole.
    pub(super) fn last(&self) -> Checkpoint {
        self.last
    }

    /// Goes on to the next event.
    pub(super) fn step(&mut self, sequence: u64, hash: &[u8], bytes: &[u8]) -> Result<(), Fault> {
        let expected = self.next();
        if sequence != expected {
            return Err(Fault::Missing(expected));
        }
        if self.takes_first {
            self.takes_first = false;
            self.last = Checkpoint { sequence, hash: hash.try_into().map_err(|_| Fault::Changed(sequence))? };
            return Ok(());
        }
        let own = link(&self.last.hash, bytes);
        let names = serde_json::from_slice::<AuditEvent>(bytes).map(|event| event.sequence);
        if own != *hash || names.ok() != Some(sequence) {
            return Err(Fault::Changed(sequence));
        }
        while let Some(noted) = self.known.front().filter(|noted| noted.sequence <= sequence) {
            if noted.sequence == sequence && noted.hash != own {
                return Err(Fault::Checkpoint(sequence));
            }
            self.known.pop_front();
        }
        self.last = Checkpoint { sequence, hash: own };
        Ok(())
    }

    /// Compares the end with the head.
    pub(super) fn end(&self, head: Checkpoint) -> Result<(), Fault> {
        if self.is_done() {
            return Ok(());
        }
        if let Some(from) = self.known.front().filter(|_| self.takes_first) {
            return Err(Fault::End { ends: head.sequence.min(from.sequence - 1), head: from.sequence });
        }
        if self.last != head {
            return Err(Fault::End { ends: self.last.sequence, head: head.sequence });
        }
        match self.known.back() {
            Some(noted) => Err(Fault::End { ends: self.last.sequence, head: noted.sequence }),
            None => Ok(()),
        }
    }
}
