//! A line chart as SVG.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// More points than this cannot be told apart.
const POINTS: usize = 430;

/// A named line: (seconds, value).
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// The lines over time, values written by `label`.
pub(super) fn chart(title: &str, lines: &[Line<'_>], label: impl Fn(f64) -> String) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let top = nice(all().map(|p| p.1).fold(0.0, f64::max));
    let x = |at: f64| LEFT + at / last * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut out = format!("<figure><figcaption>{title}");
    for (index, line) in lines.iter().enumerate() {
        put(&mut out, format_args!(" <span class=\"key c{index}\">{}</span>", line.name));
    }
    put(&mut out, format_args!("</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">"));
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (at, text) = (y(value), label(value));
        put(
            &mut out,
            format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT),
        );
        put(&mut out, format_args!("<text class=\"end\" x=\"{}\" y=\"{:.1}\">{text}</text>", LEFT - 6.0, at + 4.0));
        let (at, seconds) = (x(last * f64::from(step) / 4.0), last * f64::from(step) / 4.0);
        let anchor = if step == 4 { "end" } else { "middle" };
        put(
            &mut out,
            format_args!("<text class=\"{anchor}\" x=\"{at:.1}\" y=\"{}\">{seconds:.0} s</text>", HEIGHT - 8.0),
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let every = line.points.len().div_ceil(POINTS).max(1);
        // Of points in the same column the highest is drawn, so that no peak is hidden.
        let points = line.points.chunks(every).filter_map(|c| c.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)));
        let points: Vec<String> = points.map(|(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
        put(&mut out, format_args!("<polyline class=\"c{index}\" points=\"{}\"/>", points.join(" ")));
    }
    out.push_str("</svg></figure>\n");
    out
}

/// The next 1, 2, 2.5 or 5 times a power of ten.
fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= most).unwrap_or(most)
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("writing to a string does not fail");
}
