//! The two text formats of the metrics.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// Content type of OpenMetrics.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the text format of Prometheus.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// True when the client prefers the text format of Prometheus to OpenMetrics. A client without a
/// preference gets OpenMetrics; one that accepts neither gets the text format, which is readable
/// everywhere.
pub(super) fn prefers_text(headers: &HeaderMap) -> bool {
    let accepted: Vec<(String, f32)> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok());
            (kind, weight.unwrap_or(1.0))
        })
        .filter(|(kind, _)| !kind.is_empty())
        .collect();
    if accepted.is_empty() {
        return false;
    }
    // The most specific range that matches decides.
    let weight = |ranges: [&str; 3]| {
        ranges.into_iter().find_map(|range| accepted.iter().find(|(kind, _)| kind == range)).map_or(0.0, |(_, q)| *q)
    };
    let open = weight(["application/openmetrics-text", "application/*", "*/*"]);
    let text = weight(["text/plain", "text/*", "*/*"]);
    text > open || open == 0.0
}

/// Joins the families of one name: those of pools are registered once for each pool, and a family
/// may stand in the text only once.
pub(super) fn joined(open_metrics: &str) -> String {
    const END: &str = "# EOF";
    let mut families: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut at = None;
    // The comments of a family that is there already are left out.
    let mut repeated = false;
    for line in open_metrics.lines().filter(|line| *line != END) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP" | "TYPE" | "UNIT"), Some(name)) => {
                let place = *places.entry(name).or_insert_with(|| {
                    families.push((name, Vec::new()));
                    families.len() - 1
                });
                repeated = if at == Some(place) { repeated } else { !families[place].1.is_empty() };
                at = Some(place);
                if !repeated {
                    families[place].1.push(line);
                }
            }
            _ => match at {
                Some(place) => families[place].1.push(line),
                None => tracing::debug!(line, "a line of the metrics without a family"),
            },
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in families.iter().flat_map(|(_, lines)| lines).chain([&END]) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Converts OpenMetrics into the text format of Prometheus: counters carry their suffix in the
/// metadata, and units, exemplars and the end mark do not exist.
pub(super) fn to_text(open_metrics: &str) -> String {
    let counters: std::collections::HashSet<&str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(without_exemplar(line));
            text.push('\n');
            continue;
        };
        let mut parts = comment.splitn(3, ' ');
        let (Some(word @ ("HELP" | "TYPE")), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let suffix = match (counters.contains(name), word, rest) {
            (true, ..) => "_total",
            (false, "TYPE", "info") => "_info",
            _ => "",
        };
        let rest = match (word, rest) {
            ("TYPE", "info" | "stateset") => "gauge",
            ("TYPE", "unknown" | "gaugehistogram") => "untyped",
            _ => rest,
        };
        text.push_str(&format!("# {word} {name}{suffix} {rest}\n"));
    }
    text
}

/// A sample without the exemplar at its end. Label values may contain the mark of an exemplar.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_chooses_the_format() {
        let text = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            prefers_text(&headers)
        };
        assert!(!prefers_text(&HeaderMap::new()));
        assert!(!text("*/*"));
        assert!(!text("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"));
        assert!(!text(
            "application/openmetrics-text; version=1.0.0; q=0.5, text/plain; version=0.0.4; q=0.3, */*;q=0.1"
        ));
        assert!(text("text/plain"));
        assert!(text("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.1"));
        assert!(text("text/plain, */*;q=0.1"));
        assert!(text("application/json"));
        assert!(text("application/openmetrics-text;q=0"));
    }

    #[test]
    fn a_family_of_several_pools_stands_once_with_all_its_samples() {
        let open = concat!(
            "# HELP weir_a A.\n# TYPE weir_a counter\nweir_a_total 1\n# HELP weir_b B.\n# TYPE weir_b gauge\nweir_b 2\n",
            "# HELP weir_a A.\n# TYPE weir_a counter\nweir_a_total{pool=\"x\"} 3\n",
            "# HELP weir_a A.\n# TYPE weir_a counter\nweir_a_total{pool=\"y\"} 4\n# EOF\n",
        );
        let joined_text = concat!(
            "# HELP weir_a A.\n# TYPE weir_a counter\nweir_a_total 1\nweir_a_total{pool=\"x\"} 3\n",
            "weir_a_total{pool=\"y\"} 4\n# HELP weir_b B.\n# TYPE weir_b gauge\nweir_b 2\n# EOF\n",
        );
        assert_eq!(joined(open), joined_text);
        assert_eq!(joined(joined_text), joined_text);
    }

    #[test]
    fn the_text_format_has_neither_units_nor_exemplars_nor_an_end() {
        let open = concat!(
            "# HELP weir_a Some # text.\n# TYPE weir_a counter\n",
            "weir_a_total{topic=\"a # \\\" b\"} 3 # {trace_id=\"1\"} 1.0\n",
            "# HELP weir_s_seconds Time.\n# TYPE weir_s_seconds histogram\n# UNIT weir_s_seconds seconds\n",
            "weir_s_seconds_bucket{le=\"1.0\"} 2\n# TYPE weir_build info\nweir_build_info{version=\"1\"} 1\n",
            "# TYPE weir_x unknown\nweir_x 1\n# EOF\n",
        );
        let text = concat!(
            "# HELP weir_a_total Some # text.\n# TYPE weir_a_total counter\n",
            "weir_a_total{topic=\"a # \\\" b\"} 3\n",
            "# HELP weir_s_seconds Time.\n# TYPE weir_s_seconds histogram\n",
            "weir_s_seconds_bucket{le=\"1.0\"} 2\n# TYPE weir_build_info gauge\nweir_build_info{version=\"1\"} 1\n",
            "# TYPE weir_x untyped\nweir_x 1\n",
        );
        assert_eq!(to_text(open), text);
    }
}
