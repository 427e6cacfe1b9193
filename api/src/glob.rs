//! Patterns of the names that a caller selects.

pub(crate) use model::glob::Glob;

/// The metrics that a caller selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    globs: Vec<Glob>,
}

impl Metrics {
    /// Parses patterns; without any, all metrics are selected.
    pub(crate) fn new(patterns: &[String]) -> Self {
        Self { globs: patterns.iter().map(|p| Glob::new(p)).collect() }
    }

    /// True when every metric is selected.
    pub(crate) fn is_all(&self) -> bool {
        self.globs.is_empty()
    }

    /// True when this metric is selected.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.globs.is_empty() || self.globs.iter().any(|glob| glob.matches(name))
    }

    /// The names, when no pattern has a wildcard.
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
    fn names_are_known_only_without_wildcards() {
        assert_eq!(Metrics::new(&[]).names(), None);
        assert_eq!(Metrics::new(&["a".into(), "b*".into()]).names(), None);
        assert_eq!(Metrics::new(&["a".into(), "b".into()]).names().map(|n| n.len()), Some(2));
    }
}
