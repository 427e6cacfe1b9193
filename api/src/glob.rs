//! Patterns in which `*` stands for any characters.

/// A pattern, cut at its wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    /// Literal parts; between each two stands a wildcard. One part: no wildcard.
    parts: Vec<String>,
}

impl Glob {
    /// A pattern; every `*` is a wildcard.
    pub(crate) fn new(pattern: &str) -> Self {
        Self { parts: pattern.split('*').map(str::to_owned).collect() }
    }

    /// A pattern of literal parts between wildcards.
    pub(crate) fn from_parts(parts: Vec<String>) -> Self {
        Self { parts }
    }

    /// The text itself, when there is no wildcard.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// True when `text` fits.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (first, rest) = self.parts.split_first().expect("a pattern has at least one part");
        let Some((last, middle)) = rest.split_last() else { return text == first };
        let Some(mut text) = text.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            match text.find(part.as_str()) {
                Some(at) => text = &text[at + part.len()..],
                None => return false,
            }
        }
        text.ends_with(last.as_str())
    }
}

/// Which metrics a caller wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    globs: Vec<Glob>,
}

impl Metrics {
    /// Patterns as given; none is all.
    pub(crate) fn new(patterns: &[String]) -> Self {
        Self { globs: patterns.iter().map(|p| Glob::new(p)).collect() }
    }

    /// True when every metric is wanted.
    pub(crate) fn is_all(&self) -> bool {
        self.globs.is_empty()
    }

    /// True when this one is wanted.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.globs.is_empty() || self.globs.iter().any(|glob| glob.matches(name))
    }

    /// The names, when they can be told without looking at the data.
    pub(crate) fn names(&self) -> Option<Vec<std::sync::Arc<str>>> {
        if self.globs.is_empty() {
            return None;
        }
        self.globs.iter().map(|glob| glob.literal().map(Into::into)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_none() {
        for (pattern, text, yes) in [
            ("temp*", "temperature", true),
            ("temp*", "temp", true),
            ("temp*", "tem", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("*.x", "a.x", true),
            ("ab*ba", "aba", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), yes, "{pattern} {text}");
        }
    }

    #[test]
    fn names_are_known_only_without_wildcards() {
        assert_eq!(Metrics::new(&[]).names(), None);
        assert_eq!(Metrics::new(&["a".into(), "b*".into()]).names(), None);
        assert_eq!(Metrics::new(&["a".into(), "b".into()]).names().map(|n| n.len()), Some(2));
    }
}
