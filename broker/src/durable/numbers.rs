//! A set of numbers that are mostly next to each other.

use std::collections::BTreeMap;

/// Ranges of numbers, by their first one, with the last one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// Adds a number.
    pub(crate) fn insert(&mut self, number: u64) {
        let before = self.0.range(..=number).next_back().map(|(from, to)| (*from, *to));
        let (mut from, mut to) = (number, number);
        match before {
            Some((_, last)) if number <= last => return,
            Some((first, last)) if last + 1 == number => from = first,
            _ => {}
        }
        if let Some(after) = number.checked_add(1).and_then(|next| self.0.remove(&next)) {
            to = after;
        }
        self.0.insert(from, to);
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(from, _)| *from)
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, to)| *to)
    }

    /// Removes the range that begins with a number, and returns its last one.
    pub(crate) fn take_from(&mut self, first: u64) -> Option<u64> {
        self.0.remove(&first)
    }

    /// Returns the ranges in their order, each with its first and its last number.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(from, to)| (*from, *to))
    }

    /// Returns the numbers between the first and `to` that are missing.
    pub(crate) fn missing(&self, to: u64) -> Self {
        let behind = self.0.values().map(|last| last.saturating_add(1));
        let before = self.0.keys().skip(1).copied().chain([to.saturating_add(1)]);
        Self(behind.zip(before).filter(|(from, next)| from < next).map(|(from, next)| (from, next - 1)).collect())
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<T: IntoIterator<Item = u64>>(numbers: T) -> Self {
        let mut all = Self::default();
        numbers.into_iter().for_each(|number| all.insert(number));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_any_order_are_as_few_ranges_as_there_are() {
        let mut random = 7_u64;
        for _ in 0..200 {
            let mut known = std::collections::BTreeSet::new();
            let mut numbers = Numbers::default();
            for _ in 0..40 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let number = 1 + (random >> 40) % 50;
                known.insert(number);
                numbers.insert(number);
            }
            let ranges = known.iter().filter(|number| !known.contains(&(**number - 1))).count();
            assert_eq!((numbers.0.len(), numbers.first()), (ranges, known.first().copied()));
            assert_eq!(numbers.last(), known.last().copied());
            let first = numbers.first().unwrap();
            let missing: Vec<u64> = (first..=55).filter(|number| !known.contains(number)).collect();
            let found: Vec<u64> = numbers.missing(55).ranges().flat_map(|(from, to)| from..=to).collect();
            assert_eq!(found, missing);
            let taken = numbers.take_from(first);
            let behind = known.iter().find(|number| **number > first && !known.contains(&(**number - 1)));
            assert_eq!((taken.is_some(), numbers.first()), (true, behind.copied()));
        }
        assert_eq!(Numbers::default().missing(10), Numbers::default());
        let last: Numbers = [u64::MAX, u64::MAX - 1].into_iter().collect();
        assert_eq!((last.first(), last.last()), (Some(u64::MAX - 1), Some(u64::MAX)));
    }
}
