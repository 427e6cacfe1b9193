//! How many devices a tenant may have.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use model::DeviceKey;
use parking_lot::Mutex;

use crate::decode::{Class, Refusal};

type Ids = HashSet<Arc<str>, foldhash::fast::RandomState>;

/// The devices of each tenant that have sent. Asked once per connection and device, not per message.
#[derive(Debug)]
pub(crate) struct Admission {
    /// 0: no limit, and nothing is remembered.
    max_devices: usize,
    known: Mutex<HashMap<Arc<str>, Ids, foldhash::fast::RandomState>>,
}

impl Admission {
    pub(crate) fn new(max_devices: usize) -> Self {
        Self { max_devices, known: Mutex::default() }
    }

    /// Takes a device, new or known, unless its tenant has as many as it may have.
    pub(crate) fn admit(&self, device: &DeviceKey) -> Result<(), Refusal> {
        if self.max_devices == 0 {
            return Ok(());
        }
        let mut known = self.known.lock();
        let ids = known.entry(Arc::clone(&device.tenant)).or_default();
        if ids.contains(&device.id) {
            return Ok(());
        }
        if ids.len() >= self.max_devices {
            let reason =
                format!("device {} would be one more than the {} this tenant may have", device.id, self.max_devices);
            return Err(Refusal::new(Class::Admission, reason));
        }
        ids.insert(Arc::clone(&device.id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_too_many_is_refused_and_known_ones_still_send() {
        let admission = Admission::new(2);
        let device = |tenant: &str, id: &str| DeviceKey::new(tenant, id).unwrap();
        assert_eq!(admission.admit(&device("a", "1")), Ok(()));
        assert_eq!(admission.admit(&device("a", "2")), Ok(()));
        assert_eq!(admission.admit(&device("a", "3")).unwrap_err().class, Class::Admission);
        assert_eq!(admission.admit(&device("a", "1")), Ok(()));
        assert_eq!(admission.admit(&device("b", "3")), Ok(()), "another tenant has its own");
    }
}
