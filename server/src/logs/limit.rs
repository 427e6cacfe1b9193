//! Rate limit of log lines: by the place in the code, and by the subject that a line is about.
//!
//! A flood of one subject, as one client that sends garbage, hides neither the other places nor the
//! first lines of other subjects at the same place. Lines that are left out are counted, and the
//! count is logged.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in the code that are logged in each [`WINDOW`], besides the first line of
/// each subject.
const LINES: u32 = 20;
/// Subjects of one place whose first line in a window is logged.
const SUBJECTS: usize = 200;
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Fields that name what a line is about. A line without any of them is about its whole text.
const NAMES: [&str; 9] = ["tenant", "client", "device", "topic", "export", "sink", "server", "log", "part"];

/// Recent lines of each place in the code.
#[derive(Debug, Default)]
pub(super) struct Limit {
    places: Mutex<HashMap<Identifier, Recent>>,
    seeds: RandomState,
}

#[derive(Debug)]
struct Recent {
    since: Instant,
    lines: u32,
    /// Hashes of the subjects of this window.
    subjects: HashSet<u64>,
    /// Lines left out since the last report.
    left_out: u64,
}

/// Lines of one place that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// File and line of the place.
    pub(super) place: String,
    pub(super) lines: u64,
}

impl Limit {
    /// True when a line about `subject` may be logged now.
    fn allows(&self, place: Identifier, subject: u64, now: Instant) -> bool {
        let mut places = self.places.lock();
        let recent = places.entry(place).or_insert_with(|| Recent {
            since: now,
            lines: 0,
            subjects: HashSet::new(),
            left_out: 0,
        });
        if now.duration_since(recent.since) >= WINDOW {
            (recent.since, recent.lines) = (now, 0);
            recent.subjects.clear();
        }
        if recent.subjects.len() < SUBJECTS && recent.subjects.insert(subject) {
            return true;
        }
        recent.lines += 1;
        let allowed = recent.lines < LINES;
        recent.left_out += u64::from(!allowed);
        allowed
    }

    /// Returns how many lines of this place were left out since the last report.
    pub(super) fn left_out(&self, place: &Identifier) -> u64 {
        self.places.lock().get_mut(place).map_or(0, |recent| std::mem::take(&mut recent.left_out))
    }

    /// Returns the places of which lines were left out and none was logged in the window after.
    pub(super) fn unreported(&self, now: Instant) -> Vec<LeftOut> {
        let mut places = self.places.lock();
        let mut unreported = Vec::new();
        for (place, recent) in places.iter_mut() {
            if recent.left_out > 0 && now.saturating_duration_since(recent.since) >= WINDOW {
                let at = place.0.metadata();
                let place = format!("{}:{}", at.file().unwrap_or(at.target()), at.line().unwrap_or_default());
                unreported.push(LeftOut { place, lines: std::mem::take(&mut recent.left_out) });
            }
        }
        unreported
    }

    /// Returns a hash of what an event is about.
    fn subject(&self, event: &Event<'_>) -> u64 {
        let mut subject = Subject { named: None, text: self.seeds.build_hasher(), seeds: &self.seeds };
        event.record(&mut subject);
        subject.named.unwrap_or(subject.text).finish()
    }
}

/// Hashes the fields that name a subject, and all fields for the case that none does.
struct Subject<'a, H> {
    named: Option<H>,
    text: H,
    seeds: &'a RandomState,
}

impl Visit for Subject<'_, std::hash::DefaultHasher> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let hasher = if NAMES.contains(&field.name()) {
            self.named.get_or_insert_with(|| self.seeds.build_hasher())
        } else {
            &mut self.text
        };
        hasher.write(field.name().as_bytes());
        // Nothing that is hashed fails.
        write!(WithoutPorts { hasher, after_colon: false }, "{value:?}").ok();
    }
}

/// Hashes a text without the digits after a colon: each connection of a client has another port.
struct WithoutPorts<'a, H> {
    hasher: &'a mut H,
    after_colon: bool,
}

impl<H: Hasher> fmt::Write for WithoutPorts<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.after_colon && byte.is_ascii_digit() {
                continue;
            }
            self.after_colon = byte == b':';
            self.hasher.write_u8(byte);
        }
        Ok(())
    }
}

/// Leaves lines out, but never errors: the last line of a process is one. A layer of its own,
/// because a per-layer filter that drops an event here would also drop the next one.
pub(super) struct Gate(pub(super) std::sync::Arc<Limit>);

impl<S: Subscriber> Layer<S> for Gate {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() == Level::ERROR || self.0.allows(metadata.callsite(), self.0.subject(event), Instant::now())
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

    #[test]
    fn a_flood_of_one_client_does_not_hide_the_lines_of_others() {
        let logged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let seen = || logged.load(std::sync::atomic::Ordering::Relaxed);
        let limit = std::sync::Arc::<Limit>::default();
        let subscriber = tracing_subscriber::registry().with(Gate(limit.clone())).with(Count(logged.clone()));
        let closed = |client: &str, port: u32| tracing::info!("closed client {client} at 10.0.0.1:{port}: malformed");
        let unrouted = |client: &str, topic: u32| tracing::info!(client, topic, "no route matches");
        let garbage = |client: &str, bytes: u32| tracing::info!(client, bytes, "garbage");
        tracing::subscriber::with_default(subscriber, || {
            (0..1_000).for_each(|port| closed("a", 1_024 + port));
            assert_eq!(seen(), 20);
            closed("b", 1_024);
            closed("c1", 1_025);
            closed("c2", 1_026);
            assert_eq!(seen(), 23, "each other client has its line");
            (0..1_000).for_each(|bytes| garbage("a", bytes));
            assert_eq!(seen(), 43, "a number that differs each time makes no other subject");
            garbage("b", 1);
            assert_eq!(seen(), 44);
            (0..100_000).for_each(|topic| unrouted("a", topic));
            assert_eq!(seen(), 44 + 200 + 19, "the subjects of a place are bounded");
        });
        let now = Instant::now();
        assert_eq!(limit.unreported(now), [], "a window is not over");
        let mut counts: Vec<u64> = limit.unreported(now + WINDOW).iter().map(|left_out| left_out.lines).collect();
        counts.sort_unstable();
        assert_eq!(counts, [980, 980, 100_000 - 219]);
        assert_eq!(limit.unreported(now + WINDOW), [], "they are reported once");
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
        let logged = (0..1000).filter(|_| limit.allows(place.clone(), 1, now)).count();
        assert_eq!((logged, limit.left_out(&place)), (20, 980));
        assert!(limit.allows(place.clone(), 1, now + WINDOW));
        assert_eq!(limit.left_out(&place), 0, "it was reported");
    }
}
