//! Limits of all processes of a fleet together.
//!
//! Once a second each process [tells](Fleet::tell) the others the use that tenants with limits make
//! of it, and [hears](Fleet::hear) theirs. Nothing is asked for a message, a connection or a call:
//! they are admitted by what was heard last.
//!
//! - Counts (connections, streams, sessions, subscriptions): what the others have open is taken off
//!   the limit. Beyond it comes no more than is opened within a second.
//! - Rates (messages, bytes, connects, calls): each process has a part, see [`parts`].
//!
//! A process that has heard nothing keeps what it knows for [`HOLD`]. After that it has an equal
//! part of each rate, by the number of processes that it knew last, and counts only what it has
//! itself: those that others had may have come here.

use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::meter::Moment;
use super::parts::{self, Demand};
use super::report::{self, Counts, Record, Writer};
use super::tenant::SHARED;
use super::{Quota, TenantMeter, Usage};

/// Time for which a process keeps what it has heard.
pub const HOLD: Duration = Duration::from_secs(10);
/// A demand that is measured again before is that of the last time.
const LEAST: Duration = Duration::from_millis(200);
/// Connections that wait ask again when the part has changed by this factor since they last did.
const ASKS_AGAIN: f64 = 1.25;

/// Shared rates that connections wait for: the first ones.
const PACED: usize = 2;

/// Parts of the shared rates, each between 0 and 1.
type Fractions = [f64; SHARED.len()];
const ALL: Fractions = [1.0; SHARED.len()];
const NONE: Fractions = [0.0; SHARED.len()];

/// The use of a tenant that a process has measured and told the others.
#[derive(Debug)]
pub(super) struct Told {
    /// Time of the last measurement.
    at: Option<Moment>,
    /// Counters then: units used, and events of the limit.
    counted: [(u64, u64); SHARED.len()],
    /// Units that waited then.
    waited: [f64; SHARED.len()],
    demands: [Demand; SHARED.len()],
    fractions: Fractions,
    /// The parts at which the connections that wait asked last.
    asked: Fractions,
    /// Parts were set once: from then on they change step by step.
    is_set: bool,
}

impl Default for Told {
    fn default() -> Self {
        let none = Demand::default();
        Self {
            at: None,
            counted: [(0, 0); SHARED.len()],
            waited: NONE,
            demands: [none; SHARED.len()],
            fractions: ALL,
            asked: ALL,
            is_set: false,
        }
    }
}

impl Told {
    pub(super) fn fractions(&self) -> [f64; SHARED.len()] {
        self.fractions
    }
}

impl TenantMeter {
    /// True when one of its limits is one of all processes of a fleet together.
    pub fn is_shared(&self) -> bool {
        let counts = [&self.max_connections, &self.max_streams, &self.max_sessions, &self.max_subscriptions];
        self.shared_rates().iter().any(|(rate, _)| rate.is_set()) || counts.iter().any(|most| most.is_set())
    }

    fn counts(&self, (sessions, subscriptions): (usize, usize)) -> Counts {
        Counts {
            connections: self.connections.get(),
            streams: self.streams.get(),
            sessions: sessions as u64,
            subscriptions: subscriptions as u64,
        }
    }

    fn record(&self, kept: (usize, usize), now: Moment) -> Record {
        let usage = self.usage();
        Record {
            counts: self.counts(kept),
            demands: self.measure(&usage, now),
            totals: [usage.messages, usage.bytes, usage.calls],
            limited: usage.limited.map(|(_, count)| count),
        }
    }

