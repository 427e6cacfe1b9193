//! A report as one self-contained page.

use std::fmt::Write;

use super::Summary;
use super::chart::{Line, chart};
use crate::fleet::{Sample, micros};
use crate::oracle::StoreReport;

const STYLE: &str = include_str!("report.css");

/// The page.
pub fn html(summary: &Summary, samples: &[Sample]) -> String {
    let title = format!("{} · {}", escaped(&summary.scenario), summary.started);
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body><h1>{}</h1>\
         <p>started {}, seed {}, {} devices</p>\n",
        escaped(&summary.scenario),
        summary.started,
        summary.seed,
        summary.devices
    );
    stores(&mut out, &summary.stores);
    out.push_str(&charts(samples));
    out.push_str("<table>");
    for (name, value) in summary.lines() {
        put(&mut out, format_args!("<tr><th>{name}</th><td>{}</td></tr>\n", escaped(&value)));
    }
    out.push_str("</table></body></html>\n");
    out
}

fn stores(out: &mut String, stores: &[StoreReport]) {
    for store in stores {
        let clean = store.findings.is_clean();
        let class = if clean { "clean" } else { "faulty" };
        put(out, format_args!("<pre class=\"{class}\">{}</pre>\n", escaped(&store.to_string())));
    }
}

fn charts(samples: &[Sample]) -> String {
    let rate = |of: fn(&Sample) -> u64| {
        let first = Sample::default();
        let before = std::iter::once(&first).chain(samples);
        let points = before.zip(samples).filter(|(a, b)| b.at_secs - a.at_secs > 0.2);
        #[expect(clippy::cast_precision_loss, reason = "a chart")]
        let points = points.map(|(a, b)| (b.at_secs, of(b).saturating_sub(of(a)) as f64 / (b.at_secs - a.at_secs)));
        points.collect()
    };
    #[expect(clippy::cast_precision_loss, reason = "a chart")]
    let value = |of: fn(&Sample) -> u64| samples.iter().map(|s| (s.at_secs, of(s) as f64)).collect();
    let count = |value: f64| {
        if value >= 10_000.0 { format!("{:.0}k", value / 1_000.0) } else { format!("{value:.0}") }
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a label")]
    let time = |value: f64| micros(value as u64);
    let throughput = [
        Line { name: "sent", points: rate(|s| s.sent) },
        Line { name: "acknowledged", points: rate(|s| s.acknowledged + s.quarantined) },
        Line { name: "sent again", points: rate(|s| s.again) },
    ];
    let latency = [
        Line { name: "p50", points: value(|s| s.latency.p50_micros) },
        Line { name: "p99", points: value(|s| s.latency.p99_micros) },
        Line { name: "p99.9", points: value(|s| s.latency.p999_micros) },
    ];
    let fleet = [
        Line { name: "connected", points: value(|s| s.connected) },
        Line { name: "in flight", points: value(|s| s.in_flight) },
    ];
    let failures = [
        Line { name: "connections made", points: rate(|s| s.connects) },
        Line { name: "failed", points: rate(|s| s.failures) },
    ];
    [
        chart("Messages per second", &throughput, count),
        chart("Time to the acknowledgement", &latency, time),
        chart("Fleet", &fleet, count),
        chart("Connections per second", &failures, count),
    ]
    .concat()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to a string does not fail");
}
