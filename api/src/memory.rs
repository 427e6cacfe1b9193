//! The memory of an answer while it is built.

use model::{Budget, Held};
use tonic::Status;

use crate::errors;

/// A call may hold this part of the memory for all calls.
const SHARE: usize = 4;
/// Amounts are acquired from the budget in steps of this many bytes.
const STEP: usize = 64 << 10;

/// Returns the memory that one call may hold.
pub(crate) fn share(budget: &Budget) -> usize {
    budget.capacity() / SHARE
}

/// Counts the memory that one call holds. It is returned when the meter is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    held: Held,
    /// Acquired and not used.
    left: usize,
    most: usize,
}

impl Meter {
    pub(crate) fn new(budget: &Budget) -> Self {
        Self { held: budget.hold(), left: 0, most: share(budget) }
    }

    /// True when half of what one call may hold is used: a page ends there.
    pub(crate) fn is_half_used(&self) -> bool {
        self.held.bytes() - self.left >= self.most / 2
    }

    /// Counts memory that is about to be allocated. `field` is the field of the request that
    /// decides how much an answer takes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the call takes too much alone; RESOURCE_EXHAUSTED when all calls
    /// together do.
    pub(crate) fn take(&mut self, bytes: usize, field: &str) -> Result<(), Status> {
        if let Some(left) = self.left.checked_sub(bytes) {
            self.left = left;
            return Ok(());
        }
        let step = bytes.max(STEP);
        if self.held.bytes() + step > self.most.max(STEP) {
            let most = self.most;
            let hint = format!("makes an answer that takes more than {most} bytes of memory: ask for less at one time");
            return Err(errors::invalid(field, hint));
        }
        self.held.grow(step).map_err(errors::memory)?;
        self.left += step - bytes;
        Ok(())
    }
}
