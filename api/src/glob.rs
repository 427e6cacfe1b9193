//! Patterns of the names that a caller selects.

use std::collections::HashSet;
use std::sync::Arc;

pub(crate) use model::glob::Glob;

/// The metrics that a caller selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// Patterns without a wildcard.
    names: HashSet<Arc<str>>,
    globs: Vec<Glob>,
}

impl Metrics {
    /// Parses patterns; without any, all metrics are selected.
    pub(crate) fn new(patterns: &[String]) -> Self {
        let mut metrics = Self::default();
        for glob in patterns.iter().map(|pattern| Glob::new(pattern)) {
            match glob.literal() {
                Some(name) => drop(metrics.names.insert(name.into())),
                None => metrics.globs.push(glob),
            }
        }
        metrics
    }

    /// True when every metric is selected.
    pub(crate) fn is_all(&self) -> bool {
        self.names.is_empty() && self.globs.is_empty()
    }

    /// True when this metric is selected.
    pub(crate) fn selects(&self, name: &str) -> bool {
        self.is_all() || self.names.contains(name) || self.globs.iter().any(|glob| glob.matches(name))
    }

    /// The names, when no pattern has a wildcard.
    pub(crate) fn names(&self) -> Option<Vec<Arc<str>>> {
        (!self.is_all() && self.globs.is_empty()).then(|| self.names.iter().cloned().collect())
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
