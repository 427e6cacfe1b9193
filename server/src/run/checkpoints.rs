//! Checkpoints of the audit: their metrics, and the reasons why targets do not get them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use identity::{Checkpoints, TargetStatus};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::state::Waiting;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    target: &'static str,
}

/// Metrics of checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    delivered: Family<To, Counter>,
    failing: Family<To, Gauge>,
    altered: Family<To, Gauge>,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let audit = registry.sub_registry_with_prefix("weir_audit");
        audit.register("checkpoints", "Signed checkpoints of the audit that a target has", self.delivered.clone());
        audit.register("checkpoints_failing", "1 while a target does not get checkpoints", self.failing.clone());
        audit.register("altered_chains", "Tenants whose audit was altered", self.altered.clone());
    }
}

/// Signs and hands over, and shows the state of the targets, until it is stopped.
pub(super) async fn run(
    checkpoints: Arc<Checkpoints>,
    metrics: Arc<Metrics>,
    waiting: Waiting,
    stop: CancellationToken,
) {
    tokio::join!(checkpoints.run(stop.clone()), watch(&checkpoints, &metrics, &waiting, stop));
}

async fn watch(checkpoints: &Checkpoints, metrics: &Metrics, waiting: &Waiting, stop: CancellationToken) {
    let mut counted = HashMap::new();
    loop {
        for status in checkpoints.status() {
            show(&status, metrics, waiting, counted.entry(status.kind).or_default());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn show(status: &TargetStatus, metrics: &Metrics, waiting: &Waiting, counted: &mut u64) {
    let to = To { target: status.kind };
    metrics.delivered.get_or_create_owned(&to).inc_by(status.delivered - *counted);
    *counted = status.delivered;
    metrics.failing.get_or_create_owned(&to).set(status.problem.is_some().into());
    metrics.altered.get_or_create_owned(&to).set(i64::try_from(status.altered.len()).unwrap_or(i64::MAX));
    let part = format!("audit checkpoints, {}", status.target);
    waiting.set(&part, status.problem.clone());
    let altered = status.altered.first().map(|first| {
        format!(
            "audits that were altered: {}, as that of {first}; their ends are no longer signed: compare them with a \
             backup, `weir audit verify --checkpoints FILE` names the events; after a backup was put in place, remove \
             checkpoints.redb from the data folder",
            status.altered.len()
        )
    });
    waiting.set("audit", altered);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_gets_nothing_and_an_audit_that_was_altered_are_reported_until_they_are_mended() {
        let (metrics, waiting, mut counted) = (Metrics::default(), Waiting::default(), 0);
        let mut status = TargetStatus {
            kind: "folder",
            target: "/mnt/audit".into(),
            delivered: 3,
            newest: None,
            problem: Some("no space left".into()),
            altered: vec!["acme: event 7 was changed".into()],
        };
        let text = |status: &TargetStatus, counted: &mut u64| {
            show(status, &metrics, &waiting, counted);
            let mut registry = Registry::default();
            metrics.register(&mut registry);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let shown = text(&status, &mut counted);
        for line in [
            "weir_audit_checkpoints_total{target=\"folder\"} 3",
            "weir_audit_checkpoints_failing{target=\"folder\"} 1",
            "weir_audit_altered_chains{target=\"folder\"} 1",
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        let reasons = waiting.reasons().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for word in ["/mnt/audit: no space left", "altered: 1,", "acme: event 7"] {
            assert!(reasons.contains(word), "{word} is not in {reasons}");
        }
        (status.problem, status.altered, status.delivered) = (None, Vec::new(), 5);
        let shown = text(&status, &mut counted);
        assert!(shown.contains("weir_audit_checkpoints_total{target=\"folder\"} 5"), "{shown}");
        assert!(waiting.reasons().is_empty());
    }
}
