//! Tickets of changes: numbers whose changes become durable, and the tasks that wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// Tickets of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    durable: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// Tickets that are not durable.
    open: BTreeSet<u64>,
    wakers: BTreeMap<u64, Vec<Waker>>,
}

impl Tickets {
    /// Returns the next ticket.
    pub(crate) fn issue(&self) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let ticket = state.last;
        state.open.insert(ticket);
        ticket
    }

    /// The server has the changes of a ticket.
    pub(crate) fn done(&self, ticket: u64) {
        let mut state = self.state.lock();
        state.open.remove(&ticket);
        let woken = self.advance(&mut state);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    fn advance(&self, state: &mut State) -> Vec<Waker> {
        let durable = state.open.first().map_or(state.last, |ticket| ticket - 1);
        self.durable.store(durable, Ordering::Release);
        let rest = state.wakers.split_off(&(durable + 1));
        std::mem::replace(&mut state.wakers, rest).into_values().flatten().collect()
    }

    /// The highest ticket up to which all are durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Wakes a task when a ticket is durable.
    pub(crate) fn wake(&self, ticket: u64, waker: &Waker) {
        let mut state = self.state.lock();
        if ticket <= self.durable() {
            drop(state);
            waker.wake_by_ref();
            return;
        }
        let wakers = state.wakers.entry(ticket).or_default();
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_ticket_is_durable_when_every_earlier_one_is() {
        let (tickets, count) = (Tickets::default(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let (first, second) = (tickets.issue(), tickets.issue());
        tickets.wake(second, &waker);
        tickets.wake(second, &waker);
        tickets.done(second);
        assert_eq!((tickets.durable(), count.0.load(Ordering::Relaxed)), (0, 0));
        tickets.done(first);
        assert_eq!((tickets.durable(), count.0.load(Ordering::Relaxed)), (second, 1));
        tickets.wake(first, &waker);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
