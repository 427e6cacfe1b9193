//! Not more than a few lines of one cause in a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in the code that are said in each [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// How often each place in the code has spoken lately.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<HashMap<Identifier, Spoken>>);

#[derive(Debug)]
struct Spoken {
    since: Instant,
    lines: u32,
    /// Lines left out that nobody was told of.
    left_out: u64,
}

impl Limit {
    /// Whether a line may be said now.
    fn allows(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.0.lock();
        let spoken = places.entry(place).or_insert(Spoken { since: now, lines: 0, left_out: 0 });
        if now.duration_since(spoken.since) >= WINDOW {
            (spoken.since, spoken.lines) = (now, 0);
        }
        spoken.lines += 1;
        let allowed = spoken.lines <= LINES;
        spoken.left_out += u64::from(!allowed);
        allowed
    }

    /// Lines of this place that were left out since the last one that was said.
    pub(super) fn left_out(&self, place: &Identifier) -> u64 {
        self.0.lock().get_mut(place).map_or(0, |spoken| std::mem::take(&mut spoken.left_out))
    }
}

/// Leaves lines out. Errors are always said: the last line of a process is one. A layer of its own: what a filter of another layer
/// left out at this point would be taken for a decision about the next event.
pub(super) struct Gate(pub(super) std::sync::Arc<Limit>);

impl<S: Subscriber> Layer<S> for Gate {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() == Level::ERROR || self.0.allows(metadata.callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::Interest;
    use tracing::{Callsite, Metadata};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Counts the events that come through.
    struct Count(std::sync::Arc<std::sync::atomic::AtomicU64>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn lines_that_are_left_out_take_no_other_line_with_them() {
        let said = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let subscriber = tracing_subscriber::registry().with(Gate(std::sync::Arc::default())).with(Count(said.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                tracing::info!("again and again");
            }
            assert_eq!(said.load(std::sync::atomic::Ordering::Relaxed), u64::from(LINES));
            tracing::info!("another cause");
            tracing::error!("an error");
        });
        assert_eq!(said.load(std::sync::atomic::Ordering::Relaxed), u64::from(LINES) + 2);
    }

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks")
        }
    }

    static PLACE: Place = Place;

    #[test]
    fn a_cause_is_said_a_few_times_then_counted_and_said_again_later() {
        let (limit, place, now) = (Limit::default(), Identifier(&PLACE), Instant::now());
        let said = (0..1000).filter(|_| limit.allows(place.clone(), now)).count();
        assert_eq!((said, limit.left_out(&place)), (20, 980));
        assert!(limit.allows(place.clone(), now + WINDOW));
        assert_eq!(limit.left_out(&place), 0, "it was told");
    }
}
