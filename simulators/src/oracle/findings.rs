//! Differences between a store and the sent readings.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Number of findings of each kind that are listed.
const NAMED: usize = 10;

/// Kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Acknowledged, but not stored.
    Missing,
    /// Stored more than once.
    Doubled,
    /// Stored with another time or other values.
    Altered,
    /// Stored with a value of another type.
    Mistyped,
    /// Stored, but never sent.
    Unexpected,
    /// The latest value is older than one that was acknowledged.
    ReorderedLatest,
    /// Acknowledged as unreadable, but not a dead letter.
    MissingLetter,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Doubled,
        Self::Altered,
        Self::Mistyped,
        Self::Unexpected,
        Self::ReorderedLatest,
        Self::MissingLetter,
    ];

    /// Name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Doubled => "doubled",
            Self::Altered => "altered",
            Self::Mistyped => "mistyped",
            Self::Unexpected => "unexpected",
            Self::ReorderedLatest => "reordered latest",
            Self::MissingLetter => "missing dead letter",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Device.
    pub device: String,
    /// Time of the reading, if it has one.
    pub time: Option<String>,
    /// The device's sequence, if it has one.
    pub sequence: Option<u64>,
    /// Expected and found values.
    pub detail: String,
}

/// All differences of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    counts: BTreeMap<Fault, u64>,
    named: BTreeMap<Fault, Vec<Finding>>,
}

/// Report about a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Name of the store.
    pub store: String,
    /// Acknowledged readings.
    pub acknowledged: u64,
    /// Stored readings of this run.
    pub held: u64,
    /// Stored readings without a received acknowledgement, which are allowed.
    pub unacknowledged: u64,
    /// Acknowledged unreadable messages that are dead letters.
    pub dead_letters: u64,
    /// Differences.
    pub findings: Findings,
}

impl Findings {
    pub(super) fn add(&mut self, fault: Fault, finding: impl FnOnce() -> Finding) {
        *self.counts.entry(fault).or_default() += 1;
        let named = self.named.entry(fault).or_default();
        if named.len() < NAMED {
            named.push(finding());
        }
    }

    /// True without differences.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// Number of differences of a kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts.get(&fault).copied().unwrap_or(0)
    }

    /// The first ten differences of a kind.
    pub fn named(&self, fault: Fault) -> &[Finding] {
        self.named.get(&fault).map_or(&[], Vec::as_slice)
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (fault, count) in other.counts {
            *self.counts.entry(fault).or_default() += count;
        }
        for (fault, findings) in other.named {
            let named = self.named.entry(fault).or_default();
            named.extend(findings);
            named.truncate(NAMED);
        }
    }
}

impl StoreReport {
    /// An empty report.
    pub fn new(store: &str) -> Self {
        Self {
            store: store.to_owned(),
            acknowledged: 0,
            held: 0,
            unacknowledged: 0,
            dead_letters: 0,
            findings: Findings::default(),
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.held += other.held;
        self.unacknowledged += other.unacknowledged;
        self.dead_letters += other.dead_letters;
        self.findings.merge(other.findings);
    }
}

impl fmt::Display for StoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} readings acknowledged, {} held, {} of them without an acknowledgement, {} dead letters: {}",
            self.store,
            self.acknowledged,
            self.held,
            self.unacknowledged,
            self.dead_letters,
            if self.findings.is_clean() { "clean" } else { "FAULTY" }
        )?;
        for fault in Fault::ALL {
            let count = self.findings.count(fault);
            if count == 0 {
                continue;
            }
            writeln!(f, "  {}: {count}", fault.name())?;
            for finding in self.findings.named(fault) {
                writeln!(f, "    {finding}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        if let Some(time) = &self.time {
            write!(f, " at {time}")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, " seq {sequence}")?;
        }
        write!(f, ": {}", self.detail)
    }
}
