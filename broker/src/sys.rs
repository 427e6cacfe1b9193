//! Figures of the broker under `$SYS/broker/`, with the names that Mosquitto uses.
//!
//! A client gets the present figures with its subscription, marked as retained, and then those that
//! have changed, each interval. They are sent at QoS 0: none waits for a client that is away. Where
//! clients are not authenticated, the figures are those of the process. Otherwise a tenant sees its
//! own, and of its clients the ones whose grants name `$SYS/…`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Broker;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::queue::Queued;
use crate::session::{Place, Session};
use crate::tenant::Tenant;
use door::Inbox;

/// First level of the topics.
pub(crate) const LEVEL: &str = "$SYS";
const BROKER: &str = "$SYS/broker/";

/// A counter whose rate is shown.
type Rate = (&'static str, fn(&Metrics) -> u64);

const RATES: [Rate; 9] = [
    ("messages/received", |metrics| metrics.packets.get()),
    ("publish/received", |metrics| metrics.publishes.get()),
    ("publish/sent", Metrics::delivered),
    ("publish/dropped", Metrics::all_dropped),
    ("bytes/received", |metrics| metrics.received.get()),
    ("bytes/sent", |metrics| metrics.sent.get()),
    ("connections", |metrics| metrics.connects.get()),
    ("sockets", |metrics| metrics.connects.get()),
    ("messages/sent", Metrics::packets_sent),
];
/// Times over which a rate is averaged.
const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// A topic and its value.
pub(crate) type Figure = (String, String);

/// State of the figures of the process.
#[derive(Debug)]
pub(crate) struct Sys {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Time of the last publication.
    at: Instant,
    counts: [u64; RATES.len()],
    /// Averages, for each minute.
    rates: [[f64; WINDOWS.len()]; RATES.len()],
    most_connected: i64,
}

impl Sys {
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        let (counts, rates) = ([0; RATES.len()], [[0.0; WINDOWS.len()]; RATES.len()]);
        Self { began, state: Mutex::new(State { at: began, counts, rates, most_connected: 0 }) }
    }

    /// True when the figures are due again; then the rates are those of now.
    fn is_due(&self, interval: Duration, metrics: &Metrics) -> bool {
        let mut state = self.state.lock();
        state.most_connected = state.most_connected.max(metrics.connections.get());
        let passed = state.at.elapsed();
        if interval.is_zero() || passed < interval {
            return false;
        }
        state.at += passed;
        let counts = RATES.map(|(_, count)| count(metrics));
        let before = std::mem::replace(&mut state.counts, counts);
        let passed = passed.as_secs_f64();
        for ((rates, now), before) in state.rates.iter_mut().zip(counts).zip(before) {
            let rate = (now - before) as f64 * 60.0 / passed;
            for (average, (_, window)) in rates.iter_mut().zip(WINDOWS) {
                *average = rate + (*average - rate) * (-passed / window).exp();
            }
        }
        true
    }
}

impl<I: Inbox> Broker<I> {
    /// Sends the figures that have changed, when they are due.
    pub(crate) fn publish_figures(&self) {
        let interval = Duration::from_secs(self.config.sys_interval_secs.into());
        if !self.sys.is_due(interval, &self.metrics) {
            return;
        }
        for tenant in self.tenants.all() {
            if !tenant.trie.has_level(LEVEL) {
                tenant.figures.lock().clear();
                continue;
            }
            let figures = self.figures(&tenant);
            let before = std::mem::replace(&mut *tenant.figures.lock(), figures.clone());
            for (at, (topic, value)) in figures.iter().enumerate() {
                if before.get(at).is_some_and(|(_, before)| before == value) {
                    continue;
                }
                let mut takers = self.takers(&tenant, topic, (0, false), "");
                // Each node has its own.
                takers.retain(|taker| *taker.session.place() == Place::Here);
                if !takers.is_empty() {
                    let message = Arc::new(Message::new(topic, value.as_bytes(), 0, false, &[]));
                    self.route_here(&tenant, &message, takers, false);
                }
            }
        }
    }

