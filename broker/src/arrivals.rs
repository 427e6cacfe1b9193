//! The order in which connections read what has arrived.
//!
//! Sockets become readable in the order in which packets arrive, and their tasks are woken in this
//! order. The runtime keeps the task that was woken last in a place of its own and runs it first,
//! so that the second of two packets would have its effect before the first one. The connection
//! that was woken last goes to the end of the queue once, when others were woken before it and have
//! not read yet. Then all of them read in the order of their packets; on several threads, begin to
//! read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Connections whose sockets have become readable.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    /// Number of the last wake-up.
    last: AtomicU64,
    /// Connections that were woken and have not read.
    waiting: AtomicUsize,
}

/// The place of one connection among them.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    all: Arc<Arrivals>,
    /// Number of its wake-up; 0 when it has read since.
    number: AtomicU64,
}

impl Arrival {
    pub(crate) fn new(all: &Arc<Arrivals>) -> Self {
        Self { all: Arc::clone(all), number: AtomicU64::new(0) }
    }

    /// Notes that its socket has become readable.
    pub(crate) fn note(&self) {
        let number = self.all.last.fetch_add(1, Ordering::Relaxed) + 1;
        if self.number.swap(number, Ordering::Relaxed) == 0 {
            self.all.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True when it was woken last, and others before it have not read.
    pub(crate) fn is_ahead(&self) -> bool {
        let number = self.number.load(Ordering::Relaxed);
        number != 0 && number == self.all.last.load(Ordering::Relaxed) && self.all.waiting.load(Ordering::Relaxed) > 1
    }

    /// Notes that it reads.
    pub(crate) fn begin(&self) {
        if self.number.load(Ordering::Relaxed) != 0 && self.number.swap(0, Ordering::Relaxed) != 0 {
            self.all.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_woken_last_lets_those_before_it_read() {
        let all = Arc::<Arrivals>::default();
        let [a, b, c] = [(); 3].map(|()| Arrival::new(&all));
        a.note();
        assert!(!a.is_ahead(), "it is alone");
        b.note();
        b.note();
        assert!(!a.is_ahead() && b.is_ahead() && !c.is_ahead());
        a.begin();
        a.begin();
        assert!(!b.is_ahead());
        b.begin();
        a.note();
        drop(a);
        c.note();
        assert!(!c.is_ahead(), "a connection that has ended does not wait");
        c.begin();
        assert_eq!(all.waiting.load(Ordering::Relaxed), 0);
    }
}
