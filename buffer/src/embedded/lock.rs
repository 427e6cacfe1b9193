//! Locks of files that one process uses at a time, such as those of the log.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::recover::OpenError;

/// Time for another holder of the lock to end: a process that is being stopped, or a child of this
/// one that does not run its program yet, and until then has what the parent had open.
const PATIENCE: Duration = Duration::from_millis(500);
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock of a file, which is held until the file is closed, or waits for it for a moment:
/// another holder may be a process that is being stopped. False when it keeps the lock.
///
/// # Errors
/// That of the file system, when it has no locks.
pub fn lock_within(file: &File) -> std::io::Result<bool> {
    lock_with(file, std::thread::park_timeout)
}

fn lock_with(file: &File, mut pause: impl FnMut(Duration)) -> std::io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => pause(PAUSE),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Held until dropped; the system releases it when the process dies.
#[derive(Debug)]
pub(super) struct Lock(#[cfg_attr(not(test), expect(dead_code, reason = "held, not used"))] File);

impl Lock {
    /// Takes the lock, or waits for it for a moment.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        Self::take_with(dir, std::thread::park_timeout)
    }

    fn take_with(dir: &Path, pause: impl FnMut(Duration)) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let file = File::create(&path).map_err(|error| OpenError::io("open", &path, &error))?;
        match lock_with(&file, pause) {
            Ok(true) => Ok(Self(file)),
            Ok(false) => Err(OpenError::Locked(dir.to_owned())),
            Err(error) => Err(OpenError::io("lock", &path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_child_holds_until_its_program_runs_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        // As a fork does: both have the same open file, which is locked until both have closed it.
        let mut child = Some(first.0.try_clone().unwrap());
        drop(first);
        let mut pauses = 0;
        let pause = |_| {
            pauses += 1;
            if pauses == 3 {
                child = None;
            }
        };
        Lock::take_with(dir.path(), pause).unwrap();
        assert_eq!(pauses, 3);
    }
}
