//! Rate limit of log lines, for each place in the code.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in the code that are logged in each [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Recent lines of each place in the code.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<HashMap<Identifier, Recent>>);

#[derive(Debug)]
struct Recent {
    since: Instant,
    lines: u32,
    /// Lines left out since the last one that was logged.
    left_out: u64,
}

impl Limit {
    /// True when a line may be logged now.
    fn allows(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.0.lock();
        let recent = places.entry(place).or_insert(Recent { since: now, lines: 0, left_out: 0 });
        if now.duration_since(recent.since) >= WINDOW {
            (recent.since, recent.lines) = (now, 0);
        }
        recent.lines += 1;
        let allowed = recent.lines <= LINES;
        recent.left_out += u64::from(!allowed);
        allowed
    }

    /// Returns how many lines of this place were left out since the last one that was logged.
    pub(super) fn left_out(&self, place: &Identifier) -> u64 {
        self.0.lock().get_mut(place).map_or(0, |recent| std::mem::take(&mut recent.left_out))
    }
}

/// Leaves lines out, but never errors: the last line of a process is one. A layer of its own,
/// because a per-layer filter that drops an event here would also drop the next one.
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

    /// Counts the events that pass.
    struct Count(std::sync::Arc<std::sync::atomic::AtomicU64>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn lines_that_are_left_out_do_not_drop_other_lines() {
        let logged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let subscriber =
            tracing_subscriber::registry().with(Gate(std::sync::Arc::default())).with(Count(logged.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                tracing::info!("again and again");
            }
            assert_eq!(logged.load(std::sync::atomic::Ordering::Relaxed), u64::from(LINES));
            tracing::info!("another cause");
            tracing::error!("an error");
        });
        assert_eq!(logged.load(std::sync::atomic::Ordering::Relaxed), u64::from(LINES) + 2);
    }

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("not called")
        }
    }

    static PLACE: Place = Place;

    #[test]
    fn a_cause_is_logged_a_few_times_then_counted_and_logged_again_later() {
        let (limit, place, now) = (Limit::default(), Identifier(&PLACE), Instant::now());
        let logged = (0..1000).filter(|_| limit.allows(place.clone(), now)).count();
        assert_eq!((logged, limit.left_out(&place)), (20, 980));
        assert!(limit.allows(place.clone(), now + WINDOW));
        assert_eq!(limit.left_out(&place), 0, "it was reported");
    }
}
