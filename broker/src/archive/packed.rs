//! Messages of a session that are not in memory: two or three bytes for each.
//!
//! Of each message, its id and its number in the session are kept as differences to those of the
//! message before, which are small: ids increase for all sessions of the node, numbers for each.

/// A message that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Id of its record.
    pub(crate) id: u64,
    /// Its number in the session.
    pub(crate) number: u64,
    /// Other sessions get it, too, or had it.
    pub(crate) is_shared: bool,
}

/// Bytes of entries that were removed before the others move up.
const SLACK: usize = 4096;

/// Entries in their order.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    /// The entries before are removed.
    begun: usize,
    /// Id and number before the first entry.
    before: (u64, u64),
    /// Id and number of the last entry.
    last: (u64, u64),
    length: usize,
}

impl Packed {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Id of the first entry.
    pub(crate) fn first_id(&self) -> Option<u64> {
        self.iter().next().map(|entry| entry.id)
    }

    /// Id of the last entry.
    pub(crate) fn last_id(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.last.0)
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds an entry behind the others.
    pub(crate) fn push(&mut self, Entry { id, number, is_shared }: Entry) {
        put(&mut self.bytes, difference(self.last.0, id) << 1 | u128::from(is_shared));
        put(&mut self.bytes, difference(self.last.1, number));
        self.last = (id, number);
        self.length += 1;
    }

    /// Removes the first entry.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let (entry, next) = self.read(self.begun, self.before)?;
        (self.begun, self.before) = (next, (entry.id, entry.number));
        self.length -= 1;
        if self.length == 0 {
            *self = Self::default();
        } else if self.begun >= SLACK && self.begun >= self.bytes.len() / 2 {
            self.bytes.drain(..self.begun);
            self.bytes.shrink_to_fit();
            self.begun = 0;
        }
        Some(entry)
    }

    /// Returns the entries in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry> {
        let (mut at, mut before) = (self.begun, self.before);
        std::iter::from_fn(move || {
            let (entry, next) = self.read(at, before)?;
            (at, before) = (next, (entry.id, entry.number));
            Some(entry)
        })
    }

    fn read(&self, at: usize, before: (u64, u64)) -> Option<(Entry, usize)> {
        let (id, at) = get(&self.bytes, at)?;
        let (number, at) = get(&self.bytes, at)?;
        let entry = Entry { id: apply(before.0, id >> 1), number: apply(before.1, number), is_shared: id & 1 == 1 };
        Some((entry, at))
    }
}

impl IntoIterator for Packed {
    type Item = Entry;
    type IntoIter = Rest;

    fn into_iter(self) -> Rest {
        Rest(self)
    }
}

/// The entries that are left.
#[derive(Debug)]
pub(crate) struct Rest(Packed);

impl Iterator for Rest {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.0.pop()
    }
}

/// Returns a difference as a number that is small in both directions.
fn difference(from: u64, to: u64) -> u128 {
    let difference = i128::from(to) - i128::from(from);
    (difference << 1 ^ difference >> 127).cast_unsigned()
}

fn apply(from: u64, difference: u128) -> u64 {
    let signed = (difference >> 1).cast_signed() ^ -(difference & 1).cast_signed();
    // It was made from two numbers of this size.
    u64::try_from(i128::from(from) + signed).unwrap_or(u64::MAX)
}

/// Appends seven bits at a time, the lowest first.
fn put(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn get(bytes: &[u8], mut at: usize) -> Option<(u128, usize)> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = *bytes.get(at)?;
        value |= u128::from(byte & 0x7F) << shift;
        (at, shift) = (at + 1, shift + 7);
        if byte < 0x80 {
            return Some((value, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_in_their_order() {
        let (mut packed, mut all) = (Packed::default(), std::collections::VecDeque::new());
        let mut random = 3_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let edges = [(0, 1), (u64::MAX, 1), (0, u64::MAX), (u64::MAX, u64::MAX), (1, 1)];
        for turn in 0..40_000_u64 {
            let (id, number) = match turn {
                0..5 => edges[turn as usize],
                _ => (1_700_000_000_000_000_000 + 3 * turn - draw(9), 10 + turn - draw(4)),
            };
            let entry = Entry { id, number, is_shared: draw(5) == 0 };
            packed.push(entry);
            all.push_back(entry);
            if turn % 3 > 0 || turn > 30_000 {
                assert_eq!(packed.pop(), all.pop_front());
            }
            assert_eq!(packed.len(), all.len());
        }
        assert!(packed.iter().eq(all.iter().copied()));
        while let Some(entry) = all.pop_front() {
            assert_eq!(packed.pop(), Some(entry));
        }
        assert_eq!((packed.pop(), packed.memory(), packed.is_empty()), (None, 0, true));
    }

    #[test]
    fn a_message_costs_two_or_three_bytes() {
        let mut packed = Packed::default();
        for turn in 0..100_000 {
            packed.push(Entry { id: 1_700_000_000_000_000_000 + 40 * turn, number: 1 + turn, is_shared: false });
        }
        assert!(packed.bytes.len() < 300_100, "{}", packed.bytes.len());
    }
}
