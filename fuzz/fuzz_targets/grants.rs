//! Filters and grants against a matcher that follows the standard word by word. Input: a template,
//! a filter and topics, each on a line of its own.

#![no_main]

use door::Grants;
use libfuzzer_sys::fuzz_target;
use model::topic::{check_filter, check_name, matches};

/// Sections 4.7.1 and 4.7.2 of MQTT 5.
fn matches_naively(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([level, filter @ ..], [name, topic @ ..]) => level == name && levels(filter, topic),
            _ => false,
        }
    }
    let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
    let begins_with_wildcard = matches!(filter[0], "+" | "#");
    !(topic[0].starts_with('$') && begins_with_wildcard) && levels(&filter, &topic)
}

/// The rules of section 4.7 for a filter that is not shared.
fn is_filter(text: &str) -> bool {
    let levels: Vec<_> = text.split('/').collect();
    let is_level = |(at, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        level => !level.contains(['+', '#']),
    };
    (1..=65_535).contains(&text.len()) && !text.contains('\0') && levels.iter().enumerate().all(is_level)
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let (Some(template), Some(filter)) = (lines.next(), lines.next()) else { return };
    for text in [template, filter] {
        let inner = text.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
        let is_valid = match (text.starts_with("$share/"), inner) {
            (true, Some((group, inner))) => !group.is_empty() && !group.contains(['+', '#', '\0']) && is_filter(inner),
            (true, None) => false,
            (false, _) => is_filter(text),
        };
        assert_eq!(check_filter(text).is_ok(), is_valid && text.len() <= 65_535, "{text:?}");
    }
    let grants = Grants::of(&[template.to_owned()], &[template.to_owned()], "d1");
    let filter_is_valid = check_filter(filter).is_ok();
    for topic in lines.filter(|topic| check_name(topic).is_ok()) {
        if filter_is_valid && !filter.starts_with("$share/") {
            assert_eq!(matches(filter, topic), matches_naively(filter, topic), "{filter:?} {topic:?}");
        }
        let Ok(grants) = &grants else { continue };
        let granted = template.split('/').map(|level| if level == "{device}" { "d1" } else { level });
        let granted = matches_naively(&granted.collect::<Vec<_>>().join("/"), topic);
        assert_eq!(grants.may_receive(topic), granted, "{template:?} {topic:?}");
        assert_eq!(grants.may_publish(topic), granted && !topic.starts_with('$'), "{template:?} {topic:?}");
        // A filter that is granted matches no topic that is not.
        let inner =
            filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, inner)| inner);
        if filter_is_valid && grants.may_subscribe(filter) && matches_naively(inner, topic) {
            assert!(granted, "{template:?} grants {filter:?}, and not {topic:?}");
        }
    }
});
