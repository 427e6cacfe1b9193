//! MQTT topic names and filters (MQTT 5.0, section 4.7).

/// The reason why a topic name or filter is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Names and filters need at least one character.
    #[error("topic is empty")]
    Empty,
    /// The length field has two bytes.
    #[error("topic is longer than 65,535 bytes")]
    TooLong,
    /// U+0000 is not allowed.
    #[error("topic contains U+0000")]
    Null,
    /// A topic name contains no wildcard.
    #[error("topic name contains a wildcard")]
    Wildcard,
    /// `#` must be the whole last level, `+` a whole level.
    #[error("`+` and `#` must fill a whole level, and `#` the last one")]
    MisplacedWildcard,
    /// `$share/{group}/{filter}` with a group and a filter.
    #[error("a shared subscription is `$share/GROUP/FILTER`")]
    Share,
}

/// Retained messages below this are messages that wait for sessions. Each topic is set once,
/// cleared once, and never set again.
pub const MESSAGES: &str = "$weir/messages/";

/// Checks a topic name.
///
/// # Errors
/// [`TopicError`] names the violated rule.
pub fn check_name(topic: &str) -> Result<(), TopicError> {
    check_length(topic)?;
    match topic.bytes().find(|b| matches!(b, 0 | b'+' | b'#')) {
        None => Ok(()),
        Some(0) => Err(TopicError::Null),
        Some(_) => Err(TopicError::Wildcard),
    }
}

/// Checks a topic filter; for `$share/…`, the filter inside it.
///
/// # Errors
/// [`TopicError`] names the violated rule.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_length(filter)?;
    if filter.bytes().any(|b| b == 0) {
        return Err(TopicError::Null);
    }
    let filter = match filter.strip_prefix("$share/") {
        None => filter,
        Some(rest) => match rest.split_once('/') {
            Some((group, inner)) if !group.is_empty() && !inner.is_empty() && !group.contains(['+', '#']) => inner,
            _ => return Err(TopicError::Share),
        },
    };
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let misplaced = match level {
            "#" => levels.peek().is_some(),
            "+" => false,
            text => text.contains(['+', '#']),
        };
        if misplaced {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

/// True when `filter` (checked, not shared) matches `topic` (checked). A leading wildcard does not
/// match a `$` topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.split('/');
    let mut given = topic.split('/');
    loop {
        match (wanted.next(), given.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(w), Some(g)) if w == g => {}
            _ => return false,
        }
    }
}

fn check_length(topic: &str) -> Result<(), TopicError> {
    match topic.len() {
        0 => Err(TopicError::Empty),
        1..=65_535 => Ok(()),
        _ => Err(TopicError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_the_standard_says() {
        for (filter, topic, yes) in [
            ("sport/#", "sport", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/+/c", "a/b/c", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, topic), yes, "{filter} {topic}");
        }
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in
            ["", "a#", "a/#/b", "a+/b", "$share/g", "$share//a", "$share/g/", "a/\0", "$share/g\0/a", "$share\0/g/a"]
        {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
        for good in ["#", "+", "/", "a//b", "$share/g/a/#", "a/+/#"] {
            assert!(check_filter(good).is_ok(), "{good}");
        }
        assert_eq!(check_name("a/+"), Err(TopicError::Wildcard));
    }
}