    /// Measures the demand since the last time. The use falls slowly, as devices that send every
    /// few seconds need their part each time.
    fn measure(&self, usage: &Usage, now: Moment) -> [Demand; SHARED.len()] {
        let mut told = self.told.lock();
        let told = &mut *told;
        let elapsed = told.at.map_or(Duration::from_secs(1), |at| at.until(now));
        if elapsed < LEAST {
            return told.demands;
        }
        told.at = Some(now);
        let connects = self.counted.connects.load(std::sync::atomic::Ordering::Relaxed);
        let used = [usage.messages, usage.bytes, connects, usage.calls];
        for (at, (rate, meter)) in self.shared_rates().into_iter().enumerate() {
            let limited = usage.limited[SHARED[at] as usize].1;
            let (used_before, limited_before) = std::mem::replace(&mut told.counted[at], (used[at], limited));
            let demand = &mut told.demands[at];
            if !rate.is_set() {
                (*demand, told.waited[at]) = (Demand::default(), 0.0);
                continue;
            }
            let per_second = used[at].saturating_sub(used_before) as f64 / elapsed.as_secs_f64();
            let waiting = match SHARED[at] {
                Quota::Messages | Quota::Bytes => meter.waiting(rate, now),
                // Those that are refused come again at a pace of their own: their number says less
                // than that there are some.
                _ => f64::from(u8::from(limited > limited_before)),
            };
            let waited = std::mem::replace(&mut told.waited[at], waiting);
            let used = per_second.max(f64::midpoint(demand.used, per_second));
            let used = if used < 0.001 { 0.0 } else { used };
            let used_burst = meter.used_burst(rate, now);
            *demand = Demand { used, waiting: f64::midpoint(waiting, waited), used_burst, part: told.fractions[at] };
        }
        told.demands
    }

    fn set_others(&self, others: &[&Record]) {
        let sum = |count: fn(&Counts) -> u64| {
            others.iter().fold(0, |sum: u64, record| sum.saturating_add(count(&record.counts)))
        };
        self.max_connections.set_others(sum(|counts| counts.connections));
        self.max_streams.set_others(sum(|counts| counts.streams));
        self.max_sessions.set_others(sum(|counts| counts.sessions));
        self.max_subscriptions.set_others(sum(|counts| counts.subscriptions));
    }

    /// Takes the parts of this process that follow from the demands of all.
    fn share(&self, others: &[&Record], processes: usize, now: Moment) {
        let own = self.told.lock().demands;
        let mut demands = Vec::with_capacity(others.len());
        let (mut fractions, mut used_bursts, mut rooms) = (ALL, NONE, ALL);
        for (at, (rate, _)) in self.shared_rates().into_iter().enumerate() {
            if rate.is_set() {
                demands.clear();
                demands.extend(others.iter().map(|record| record.demands[at]));
                fractions[at] = parts::fraction(rate.limit(), own[at], &demands, processes);
                // A process without the tenant has all of its burst.
                let used: f64 = demands.iter().map(|demand| demand.used_burst).sum();
                used_bursts[at] = used / (processes - 1).max(1) as f64;
                rooms[at] = parts::room(&demands, processes);
            }
        }
        self.go_to(fractions, rooms, used_bursts, now);
    }

    /// Goes towards these parts, as far as there is room. Of the burst of the others, `used_bursts`
    /// are used.
    fn go_to(&self, fractions: Fractions, rooms: Fractions, used_bursts: Fractions, now: Moment) {
        let mut told = self.told.lock();
        let old = told.fractions;
        let is_set = std::mem::replace(&mut told.is_set, true);
        let new = std::array::from_fn(|at| match is_set {
            true => parts::approach(old[at], fractions[at], rooms[at]),
            false => fractions[at].min(rooms[at]),
        });
        let differs = |(asked, new): (&f64, &f64)| (asked / new).max(new / asked) > ASKS_AGAIN;
        let asks_again = told.asked.iter().zip(&new).take(PACED).any(differs);
        if asks_again {
            told.asked = new;
        }
        told.fractions = new;
        drop(told);
        for (at, (rate, meter)) in self.shared_rates().into_iter().enumerate() {
            if old[at] != new[at] {
                rate.set_fraction(new[at]);
                meter.convert(rate, (old[at], new[at]), used_bursts[at], now);
            }
        }
        if asks_again {
            self.ask_again();
        }
    }
}

