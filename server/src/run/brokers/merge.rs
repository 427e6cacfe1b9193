//! Lists of several nodes as one.

/// A part of a list, in its order.
pub(super) struct Part<T, K> {
    pub(super) items: Vec<T>,
    /// Position up to which the part is whole; `None` when it is whole to the end.
    pub(super) next: Option<K>,
}

/// Merges parts into one page of at most `limit` items, in the order of their keys. It ends where
/// the first part that is not whole ends: what follows there is not known. Returns the position
/// behind which the next page begins, too.
pub(super) fn merge<T, K: Ord>(parts: Vec<Part<T, K>>, key: impl Fn(&T) -> K, limit: usize) -> (Vec<T>, Option<K>) {
    let mut end = None;
    let mut all = Vec::new();
    for part in parts {
        all.extend(part.items);
        end = match (end, part.next) {
            (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
            (a, b) => a.or(b),
        };
    }
    if let Some(end) = &end {
        all.retain(|item| key(item) <= *end);
    }
    all.sort_by_cached_key(&key);
    cut(all, key, limit, end)
}

/// As [`merge`]; of items with the same key, the newest.
pub(super) fn newest<T, K: Ord, Time: Ord>(
    parts: Vec<Part<T, K>>,
    key: impl Fn(&T) -> K,
    time: impl Fn(&T) -> Time,
    limit: usize,
) -> (Vec<T>, Option<K>) {
    let (mut all, end) = merge(parts, &key, usize::MAX);
    all.dedup_by(|later, kept| {
        let is_same = key(later) == key(kept);
        if is_same && time(later) > time(kept) {
            std::mem::swap(later, kept);
        }
        is_same
    });
    cut(all, key, limit, end)
}

fn cut<T, K>(mut all: Vec<T>, key: impl Fn(&T) -> K, limit: usize, end: Option<K>) -> (Vec<T>, Option<K>) {
    if all.len() <= limit {
        return (all, end);
    }
    all.truncate(limit);
    let next = all.last().map(key);
    (all, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Item = (u32, char);

    fn part(items: &[Item], next: Option<Item>) -> Part<Item, Item> {
        Part { items: items.to_vec(), next }
    }

    #[test]
    fn a_page_ends_where_the_first_part_ends_that_is_not_whole() {
        let parts = || {
            vec![
                part(&[(1, 'a'), (3, 'a'), (9, 'a')], Some((9, 'a'))),
                part(&[(2, 'b'), (3, 'b'), (4, 'b')], Some((5, 'b'))),
                part(&[(8, 'c')], None),
            ]
        };
        let (page, next) = merge(parts(), |item| *item, 10);
        assert_eq!(page, [(1, 'a'), (2, 'b'), (3, 'a'), (3, 'b'), (4, 'b')]);
        assert_eq!(next, Some((5, 'b')), "also when nothing matched up to there");
        let (page, next) = merge(parts(), |item| *item, 3);
        assert_eq!((page.len(), next), (3, Some((3, 'a'))));
        let whole = || vec![part(&[(1, 'a')], None), part(&[], None)];
        assert_eq!(merge(whole(), |item| *item, 1), (vec![(1, 'a')], None));
        assert_eq!(merge(Vec::<Part<Item, Item>>::new(), |item| *item, 1), (vec![], None));
    }

    #[test]
    fn pages_of_any_size_hold_each_item_once() {
        let nodes: [Vec<Item>; 3] = [
            (0..50).map(|n| (n, 'a')).collect(),
            (0..80).step_by(3).map(|n| (n, 'b')).collect(),
            vec![(7, 'c'), (79, 'c')],
        ];
        let mut expected: Vec<Item> = nodes.concat();
        expected.sort_unstable();
        for (limit, most) in [(1, 1), (3, 2), (7, 100), (1000, 5)] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let parts = nodes.iter().map(|items| {
                    // As a node does: at most so many items, and where it ended.
                    let rest: Vec<Item> = items.iter().copied().filter(|item| Some(*item) > after).collect();
                    let cut = rest.len() > most;
                    let items = rest[..rest.len().min(most)].to_vec();
                    let next = items.last().copied().filter(|_| cut);
                    Part { items, next }
                });
                let (page, next) = merge(parts.collect(), |item| *item, limit);
                assert!(page.len() <= limit);
                found.extend(page);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{limit} and {most}");
        }
    }

    #[test]
    fn of_the_same_key_the_newest_stays() {
        let part = |items: &[(&'static str, u32)]| Part { items: items.to_vec(), next: None };
        let parts = vec![part(&[("a", 1), ("b", 5)]), part(&[("a", 2), ("c", 1)]), part(&[("b", 4)])];
        let (page, next) = newest(parts, |item| item.0, |item| item.1, 2);
        assert_eq!((page, next), (vec![("a", 2), ("b", 5)], Some("b")));
    }
}
