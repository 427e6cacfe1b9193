//! The meter of a device and its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::meter::{Count, Meter, Moment};
use super::{Exceeded, Quota, TenantMeter};

/// A device in use, shared by its connections.
#[derive(Debug)]
pub(super) struct Device {
    id: Arc<str>,
    tenant: Arc<TenantMeter>,
    messages: Meter,
    bytes: Meter,
    connections: Count,
    /// Twice the version of its registration that was read last, and one more while it is in
    /// quarantine.
    quarantine: AtomicU64,
}

impl Device {
    pub(super) fn reset(&self) {
        self.messages.reset();
        self.bytes.reset();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut devices = self.tenant.devices.lock();
        // Another one may have come in its place meanwhile.
        if devices.get(&self.id).is_some_and(|device| device.strong_count() == 0) {
            devices.remove(&self.id);
        }
    }
}

/// The meter of a device. Its clones share their use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeviceMeter(Arc<Device>);

/// The time that a message has to wait before it is handled, because of a limit. Pass it to
/// [`DeviceMeter::cancel`] when the message is not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The end of the wait.
    pub until: Moment,
    /// The limit with the longest wait.
    pub quota: Quota,
    bytes: u64,
    epoch: u64,
}

/// A kind of things that a door keeps for a tenant and counts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Sessions, connected or not.
    Sessions,
    /// Subscriptions of all sessions.
    Subscriptions,
    /// Retained messages.
    RetainedMessages,
}

impl Kept {
    /// Returns its limit.
    pub fn quota(self) -> Quota {
        match self {
            Self::Sessions => Quota::Sessions,
            Self::Subscriptions => Quota::Subscriptions,
            Self::RetainedMessages => Quota::RetainedMessages,
        }
    }
}

impl TenantMeter {
    /// Returns the meter of a device.
    pub fn device(self: &Arc<Self>, id: &str) -> DeviceMeter {
        let mut devices = self.devices.lock();
        if let Some(device) = devices.get(id).and_then(std::sync::Weak::upgrade) {
            return DeviceMeter(device);
        }
        let device = Arc::new(Device {
            id: id.into(),
            tenant: Arc::clone(self),
            messages: Meter::default(),
            bytes: Meter::default(),
            connections: Count::default(),
            quarantine: AtomicU64::new(0),
        });
        devices.insert(Arc::clone(&device.id), Arc::downgrade(&device));
        DeviceMeter(device)
    }
}

impl DeviceMeter {
    pub(super) fn tenant(&self) -> &TenantMeter {
        &self.0.tenant
    }

    /// Notes whether the device is in quarantine in this version of its registration. A version
    /// older than one that was noted changes nothing.
    pub fn set_quarantine(&self, version: u64, is_in: bool) {
        self.0.quarantine.fetch_max(version << 1 | u64::from(is_in), Ordering::Relaxed);
    }

    /// True when the readings of the device are held until it is adopted.
    pub fn is_quarantined(&self) -> bool {
        self.0.tenant.quarantines.load(Ordering::Relaxed) && self.0.quarantine.load(Ordering::Relaxed) & 1 == 1
    }

    /// True when messages may have to wait. A message costs no more than this while there is no
    /// limit of messages or bytes.
    pub fn paces(&self) -> bool {
        self.0.tenant.paces.any()
    }

    /// Takes room for a message, and returns the wait for it when there is none now. Connections
    /// are served in the order of their calls. Allocates nothing.
    pub fn reserve(&self, bytes: usize, now: Moment) -> Option<Wait> {
        let tenant = &*self.0.tenant;
        let paces = &tenant.paces;
        let epoch = paces.epoch();
        let bytes = bytes as u64;
        let waits = [
            tenant.messages.reserve(&paces.messages, 1, now),
            tenant.bytes.reserve(&paces.bytes, bytes, now),
            self.0.messages.reserve(&paces.device_messages, 1, now),
            self.0.bytes.reserve(&paces.device_bytes, bytes, now),
        ];
        if waits == [Duration::ZERO; 4] {
            return None;
        }
        let quotas = [Quota::Messages, Quota::Bytes, Quota::DeviceMessages, Quota::DeviceBytes];
        let longest = (1..waits.len()).fold(0, |most, at| if waits[at] > waits[most] { at } else { most });
        tenant.limited(quotas[longest]);
        Some(Wait { until: now + waits[longest], quota: quotas[longest], bytes, epoch })
    }

    /// True when the limits, or the part of them that this process has, have changed since:
    /// [`cancel`](Self::cancel) the wait and reserve again.
    pub fn is_outdated(&self, wait: &Wait) -> bool {
        wait.epoch != self.0.tenant.paces.epoch()
    }

    /// Gives back the room of a message that is not handled. After a change of the limits there is
    /// none to give back.
    pub fn cancel(&self, wait: Wait) {
        let tenant = &*self.0.tenant;
        let paces = &tenant.paces;
        if !paces.has_limits_of(wait.epoch) {
            return;
        }
        tenant.messages.cancel(&paces.messages, 1);
        tenant.bytes.cancel(&paces.bytes, wait.bytes);
        self.0.messages.cancel(&paces.device_messages, 1);
        self.0.bytes.cancel(&paces.device_bytes, wait.bytes);
    }

    /// True when a door that holds this many sessions, subscriptions or retained messages of the
    /// tenant may add one.
    pub fn has_room(&self, kept: Kept, held: usize) -> bool {
        let tenant = &*self.0.tenant;
        let most = match kept {
            Kept::Sessions => &tenant.max_sessions,
            Kept::Subscriptions => &tenant.max_subscriptions,
            Kept::RetainedMessages => &tenant.max_retained_messages,
        };
        let has_room = (held as u64) < most.here();
        if !has_room {
            tenant.limited(kept.quota());
        }
        has_room
    }

    /// Counts messages that were handled, and their bytes.
    pub fn count(&self, messages: u64, bytes: u64) {
        let counted = &self.0.tenant.counted;
        counted.messages.fetch_add(messages, Ordering::Relaxed);
        counted.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Admits a connection. One that takes over another, which is about to close, is admitted
    /// beyond the maximum counts: its device must not wait until the half-open one is found out.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn connect(&self, takes_over: bool, now: Moment) -> Result<ConnectionPermit, Exceeded> {
        let tenant = &*self.0.tenant;
        let connects = &tenant.connects;
        let cost = connects.meter.take(&connects.rate, 1, now).map_err(|wait| {
            tenant.exceeded(Exceeded { quota: Quota::Connects, limit: connects.rate.limit(), retry_after: Some(wait) })
        })?;
        let full = |quota, limit| {
            connects.meter.give_back(cost);
            tenant.exceeded(Exceeded { quota, limit, retry_after: None })
        };
        let unless = |most: u64| if takes_over { u64::MAX } else { most };
        let most = tenant.max_device_connections.get();
        if !self.0.connections.add_within(unless(most)) {
            return Err(full(Quota::DeviceConnections, most));
        }
        let most = &tenant.max_connections;
        if !tenant.connections.add_within(unless(most.here())) {
            self.0.connections.remove();
            return Err(full(Quota::Connections, most.get()));
        }
        tenant.counted.connects.fetch_add(1, Ordering::Relaxed);
        Ok(ConnectionPermit(Arc::clone(&self.0)))
    }
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Device>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.remove();
        self.0.tenant.connections.remove();
    }
}
