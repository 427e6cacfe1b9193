//! Memory that many holders share, in bytes: a counter with a ceiling, and amounts that are
//! returned to it when they are dropped.
//!
//! A budget counts; it allocates nothing. A holder acquires an amount before it allocates, and a
//! part of the process that is refused answers as its protocol can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A ceiling on the memory of one part of the process. Cheap to clone; clones share the counter.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    part: &'static str,
    capacity: usize,
    held: AtomicUsize,
}

/// The refusal of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory for {part} is used up ({capacity} bytes, a share of `memory.max_bytes`)")]
pub struct Full {
    /// Name of the part.
    pub part: &'static str,
    /// Its ceiling, in bytes.
    pub capacity: usize,
}

impl Budget {
    /// A budget of `capacity` bytes; `part` names it in errors.
    pub fn new(part: &'static str, capacity: usize) -> Self {
        Self(Arc::new(Counter { part, capacity, held: AtomicUsize::new(0) }))
    }

    /// Acquires an amount.
    ///
    /// # Errors
    /// [`Full`]; nothing is acquired then.
    pub fn acquire(&self, bytes: usize) -> Result<Held, Full> {
        let mut held = self.hold();
        held.grow(bytes).map(|()| held)
    }

    /// Returns an amount of 0 bytes, to grow.
    pub fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }

    /// Returns the sum of all amounts.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Returns the ceiling.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Returns the name of the part.
    pub fn part(&self) -> &'static str {
        self.0.part
    }
}

/// An amount of a budget, returned to it on drop.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    bytes: usize,
}

impl Held {
    /// Returns the amount.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds to the amount.
    ///
    /// # Errors
    /// [`Full`]; the amount is then as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let Counter { part, capacity, held } = &*self.budget.0;
        let more = |held: usize| held.checked_add(bytes).filter(|sum| sum <= capacity);
        match held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Full { part, capacity: *capacity }),
        }
    }

    /// Returns a part of the amount to the budget, at most all of it.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.0.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Splits a part off the amount, at most all of it: an amount of its own.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes }
    }

    /// Grows or shrinks the amount to `bytes`.
    ///
    /// # Errors
    /// [`Full`]; the amount is then as it was.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.bytes - bytes);
                Ok(())
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_dropped_can_be_acquired_again() {
        let budget = Budget::new("tests", 100);
        let mut first = budget.acquire(60).unwrap();
        assert_eq!(budget.acquire(41).unwrap_err(), Full { part: "tests", capacity: 100 });
        assert_eq!(budget.held(), 60, "a refusal acquires nothing");
        first.grow(40).unwrap();
        assert!(first.grow(1).is_err() && first.grow(usize::MAX).is_err());
        first.resize(10).unwrap();
        assert_eq!((first.bytes(), budget.held()), (10, 10));
        let part = first.split(4);
        assert_eq!((first.bytes(), part.bytes(), budget.held()), (6, 4, 10));
        drop(part);
        assert_eq!(budget.held(), 6);
        first.shrink(1_000);
        assert_eq!(budget.held(), 0, "no more is returned than was acquired");
        drop(first);
        assert!(budget.acquire(100).is_ok());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn many_threads_never_hold_more_than_the_ceiling() {
        let budget = Budget::new("tests", 1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for bytes in 0..2_000 {
                        let held = budget.acquire(bytes % 700);
                        assert!(budget.held() <= 1_000);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
    }
}
