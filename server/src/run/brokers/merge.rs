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

/// An item of a node, or of the store that the nodes share.
pub(super) struct Row<T> {
    pub(super) item: T,
    pub(super) is_stored: bool,
}

/// As [`merge`], of nodes and their store. An item of the store has to come behind those of the
/// nodes with the same identity: it is left out when there is one, after `complete` has taken from
/// it what the other one lacks.
pub(super) fn merge_stored<T, K: Ord, Id: PartialEq>(
    parts: Vec<Part<Row<T>, K>>,
    key: impl Fn(&Row<T>) -> K,
    identity: impl Fn(&T) -> Id,
    complete: impl Fn(&mut T, &T),
    limit: usize,
) -> (Vec<T>, Option<K>) {
    let (mut all, end) = merge(parts, &key, usize::MAX);
    all.dedup_by(|later, kept| {
        let is_known = later.is_stored && identity(&later.item) == identity(&kept.item);
        if is_known {
            complete(&mut kept.item, &later.item);
        }
        is_known
    });
    let (all, next) = cut(all, key, limit, end);
    (all.into_iter().map(|row| row.item).collect(), next)
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
    fn an_item_of_the_store_is_left_out_when_a_node_has_it() {
        // A client, a count, and a node; behind all nodes comes the store.
        type Session = (u32, u32, char);
        const STORE: char = char::MAX;
        let key = |row: &Row<Session>| (row.item.0, if row.is_stored { STORE } else { row.item.2 });
        let merged = |nodes: &[&[Session]], stored: &[Session], most: usize, limit: usize| {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let part = |items: &[Session], node: char, is_stored: bool| {
                    let rest = items.iter().map(|item| Row { item: *item, is_stored });
                    // The store continues behind the client, whichever node the page ended with.
                    let behind = after.map(|(client, last)| (client, if is_stored { STORE } else { last }));
                    let rest: Vec<_> = rest.filter(|row| Some((row.item.0, node)) > behind).collect();
                    let next = rest.get(most - 1).filter(|_| rest.len() > most).map(|row| (row.item.0, node));
                    Part { items: rest.into_iter().take(most).collect(), next }
                };
                let mut parts: Vec<_> = ('a'..).zip(nodes).map(|(name, items)| part(items, name, false)).collect();
                parts.push(part(stored, STORE, true));
                let complete = |kept: &mut Session, stored: &Session| kept.1 = stored.1;
                let (page, next) = merge_stored(parts, key, |of| of.0, complete, limit);
                assert!(page.len() <= limit);
                found.extend(page.into_iter().map(|(client, count, node)| {
                    // One of two nodes with a session is completed, or none at the end of a page.
                    if client == 3 { (client, 0, node) } else { (client, count, node) }
                }));
                after = next;
                if after.is_none() {
                    return found;
                }
            }
        };
        let a = [(1, 0, 'a'), (3, 0, 'a'), (5, 0, 'a')];
        let b = [(2, 0, 'b'), (3, 0, 'b'), (9, 0, 'b')];
        let stored = [(0, 7, 'z'), (3, 7, 'a'), (5, 7, 'a'), (6, 7, 'z'), (10, 7, 'b')];
        let expected =
            [(0, 7, 'z'), (1, 0, 'a'), (2, 0, 'b'), (3, 0, 'a'), (3, 0, 'b'), (5, 7, 'a'), (6, 7, 'z'), (9, 0, 'b')];
        for (most, limit) in [(1, 1), (1, 9), (2, 1), (2, 3), (3, 2), (9, 1), (9, 2), (9, 99)] {
            let found = merged(&[&a, &b], &stored, most, limit);
            assert_eq!(found[..8], expected, "{most} and {limit}");
            assert_eq!(found[8..], [(10, 7, 'b')], "{most} and {limit}");
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
