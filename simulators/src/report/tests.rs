//! Reports.

use super::*;

fn played(peak: u64) -> Played {
    let sample = |second: u64| Sample {
        at_secs: second as f64,
        sent: second * 100 + if second >= 500 { peak } else { 0 },
        acknowledged: second * 100,
        latency: Latency { p50_micros: 400, p99_micros: 9_000, p999_micros: 20_000, max_micros: 30_000 },
        connected: 10,
        ..Sample::default()
    };
    Played {
        start: 0,
        devices: 10,
        lasted: Duration::from_secs(1000),
        samples: (1..=1000).map(sample).collect(),
        latency: Latency::default(),
        interrupted: false,
        last_failure: "d<1>: connect & die".into(),
    }
}

#[test]
fn the_page_has_charts_needs_no_network_and_escapes_what_comes_from_elsewhere() {
    let played = played(0);
    let page = html(&Summary::of_file("a <b> & c", &played), &played.samples);
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(page.contains("Messages per second") && page.contains("p99.9"));
    assert!(!page.contains("http") && !page.contains("<script") && !page.contains("src="), "nothing is fetched");
    assert!(page.contains("a &lt;b&gt; &amp; c") && page.contains("d&lt;1&gt;"));
}

#[test]
fn a_peak_of_one_second_is_not_lost_among_many() {
    let top = |played: &Played| {
        let page = html(&Summary::of_file("x", played), &played.samples);
        page.split("class=\"end\"").filter_map(|part| part.split(['>', '<']).nth(1)).any(|label| label == "50k")
    };
    assert!(top(&played(45_000)) && !top(&played(0)));
}

#[test]
fn the_summary_is_text_and_json_with_the_same_figures() {
    let summary = Summary::of_file("x", &played(0));
    let text = summary.to_string();
    assert!(text.contains("100000 (100/s)"), "{text}");
    let json = serde_json::to_value(&summary).expect("it is plain data");
    assert_eq!(json["total"]["acknowledged"], 100_000);
}
