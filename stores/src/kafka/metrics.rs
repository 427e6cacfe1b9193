//! Figures of the exports to Kafka.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::encode::Record;

/// Name of an export.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExportLabel {
    /// Its name in the configuration.
    pub export: String,
}

/// Figures of all exports to Kafka, by the name of the export.
#[derive(Debug, Default)]
pub struct Metrics {
    records: Family<ExportLabel, Counter>,
    bytes: Family<ExportLabel, Counter>,
    failures: Family<ExportLabel, Counter>,
    commits: Family<ExportLabel, Counter>,
    aborts: Family<ExportLabel, Counter>,
}

/// Figures of one export.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) records: Counter,
    pub(super) bytes: Counter,
    pub(super) failures: Counter,
    pub(super) commits: Counter,
    pub(super) aborts: Counter,
}

impl Metrics {
    /// Registers them under `weir_kafka_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_kafka");
        r.register("records", "Records that Kafka acknowledged, repeats included", self.records.clone());
        let help = "Bytes of keys and values that Kafka acknowledged, before compression";
        r.register_with_unit("records", help, Unit::Bytes, self.bytes.clone());
        r.register("failures", "Writes that Kafka did not acknowledge", self.failures.clone());
        r.register("commits", "Transactions committed", self.commits.clone());
        r.register("aborts", "Transactions aborted", self.aborts.clone());
    }

    pub(super) fn of(&self, export: &str) -> Figures {
        let label = ExportLabel { export: export.to_owned() };
        let counter = |family: &Family<ExportLabel, Counter>| family.get_or_create(&label).clone();
        Figures {
            records: counter(&self.records),
            bytes: counter(&self.bytes),
            failures: counter(&self.failures),
            commits: counter(&self.commits),
            aborts: counter(&self.aborts),
        }
    }
}

impl Figures {
    pub(super) fn wrote(&self, records: &[Record]) {
        self.records.inc_by(records.len() as u64);
        self.bytes.inc_by(records.iter().map(|record| (record.key.len() + record.value.len()) as u64).sum());
    }
}
