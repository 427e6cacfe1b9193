//! Patterns in which `*` matches any characters.

/// A pattern, split at its wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// Literal parts with a wildcard between each two. A single part has no wildcard.
    parts: Vec<String>,
}

impl Glob {
    /// Parses a pattern; every `*` is a wildcard.
    pub fn new(pattern: &str) -> Self {
        Self { parts: pattern.split('*').map(str::to_owned).collect() }
    }

    /// Creates a pattern of literal parts with wildcards between them.
    pub fn from_parts(parts: Vec<String>) -> Self {
        Self { parts }
    }

    /// The text of a pattern without a wildcard.
    pub fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The text before the first wildcard: all texts that match begin with it.
    pub fn prefix(&self) -> &str {
        self.parts.first().map_or("", String::as_str)
    }

    /// True when `text` matches.
    pub fn matches(&self, text: &str) -> bool {
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

/// The pattern as it was written.
impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.parts.join("*"))
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
}
