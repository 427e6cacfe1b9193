//! How the time of some work grows with its size.

use std::time::{Duration, Instant};

/// The smaller and the larger size.
const SIZES: [usize; 2] = [10_000, 100_000];
/// The least of so many runs counts: others of the machine only make a run longer.
const RUNS: usize = 3;

/// Returns the factor by which `work` on 100,000 takes more processor time than on 10,000: about 10
/// when it is linear, 100 when it grows with the square.
pub fn growth<T>(prepare: impl Fn(usize) -> T, mut work: impl FnMut(&T)) -> f64 {
    let [small, large] = SIZES.map(|size| {
        let prepared = prepare(size);
        let run = |_| {
            let begun = Begun::now();
            work(&prepared);
            begun.elapsed()
        };
        (0..RUNS).map(run).min().expect("there are runs")
    });
    large.as_secs_f64() / small.as_secs_f64().max(1e-6)
}

/// Panics when `work` grows faster than its size, with room for larger tables and slower memory.
pub fn assert_linear<T>(prepare: impl Fn(usize) -> T, work: impl FnMut(&T)) {
    let factor = growth(prepare, work);
    assert!(factor < 45.0, "ten times as much takes {factor:.0} times as long");
}

/// Start of a run, on the clock of the thread's processor time where there is one.
struct Begun(Option<u64>, Instant);

impl Begun {
    fn now() -> Self {
        Self(processor_nanos(), Instant::now())
    }

    fn elapsed(&self) -> Duration {
        match self.0.zip(processor_nanos()) {
            Some((begun, now)) => Duration::from_nanos(now.saturating_sub(begun)),
            None => self.1.elapsed(),
        }
    }
}

fn processor_nanos() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}
