//! The meter of a tenant.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::census::Census;
use super::device::Device;
use super::fleet::Told;
use super::meter::{Count, Meter, Rate};
use super::storage::Storage;
use super::{CHANGES_PER_MINUTE, DEVICE_CONNECTIONS, Exceeded, Limits, Quota};

/// All that a tenant does in this process, held to its limits.
#[derive(Debug, Default)]
pub struct TenantMeter {
    /// Limits of messages, for the tenant and for each device.
    pub(super) paces: Paces,
    pub(super) messages: Meter,
    pub(super) bytes: Meter,
    pub(super) connects: Limited,
    pub(super) calls: Limited,
    /// Changes of the tenant's own things; its rate is the same for all tenants.
    pub(super) changes: Limited,
    /// The rate of each key.
    pub(super) key_calls: Rate,
    pub(super) connections: Count,
    pub(super) max_connections: Most,
    pub(super) max_device_connections: Most,
    pub(super) max_sessions: Most,
    pub(super) max_subscriptions: Most,
    pub(super) max_retained_messages: Most,
    pub(super) streams: Count,
    pub(super) max_streams: Most,
    /// Devices in use. Those of a table of credentials stay between two connections.
    pub(super) devices: Mutex<HashMap<Arc<str>, Weak<Device>>>,
    pub(super) counted: Counted,
    pub(super) census: Census,
    /// Use that the other processes of a fleet were told of, and the part of the limits that
    /// this one has.
    pub(super) told: Mutex<Told>,
    pub(super) storage: Storage,
    /// True while devices, series or storage are limited.
    pub(super) checks_readings: AtomicBool,
    /// True while the readings of devices in quarantine are held.
    pub(super) quarantines: AtomicBool,
}

/// Rates of messages.
#[derive(Debug, Default)]
pub(super) struct Paces {
    /// True when one of the rates is set.
    any: AtomicBool,
    /// Counts of changes of the limits (upper half) and of the part of them that this process has
    /// (lower half): a connection that waits asks again after one.
    epoch: AtomicU64,
    pub(super) messages: Rate,
    pub(super) bytes: Rate,
    pub(super) device_messages: Rate,
    pub(super) device_bytes: Rate,
}

impl Paces {
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// True when the limits are those of an epoch.
    pub(super) fn has_limits_of(&self, epoch: u64) -> bool {
        (self.epoch() ^ epoch) >> PARTS == 0
    }
}

/// Limits of rates that are divided among the processes of a fleet, in the order in which they are
/// told.
pub(super) const SHARED: [Quota; 4] = [Quota::Messages, Quota::Bytes, Quota::Connects, Quota::Calls];
/// Bits of an epoch that count changes of the part of this process.
const PARTS: u32 = 32;

/// A rate and its use.
#[derive(Debug, Default)]
pub(super) struct Limited {
    pub(super) rate: Rate,
    pub(super) meter: Meter,
}

/// Maximum count.
#[derive(Debug)]
pub(super) struct Most {
    limit: AtomicU64,
    /// Count of the other processes of a fleet.
    others: AtomicU64,
}

impl Default for Most {
    fn default() -> Self {
        Self { limit: AtomicU64::new(u64::MAX), others: AtomicU64::new(0) }
    }
}

impl Most {
    pub(super) fn set(&self, limit: Option<NonZeroU64>) {
        self.limit.store(limit.map_or(u64::MAX, NonZeroU64::get), Ordering::Relaxed);
    }

    pub(super) fn set_others(&self, count: u64) {
        self.others.store(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn is_set(&self) -> bool {
        self.get() != u64::MAX
    }

    /// The maximum in this process.
    pub(super) fn here(&self) -> u64 {
        self.get().saturating_sub(self.others.load(Ordering::Relaxed))
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) limited: [AtomicU64; Quota::ALL.len()],
}

/// The use that a tenant made of a process since its start, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Processes whose use this is.
    pub processes: u64,
    /// Open connections.
    pub connections: u64,
    /// Open streams.
    pub streams: u64,
    /// Messages from devices.
    pub messages: u64,
    /// Their bytes, with topics and headers.
    pub bytes: u64,
    /// Calls that were admitted.
    pub calls: u64,
    /// Devices and series that are known, 0 of those without a limit; `None` while neither is
    /// limited, or they are not read yet.
    pub known: Option<(u64, u64)>,
    /// Bytes of the readings in the store and on their way there; `None` while storage is not
    /// limited, or the store was not asked yet.
    pub storage: Option<u64>,
    /// For each limit, the connections, calls or streams that were refused, or the times that a
    /// connection was paced.
    pub limited: [(Quota, u64); Quota::ALL.len()],
}

impl Usage {
    /// The use of no process.
    pub(super) fn none() -> Self {
        Self {
            processes: 0,
            connections: 0,
            streams: 0,
            messages: 0,
            bytes: 0,
            calls: 0,
            known: None,
            storage: None,
            limited: Quota::ALL.map(|quota| (quota, 0)),
        }
    }
}

impl TenantMeter {
    /// A meter with these limits.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let meter = Arc::new(Self::default());
        meter.changes.rate.set(NonZeroU64::new(CHANGES_PER_MINUTE / 60), NonZeroU64::new(CHANGES_PER_MINUTE));
        meter.set(limits);
        meter
    }