    /// Sends the present figures to a new subscription; from then on those that change are sent.
    pub(crate) fn send_figures(&self, tenant: &Tenant, session: &Arc<Session>, id: Option<u32>, filter: &str) {
        let figures = self.figures(tenant);
        {
            let mut before = tenant.figures.lock();
            if before.is_empty() {
                before.clone_from(&figures);
            }
        }
        for (topic, value) in figures.iter().filter(|(topic, _)| model::topic::matches(filter, topic)) {
            let message = Arc::new(Message::new(topic, value.as_bytes(), 0, true, &[]));
            let subscription_ids = id.into_iter().collect();
            let queued = Queued { retain: true, subscription_ids, ..Queued::new(message, 0) };
            self.push(session, queued, &self.bounds(session));
        }
    }

    /// The present figures that a tenant may see, always in the same order.
    fn figures(&self, tenant: &Tenant) -> Vec<Figure> {
        let mut figures = Vec::new();
        if self.config.sys_interval_secs == 0 {
            return figures;
        }
        let add = |figures: &mut Vec<Figure>, name: &str, value: String| {
            figures.push((format!("{BROKER}{name}"), value));
        };
        let (connected, total) = (tenant.connected(), tenant.sessions.len());
        let whole = self.gatekeeper.shows_installation();
        add(&mut figures, "version", format!("weir version {}", env!("CARGO_PKG_VERSION")));
        add(&mut figures, "uptime", format!("{} seconds", self.sys.began.elapsed().as_secs()));
        add(&mut figures, "clients/connected", connected.to_string());
        add(&mut figures, "clients/disconnected", total.saturating_sub(connected).to_string());
        add(&mut figures, "clients/expired", tenant.expired().to_string());
        add(&mut figures, "clients/total", total.to_string());
        add(&mut figures, "subscriptions/count", tenant.subscriptions().to_string());
        add(&mut figures, "shared_subscriptions/count", tenant.trie.shared().to_string());
        add(&mut figures, "retained messages/count", tenant.retained.len().to_string());
        if !whole {
            return figures;
        }
        let metrics = &self.metrics;
        let state = self.sys.state.lock();
        add(&mut figures, "clients/maximum", state.most_connected.max(connected as i64).to_string());
        add(&mut figures, "messages/received", metrics.packets.get().to_string());
        add(&mut figures, "messages/sent", metrics.packets_sent().to_string());
        add(&mut figures, "publish/messages/received", metrics.publishes.get().to_string());
        add(&mut figures, "publish/messages/sent", metrics.delivered().to_string());
        add(&mut figures, "publish/messages/dropped", metrics.all_dropped().to_string());
        add(&mut figures, "bytes/received", metrics.received.get().to_string());
        add(&mut figures, "bytes/sent", metrics.sent.get().to_string());
        add(
            &mut figures,
            "store/messages/bytes",
            (self.memory.sessions.held() + self.memory.retained.held()).to_string(),
        );
        for ((name, _), rates) in RATES.iter().zip(&state.rates) {
            for ((window, _), rate) in WINDOWS.iter().zip(rates) {
                add(&mut figures, &format!("load/{name}/{window}"), format!("{rate:.2}"));
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_near_to_a_steady_one_and_falls_when_nothing_comes() {
        let (sys, metrics) = (Sys::new(), Metrics::default());
        let pass = |secs| sys.state.lock().at -= Duration::from_secs(secs);
        let interval = Duration::from_secs(10);
        assert!(!sys.is_due(interval, &metrics) && !sys.is_due(Duration::ZERO, &metrics));
        for _ in 0..30 {
            metrics.publishes.inc_by(100);
            pass(10);
            assert!(sys.is_due(interval, &metrics) && !sys.is_due(interval, &metrics));
        }
        let rates = |at: usize| sys.state.lock().rates[1][at];
        assert!((590.0..=600.0).contains(&rates(0)), "100 in 10 s: {}", rates(0));
        assert!((350.0..400.0).contains(&rates(1)) && rates(2) < rates(1));
        pass(60);
        assert!(sys.is_due(interval, &metrics));
        assert!((215.0..225.0).contains(&rates(0)), "{}", rates(0));
    }
}
