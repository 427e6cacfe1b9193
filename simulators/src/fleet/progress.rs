//! Progress of a run: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::stats::Sample;

/// Seconds between two lines without a terminal.
const LINE_EVERY: f64 = 10.0;

pub(super) enum Progress {
    Bar { bar: ProgressBar },
    Lines { next: f64 },
    Nothing,
}

impl Progress {
    /// Progress of a run in which messages are due for `duration`.
    pub(super) fn new(name: &str, duration: Duration, quiet: bool) -> Self {
        if quiet {
            return Self::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { next: 0.0 };
        }
        let bar = ProgressBar::new(duration.as_secs().max(1));
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {elapsed}/{len}s  {msg}");
        bar.set_style(style.expect("the template is sound").progress_chars("=> "));
        bar.set_prefix(name.to_owned());
        Self::Bar { bar }
    }

    pub(super) fn show(&mut self, before: Option<&Sample>, now: &Sample) {
        match self {
            Self::Bar { bar } => {
                let position = Duration::from_secs_f64(now.at_secs).as_secs();
                bar.set_position(position.min(bar.length().unwrap_or(position)));
                bar.set_message(line(before, now));
            }
            Self::Lines { next } if now.at_secs >= *next => {
                eprintln!("{:>6.0} s  {}", now.at_secs, line(before, now));
                *next = now.at_secs + LINE_EVERY;
            }
            Self::Lines { .. } | Self::Nothing => {}
        }
    }

    pub(super) fn end(&mut self) {
        if let Self::Bar { bar } = self {
            bar.finish();
        }
    }
}

fn line(before: Option<&Sample>, now: &Sample) -> String {
    let (sent, acknowledged, at) = before.map_or((0, 0, 0.0), |b| (b.sent, b.acknowledged, b.at_secs));
    let per_second = |count: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
        let rate = count as f64 / (now.at_secs - at).max(0.001);
        rate.round()
    };
    format!(
        "sent {}/s  acknowledged {}/s  in flight {}  connected {}  PUBACK p50 {} p99 {} p99.9 {}  failures {}",
        per_second(now.sent - sent),
        per_second(now.acknowledged - acknowledged),
        now.in_flight,
        now.connected,
        micros(now.latency.p50_micros),
        micros(now.latency.p99_micros),
        micros(now.latency.p999_micros),
        now.failures,
    )
}

/// Microseconds with a readable unit.
pub(crate) fn micros(micros: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let value = micros as f64;
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..10_000 => format!("{:.1}ms", value / 1e3),
        10_000..1_000_000 => format!("{:.0}ms", value / 1e3),
        _ => format!("{:.1}s", value / 1e6),
    }
}
