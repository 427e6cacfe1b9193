//! Lock of the log: only one process opens it.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::recover::OpenError;

/// Held until dropped; the system releases it when the process dies.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let file = File::create(&path).map_err(|error| OpenError::io("open", &path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(dir.to_owned())),
            Err(error) => Err(OpenError::io("lock", &path, &error.into())),
        }
    }
}
