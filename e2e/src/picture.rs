//! Draws a trace of Jaeger: one bar for each span on a logarithmic axis, because a publish takes
//! milliseconds and a flush follows seconds later.

use std::fmt::Write;

use serde_json::Value;

const LEFT: f64 = 210.0;
const WIDTH: f64 = 700.0;
const ROW: f64 = 30.0;
const TOP: f64 = 56.0;
/// Beginning of the axis, in microseconds.
const FIRST: f64 = 10.0;
const TICKS: [(f64, &str); 6] =
    [(10.0, "0"), (100.0, "0.1 ms"), (1e3, "1 ms"), (1e4, "10 ms"), (1e5, "100 ms"), (1e6, "1 s")];

/// Draws the spans of one trace of `/api/traces` as SVG, in the order of their beginnings.
pub fn trace(title: &str, spans: &[Value]) -> String {
    let mut spans: Vec<&Value> = spans.iter().collect();
    spans.sort_by_key(|span| (micros(span, "startTime"), std::cmp::Reverse(micros(span, "duration"))));
    let began = spans.first().map_or(0, |span| micros(span, "startTime"));
    let last = spans.iter().map(|span| micros(span, "startTime") + micros(span, "duration") - began).max().unwrap_or(0);
    let place = |micros: u64| {
        let decades = (last.max(100) as f64 / FIRST).log10();
        LEFT + WIDTH * (micros as f64 / FIRST).max(1.0).log10() / decades
    };
    let height = TOP + ROW * spans.len() as f64 + 34.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1010 {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"1010\" height=\"{height}\" fill=\"#fff\"/>\n<text x=\"12\" y=\"26\" font-size=\"15\">{title}</text>\n"
    );
    for (at, text) in TICKS.iter().filter(|(at, _)| *at <= last.max(100) as f64) {
        let (x, bottom) = (place(*at as u64), height - 28.0);
        line(&mut out, &format!("<line x1=\"{x:.0}\" y1=\"{TOP}\" x2=\"{x:.0}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"));
        let y = height - 10.0;
        line(&mut out, &format!("<text x=\"{x:.0}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#666\">{text}</text>"));
    }
    for (row, span) in spans.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let start = micros(span, "startTime") - began;
        let (x, end) = (place(start), place(start + micros(span, "duration")));
        let width = (end - x).max(3.0);
        let name = span["operationName"].as_str().unwrap_or_default();
        let color = if name.starts_with("store") { "#2b7a78" } else { "#3d5a98" };
        let indent = if row == 0 { 12 } else { 28 };
        line(&mut out, &format!("<text x=\"{indent}\" y=\"{:.0}\">{name}</text>", y + 18.0));
        line(
            &mut out,
            &format!("<rect x=\"{x:.1}\" y=\"{:.0}\" width=\"{width:.1}\" height=\"16\" fill=\"{color}\"/>", y + 5.0),
        );
        let store = tag(span, "store").map_or(String::new(), |store| format!(" in {store}"));
        let note = format!("{}{store}", show(micros(span, "duration")));
        // Beside the bar, on the side with room.
        let (at, anchor) = if x + width < 820.0 { (x + width + 6.0, "start") } else { (x - 6.0, "end") };
        line(
            &mut out,
            &format!("<text x=\"{at:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\" fill=\"#444\">{note}</text>", y + 18.0),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}

fn micros(span: &Value, key: &str) -> u64 {
    span[key].as_u64().unwrap_or(0)
}

fn tag<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    span["tags"].as_array()?.iter().find(|tag| tag["key"] == key)?["value"].as_str()
}

fn show(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        _ => format!("{:.1} ms", micros as f64 / 1e3),
    }
}
