//! Not more than a few lines of one cause in a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{self, Context};

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

/// Leaves lines out. Errors are always said: the last line of a process is one.
pub(super) struct Filter(pub(super) std::sync::Arc<Limit>);

impl<S> layer::Filter<S> for Filter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() == Level::ERROR || self.0.allows(metadata.callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;

    use super::*;

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
