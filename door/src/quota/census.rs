//! The devices of a tenant and their series: pairs of a device and a value name. Known ones go on;
//! a new one is admitted while there are fewer than the limit.
//!
//! They are kept as hashes of 64 bits, devices only while devices are limited and series only while
//! series are. Those of earlier starts and of other processes are read from the latest states
//! ([`TenantMeter::learn`]); until that is done once, every new one is admitted, so that none that
//! was known before is refused.

use std::hash::BuildHasher;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::{DefaultHashBuilder, HashSet};
use parking_lot::Mutex;

use super::tenant::Most;
use super::{DeviceMeter, Exceeded, Limits, Quota, TenantMeter};

/// Devices or series of a tenant that a process remembers. A larger limit cannot be set.
pub const MAX_COUNTED: u64 = 1_000_000;

/// The devices and series of a tenant.
#[derive(Debug, Default)]
pub(super) struct Census {
    is_limited: AtomicBool,
    max_devices: Most,
    max_series: Most,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    hasher: DefaultHashBuilder,
    devices: HashSet<u64>,
    series: HashSet<u64>,
    /// Series of earlier starts are among them.
    is_whole: bool,
    /// Times that it began anew: what was learnt before counts no more.
    begun: u64,
}

impl Known {
    fn device(&self, device: &str) -> u64 {
        self.hasher.hash_one(device)
    }

    fn series(&self, device: &str, name: &str) -> u64 {
        self.hasher.hash_one((device, name))
    }

    fn begin_anew(&mut self) {
        *self = Self { begun: self.begun + 1, ..Self::default() };
    }
}

/// Remembers new ones, while they are not too many.
fn extend(known: &mut HashSet<u64>, new: Vec<u64>) {
    if (known.len() + new.len()) as u64 <= MAX_COUNTED {
        known.extend(new);
    }
}

impl Census {
    pub(super) fn set(&self, limits: &Limits) {
        let mut known = self.known.lock();
        let (devices, series) = self.limited();
        let begins = (limits.devices.is_some() && !devices) || (limits.series.is_some() && !series);
        self.max_devices.set(limits.devices);
        self.max_series.set(limits.series);
        let is_limited = limits.devices.is_some() || limits.series.is_some();
        self.is_limited.store(is_limited, Ordering::Relaxed);
        if begins || !is_limited {
            known.begin_anew();
        }
        if limits.devices.is_none() {
            known.devices = HashSet::default();
        }
        if limits.series.is_none() {
            known.series = HashSet::default();
        }
    }

    /// Whether devices and whether series are limited. Changes only under the lock.
    fn limited(&self) -> (bool, bool) {
        (self.max_devices.get() < u64::MAX, self.max_series.get() < u64::MAX)
    }

    pub(super) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    /// Counts of devices and series, once they are whole; 0 of those without a limit.
    pub(super) fn counts(&self) -> Option<(u64, u64)> {
        let known = self.known.lock();
        (self.is_limited() && known.is_whole).then(|| (known.devices.len() as u64, known.series.len() as u64))
    }

    /// Adds what is new of some readings, all or nothing.
    fn admit<'a, N>(&self, readings: impl Iterator<Item = (&'a str, N)>) -> Result<(), (Quota, u64)>
    where
        N: Iterator<Item = &'a str>,
    {
        let mut known = self.known.lock();
        let (counts_devices, counts_series) = self.limited();
        let (mut devices, mut series) = (Vec::new(), Vec::new());
        for (device, names) in readings {
            if counts_devices {
                let hash = known.device(device);
                if !known.devices.contains(&hash) {
                    devices.push(hash);
                }
            }
            if counts_series {
                let hashes = names.map(|name| known.series(device, name));
                series.extend(hashes.filter(|hash| !known.series.contains(hash)));
            }
        }
        for new in [&mut devices, &mut series] {
            new.sort_unstable();
            new.dedup();
        }
        if known.is_whole {
            let over = |held: usize, new: usize, most: u64| new > 0 && (held + new) as u64 > most;
            let (most_devices, most_series) = (self.max_devices.get(), self.max_series.get());
            if over(known.devices.len(), devices.len(), most_devices) {
                return Err((Quota::Devices, most_devices));
            }
            if over(known.series.len(), series.len(), most_series) {
                return Err((Quota::Series, most_series));
            }
        }
        extend(&mut known.devices, devices);
        extend(&mut known.series, series);
        Ok(())
    }
}

impl TenantMeter {
    /// True while new devices or series may be refused.
    pub fn counts_series(&self) -> bool {
        self.census.is_limited()
    }

    /// True once the devices of earlier starts were read.
    pub fn is_counted(&self) -> bool {
        self.census.counts().is_some()
    }

    /// Number of times that the count began anew, for [`TenantMeter::learnt_all`].
    pub fn count_begun(&self) -> u64 {
        self.census.known.lock().begun
    }

    /// Adds a device that the latest states have, with its value names. False when there are more
    /// than can be counted: call [`TenantMeter::forget_series`] then.
    pub fn learn<'a>(&self, device: &str, names: impl Iterator<Item = &'a str>) -> bool {
        let mut known = self.census.known.lock();
        let (counts_devices, counts_series) = self.census.limited();
        if counts_devices {
            let hash = known.device(device);
            known.devices.insert(hash);
        }
        if counts_series {
            for name in names {
                let hash = known.series(device, name);
                known.series.insert(hash);
            }
        }
        known.devices.len().max(known.series.len()) as u64 <= MAX_COUNTED
    }

    /// Declares that all devices of the latest states are known: new ones are refused beyond the
    /// limits from now on. No effect when the count began anew since it had `begun`.
    pub fn learnt_all(&self, begun: u64) {
        let mut known = self.census.known.lock();
        if known.begun == begun {
            known.is_whole = self.census.is_limited();
        }
    }

    /// Forgets them: none is refused until they are read again.
    pub fn forget_series(&self) {
        let mut known = self.census.known.lock();
        *known = Known { begun: known.begun, ..Known::default() };
    }

    /// Devices and series that are remembered.
    pub fn remembered(&self) -> usize {
        let known = self.census.known.lock();
        known.devices.len() + known.series.len()
    }
}

impl DeviceMeter {
    /// True while readings have to be [admitted](Self::admit) or [stored](Self::store). A message
    /// costs no more than this while there is no limit.
    pub fn checks_readings(&self) -> bool {
        self.tenant().checks_readings.load(Ordering::Relaxed)
    }

    /// True while readings have to be [admitted](Self::admit).
    pub fn counts_series(&self) -> bool {
        self.tenant().counts_series()
    }

    /// Admits the readings of a message, each as its device and value names: all or none. Known
    /// devices and series are always admitted, and cost a lookup each.
    ///
    /// # Errors
    /// [`Exceeded`] when one is new, and there are as many as may be.
    pub fn admit<'a, N>(&self, readings: impl Iterator<Item = (&'a str, N)>) -> Result<(), Exceeded>
    where
        N: Iterator<Item = &'a str>,
    {
        let tenant = self.tenant();
        let admitted = tenant.census.admit(readings);
        admitted.map_err(|(quota, limit)| tenant.exceeded(Exceeded { quota, limit, retry_after: None }))
    }
}

/// True for a limit that can be counted.
pub(super) fn countable(limit: Option<NonZeroU64>) -> bool {
    limit.is_none_or(|limit| limit.get() <= MAX_COUNTED)
}