    /// Begins or ends to hold the readings of devices in quarantine.
    pub fn set_quarantines(&self, quarantines: bool) {
        self.quarantines.store(quarantines, Ordering::Relaxed);
    }

    /// Changes the limits. Each rate begins anew, with its whole burst.
    pub fn set(&self, limits: &Limits) {
        let Limits { messages_per_second, bytes_per_second, .. } = limits;
        let Limits { device_messages_per_second, device_bytes_per_second, .. } = limits;
        let paces = &self.paces;
        paces.messages.set(*messages_per_second, limits.message_burst);
        paces.bytes.set(*bytes_per_second, limits.byte_burst);
        paces.device_messages.set(*device_messages_per_second, limits.device_message_burst);
        paces.device_bytes.set(*device_bytes_per_second, limits.device_byte_burst);
        let rates = [&paces.messages, &paces.bytes, &paces.device_messages, &paces.device_bytes];
        paces.any.store(rates.iter().any(|rate| rate.is_set()), Ordering::Relaxed);
        self.connects.rate.set(limits.connects_per_second, limits.connect_burst);
        self.calls.rate.set(limits.calls_per_second, limits.call_burst);
        self.key_calls.set(limits.key_calls_per_second, limits.key_call_burst);
        self.max_connections.set(limits.connections);
        self.max_device_connections.set(limits.device_connections.or(NonZeroU64::new(DEVICE_CONNECTIONS)));
        self.max_streams.set(limits.streams);
        self.max_sessions.set(limits.sessions);
        self.max_subscriptions.set(limits.subscriptions);
        self.max_retained_messages.set(limits.retained_messages);
        self.census.set(limits);
        self.keep_fractions();
        self.storage.set(limits);
        self.checks_readings.store(self.census.is_limited() || self.storage.is_limited(), Ordering::Relaxed);
        for meter in [&self.messages, &self.bytes, &self.connects.meter, &self.calls.meter] {
            meter.reset();
        }
        // Dropped after the lock: the last one of a device locks the table.
        let devices: Vec<_> = self.devices.lock().values().filter_map(Weak::upgrade).collect();
        devices.iter().for_each(|device| device.reset());
        paces.epoch.fetch_add(1 << PARTS, Ordering::Release);
    }

    /// The rates that are limits of all processes together, with their meters.
    pub(super) fn shared_rates(&self) -> [(&Rate, &Meter); SHARED.len()] {
        [
            (&self.paces.messages, &self.messages),
            (&self.paces.bytes, &self.bytes),
            (&self.connects.rate, &self.connects.meter),
            (&self.calls.rate, &self.calls.meter),
        ]
    }

    /// Connections that wait ask again.
    pub(super) fn ask_again(&self) {
        self.paces.epoch.fetch_add(1, Ordering::Release);
    }

    fn keep_fractions(&self) {
        let fractions = self.told.lock().fractions();
        for ((rate, _), fraction) in self.shared_rates().into_iter().zip(fractions) {
            rate.set_fraction(fraction);
        }
    }

    /// Counts an event of a limit and returns it.
    pub(super) fn exceeded(&self, exceeded: Exceeded) -> Exceeded {
        self.limited(exceeded.quota);
        exceeded
    }

    pub(super) fn limited(&self, quota: Quota) {
        self.counted.limited[quota as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the use since the start.
    pub fn usage(&self) -> Usage {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            processes: 1,
            connections: self.connections.get(),
            streams: self.streams.get(),
            messages: read(&self.counted.messages),
            bytes: read(&self.counted.bytes),
            calls: read(&self.counted.calls),
            known: self.census.counts(),
            storage: self.storage.used(),
            limited: Quota::ALL.map(|quota| (quota, read(&self.counted.limited[quota as usize]))),
        }
    }
}
