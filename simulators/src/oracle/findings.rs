//! What is wrong with what a store holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Of each kind, this many are named.
const NAMED: usize = 10;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Acknowledged, and not there.
    Missing,
    /// There more than once.
    Doubled,
    /// There with another time or other values.
    Altered,
    /// There with a value of another type.
    Mistyped,
    /// There, and never sent.
    Unexpected,
    /// The latest value is older than one that was acknowledged.
    ReorderedLatest,
    /// Acknowledged as unreadable, and not among the dead letters.
    MissingLetter,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Doubled,
        Self::Altered,
        Self::Mistyped,
        Self::Unexpected,
        Self::ReorderedLatest,
        Self::MissingLetter,
    ];

    /// Its name.
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

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Device.
    pub device: String,
    /// Time of the reading, as far as it has one.
    pub time: Option<String>,
    /// The device's counter, as far as it has one.
    pub sequence: Option<u64>,
    /// What was expected and what is there.
    pub detail: String,
}

/// All faults of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    counts: BTreeMap<Fault, u64>,
    named: BTreeMap<Fault, Vec<Finding>>,
}

/// What a store was found to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Which.
    pub store: String,
    /// Readings acknowledged.
    pub acknowledged: u64,
    /// Readings it holds of this run.
    pub held: u64,
    /// Readings it holds although no acknowledgement was seen: allowed.
    pub unacknowledged: u64,
    /// Acknowledged messages that cannot be read, found among the dead letters.
    pub dead_letters: u64,
    /// What is wrong.
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

    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many of a kind.
    pub fn count(&self, fault: Fault) -> u64 {
        self.counts.get(&fault).copied().unwrap_or(0)
    }

    /// The first ten of a kind.
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
    /// Of nothing.
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
