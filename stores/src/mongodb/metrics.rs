//! Metrics of the MongoDB store.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

/// Label of a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommandLabel {
    /// `insert`, `update`, `delete`, `find`, `aggregate`, `commit`; `start` for every request of
    /// connecting.
    pub command: &'static str,
}

/// Label of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabel {
    /// `busy`, `needs_operator`, `refused`, `too_large`, `aborted`, `damaged`, `moved`.
    pub meaning: &'static str,
}

/// Metrics of the MongoDB store.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests sent. The parts of a long answer are not counted.
    pub commands: Family<CommandLabel, Counter>,
    /// Requests that failed, by meaning.
    pub failures: Family<FailureLabel, Counter>,
    /// Blocks written.
    pub blocks: Counter,
    /// Readings written.
    pub readings: Counter,
    /// Bytes of blocks sent.
    pub bytes: Counter,
    /// Blocks that were stored already.
    pub repeated: Counter,
    /// Blocks read.
    pub fetched: Counter,
    /// Device states written.
    pub states: Counter,
}

impl Metrics {
    /// Adds the metrics to a registry, under `weir_mongodb_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_mongodb");
        r.register("commands", "Requests sent", self.commands.clone());
        r.register("failures", "Requests that failed, by the meaning of the answer", self.failures.clone());
        r.register("blocks", "Blocks written", self.blocks.clone());
        r.register("readings", "Readings written", self.readings.clone());
        r.register_with_unit("sent", "Bytes of blocks sent", Unit::Bytes, self.bytes.clone());
        r.register("repeated_blocks", "Blocks that were stored already", self.repeated.clone());
        r.register("fetched_blocks", "Blocks read", self.fetched.clone());
        r.register("states", "Device states written", self.states.clone());
    }

    pub(super) fn sent(&self, command: &'static str) {
        self.commands.get_or_create(&CommandLabel { command }).inc();
    }

    pub(super) fn failed(&self, meaning: &'static str) {
        self.failures.get_or_create(&FailureLabel { meaning }).inc();
    }
}