/// The use of the other processes of a fleet.
#[derive(Debug, Default)]
pub struct Fleet(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// Time of the last exchange; `None` before the first one, and without a fleet.
    at: Option<Moment>,
    /// The tenants of each other process.
    others: Vec<HashMap<Box<str>, Record>>,
}

impl Heard {
    fn is_known(&self, now: Moment) -> bool {
        self.at.is_some_and(|at| at.until(now) <= HOLD)
    }

    fn of(&self, tenant: &str, now: Moment) -> Vec<&Record> {
        let others = self.others.iter().filter(|_| self.is_known(now));
        others.filter_map(|records| records.get(tenant)).collect()
    }

    fn share(&self, tenant: &str, meter: &TenantMeter, now: Moment) {
        let processes = self.others.len() + 1;
        let others = self.of(tenant, now);
        meter.set_others(&others);
        match self.is_known(now) {
            true => meter.share(&others, processes, now),
            // Bursts of others count as used.
            false => meter.go_to([1.0 / processes as f64; SHARED.len()], ALL, ALL, now),
        }
    }
}

impl Fleet {
    /// Returns the report of this process, and the number of tenants that have no room in it.
    /// `kept` returns the numbers of sessions and of subscriptions of a tenant.
    pub fn tell<'a>(
        &self,
        tenants: impl Iterator<Item = (&'a str, &'a TenantMeter)>,
        kept: impl Fn(&str) -> (usize, usize),
        now: Moment,
    ) -> (Vec<u8>, usize) {
        let mut writer = Writer::new();
        for (tenant, meter) in tenants {
            if meter.is_shared() {
                writer.add(tenant, &meter.record(kept(tenant), now));
            }
        }
        let left_out = writer.left_out;
        (writer.finish(), left_out)
    }

    /// Takes the reports of the other processes. Returns the number of those that cannot be read:
    /// they count as processes without tenants.
    pub fn hear<'a>(
        &self,
        reports: &[Vec<u8>],
        tenants: impl Iterator<Item = (&'a str, &'a TenantMeter)>,
        now: Moment,
    ) -> usize {
        let read: Vec<_> = reports.iter().map(|report| report::read(report)).collect();
        let unread = read.iter().filter(|records| records.is_none()).count();
        let mut heard = self.0.lock();
        *heard = Heard { at: Some(now), others: read.into_iter().map(Option::unwrap_or_default).collect() };
        tenants.for_each(|(tenant, meter)| heard.share(tenant, meter, now));
        unread
    }

    /// Goes on without an exchange.
    pub fn miss<'a>(&self, tenants: impl Iterator<Item = (&'a str, &'a TenantMeter)>, now: Moment) {
        let heard = self.0.lock();
        if heard.at.is_some() {
            tenants.for_each(|(tenant, meter)| heard.share(tenant, meter, now));
        }
    }

    /// Shares the limits of a tenant that comes into use in this process.
    pub fn join(&self, tenant: &str, meter: &TenantMeter, now: Moment) {
        let heard = self.0.lock();
        if heard.at.is_some() {
            heard.share(tenant, meter, now);
        }
    }

    /// Adds the use of the other processes to that of this one, as far as they told it: of tenants
    /// with limits. `None` when the tenant is in use nowhere.
    pub fn add_others(&self, tenant: &str, own: Option<Usage>, now: Moment) -> Option<Usage> {
        let heard = self.0.lock();
        heard.of(tenant, now).into_iter().fold(own, |sum, record| {
            let mut sum = sum.unwrap_or_else(Usage::none);
            sum.processes += 1;
            let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
            add(&mut sum.connections, record.counts.connections);
            add(&mut sum.streams, record.counts.streams);
            let [messages, bytes, calls] = record.totals;
            add(&mut sum.messages, messages);
            add(&mut sum.bytes, bytes);
            add(&mut sum.calls, calls);
            sum.limited.iter_mut().zip(record.limited).for_each(|((_, sum), count)| add(sum, count));
            Some(sum)
        })
    }
}
