//! Finds the metrics in an expression.

use std::collections::BTreeSet;

/// Words that are not metrics.
const KEYWORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"];

/// Words that precede a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// The metrics in a PromQL expression or in a variable of Grafana such as
/// `label_values(metric, label)`.
pub(super) fn names(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '{' => after(rest, '}'),
            '[' => after(rest, ']'),
            '"' | '\'' | '`' => after(rest, first),
            c if is_start(c) => word(rest, &mut found),
            // A number or a duration: its unit is not a metric.
            c if c.is_ascii_digit() => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.'),
            _ => &rest[first.len_utf8()..],
        };
    }
    found
}

fn word<'a>(text: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let end = text.find(|c: char| !is_start(c) && !c.is_ascii_digit()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let follows = rest.trim_start();
    if LISTS.contains(&word) {
        return if follows.starts_with('(') { after(follows, ')') } else { rest };
    }
    if word == "label_values" {
        // The metric, then a label.
        let metric = follows.trim_start_matches('(');
        found.extend(names(metric.rsplit_once(',').map_or("", |(metric, _)| metric)));
        return after(follows, ')');
    }
    // An aggregation may have its labels before its parentheses.
    let next = follows.split(|c: char| !is_start(c)).next().unwrap_or_default();
    let function = follows.starts_with('(') || ["by", "without"].contains(&next);
    if !function && !KEYWORDS.contains(&word.to_ascii_lowercase().as_str()) {
        found.insert(word.to_owned());
    }
    rest
}

fn is_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == ':'
}

/// The rest after the bracket or quote that closes the first one; brackets inside of quotes are
/// ignored.
fn after(text: &str, close: char) -> &str {
    let mut quote = None;
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (_, '\\') => drop(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c == close => return &text[at + c.len_utf8()..],
            (None, '"' | '\'' | '`') => quote = Some(c),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::names;

    fn of(expression: &str) -> Vec<String> {
        names(expression).into_iter().collect()
    }

    #[test]
    fn functions_labels_keywords_and_durations_are_no_names() {
        let expression = r#"histogram_quantile(0.99, sum by (instance, le) (rate(a_bucket{job="weir", x=~"}b"}[5m]))) > 1e3
            and on (instance) max without(le) (b:c{d!="e"} offset 15m) unless f or vector(0)"#;
        assert_eq!(of(expression), ["a_bucket", "b:c", "f"]);
    }

    #[test]
    fn aggregations_may_have_their_labels_behind_them() {
        assert_eq!(of("sum(a) by (b) / on(c) group_left d"), ["a", "d"]);
    }

    #[test]
    fn a_variable_names_the_metric_of_its_values() {
        assert_eq!(of(r#"label_values(up{job="weir"}, instance)"#), ["up"]);
        assert_eq!(of("label_values(instance)"), Vec::<String>::new());
    }
}
