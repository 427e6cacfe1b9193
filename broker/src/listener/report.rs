//! The state of each listener, for metrics and reports.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = [(&'static str, String); 1];

/// The listeners that are open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    open: Arc<Mutex<Vec<Arc<ListenerState>>>>,
    connections: Family<Label, Gauge>,
    connects: Family<Label, Counter>,
}

/// A listener that is open.
#[derive(Debug)]
pub(crate) struct ListenerState {
    name: Arc<str>,
    address: String,
    protocol: &'static str,
    connections: Gauge,
    connects: Counter,
    /// The reason why the last connection could not be accepted.
    fault: Mutex<Option<String>>,
}

/// The state of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerReport {
    /// Its name.
    pub name: Arc<str>,
    /// Its address, with the port that the system chose, or `unix:` and a path.
    pub address: String,
    /// `mqtt`, `mqtts`, `ws`, `wss`, `unix` or `ws+unix`.
    pub protocol: &'static str,
    /// Open connections.
    pub connections: i64,
    /// The reason why it accepts no connections now.
    pub fault: Option<String>,
}

impl Listeners {
    /// Returns the state of each, in the order of the configuration.
    pub fn list(&self) -> Vec<ListenerReport> {
        let report = |state: &Arc<ListenerState>| ListenerReport {
            name: Arc::clone(&state.name),
            address: state.address.clone(),
            protocol: state.protocol,
            connections: state.connections.get(),
            fault: state.fault.lock().clone(),
        };
        self.open.lock().iter().map(report).collect()
    }

    /// Registers the metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("listener_connections", "Open connections, by listener", self.connections.clone());
        registry.register("listener_connects", "Connections accepted, by listener", self.connects.clone());
    }

    pub(super) fn add(&self, name: &Arc<str>, address: String, protocol: &'static str) -> Arc<ListenerState> {
        let label = [("listener", name.to_string())];
        let state = Arc::new(ListenerState {
            name: Arc::clone(name),
            address,
            protocol,
            connections: self.connections.get_or_create_owned(&label),
            connects: self.connects.get_or_create_owned(&label),
            fault: Mutex::default(),
        });
        self.open.lock().push(Arc::clone(&state));
        state
    }

    /// Open connections of each, in words.
    pub(super) fn open(&self) -> String {
        let left = self.open.lock();
        let left = left.iter().filter(|state| state.connections.get() > 0);
        let left: Vec<_> = left.map(|state| format!("{}: {}", state.name, state.connections.get())).collect();
        left.join(", ")
    }

    /// None is open any longer.
    pub(super) fn clear(&self) {
        self.open.lock().clear();
    }
}

impl ListenerState {
    pub(super) fn opened(&self) {
        self.connections.inc();
        self.connects.inc();
    }

    pub(super) fn closed(&self) {
        self.connections.dec();
    }

    pub(super) fn works(&self) {
        *self.fault.lock() = None;
    }

    pub(super) fn fails(&self, error: &io::Error) {
        *self.fault.lock() = Some(error.to_string());
    }
}
