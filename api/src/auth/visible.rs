//! The devices that a caller sees.

use std::sync::Arc;

use identity::DeviceReach;
use model::DeviceKey;
use tonic::Status;

use crate::{errors, names};

/// The devices of its tenant that a caller sees, in what a call ranges over.
#[derive(Debug, Clone)]
pub(crate) struct Visible {
    reach: DeviceReach,
    permission: Arc<str>,
}

impl Visible {
    pub(super) fn new(reach: DeviceReach, permission: Arc<str>) -> Self {
        Self { reach, permission }
    }

    /// The devices of its groups, if it is bound to some.
    pub(crate) fn reach(&self) -> &DeviceReach {
        &self.reach
    }

    /// True when it sees all of its tenant.
    pub(crate) fn is_everything(&self) -> bool {
        self.reach.is_everything()
    }

    /// True for a device that it sees.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.reach.has(id)
    }

    /// Refuses a device that it does not see. The answer is that for one of another tenant.
    pub(crate) fn check(&self, device: &DeviceKey) -> Result<(), Status> {
        if self.has(&device.id) {
            return Ok(());
        }
        Err(self.denied(&names::device(&device.tenant, &device.id)))
    }

    /// The answer for a name that the caller does not see, whether it exists or not.
    pub(crate) fn denied(&self, name: &str) -> Status {
        errors::denied(&self.permission, name)
    }
}
