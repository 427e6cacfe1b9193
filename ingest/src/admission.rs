//! The limit on the devices of a tenant.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use model::DeviceKey;
use parking_lot::Mutex;

use crate::decode::{Class, Refusal};

/// Hashes of ids: a million devices take megabytes rather than a hundred. A new device with the
/// hash of another is admitted without being counted; the key of the hashes is secret, so that
/// a device cannot choose one that meets another.
type Ids = HashSet<u64, foldhash::fast::RandomState>;

/// The devices of each tenant that have sent a message. Consulted once for each connection and
/// device, not for each message.
#[derive(Debug)]
pub(crate) struct Admission {
    /// 0 means no limit, and no device is remembered.
    max_devices: usize,
    key: RandomState,
    known: Mutex<HashMap<Arc<str>, Ids, foldhash::fast::RandomState>>,
}

impl Admission {
    pub(crate) fn new(max_devices: usize) -> Self {
        Self { max_devices, key: RandomState::new(), known: Mutex::default() }
    }

    /// Admits a device that is known, or new while its tenant is below the limit.
    pub(crate) fn admit(&self, device: &DeviceKey) -> Result<(), Refusal> {
        if self.max_devices == 0 {
            return Ok(());
        }
        let mut known = self.known.lock();
        let ids = known.entry(Arc::clone(&device.tenant)).or_default();
        let id = self.key.hash_one(&device.id);
        if ids.contains(&id) {
            return Ok(());
        }
        if ids.len() >= self.max_devices {
            let reason = format!(
                "device {} is refused: the tenant has reached its limit of {} devices",
                device.id, self.max_devices
            );
            return Err(Refusal::new(Class::Admission, reason));
        }
        ids.insert(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_beyond_the_limit_is_refused_and_known_devices_still_send() {
        let admission = Admission::new(2);
        let device = |tenant: &str, id: &str| DeviceKey::new(tenant, id).unwrap();
        assert_eq!(admission.admit(&device("a", "1")), Ok(()));
        assert_eq!(admission.admit(&device("a", "2")), Ok(()));
        assert_eq!(admission.admit(&device("a", "3")).unwrap_err().class, Class::Admission);
        assert_eq!(admission.admit(&device("a", "1")), Ok(()));
        assert_eq!(admission.admit(&device("b", "3")), Ok(()), "the limit counts for each tenant");
    }
}
