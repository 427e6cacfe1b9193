//! Encodes a cursor as text: `EPOCH DONE_TO SEALED_TO TALLIES [HOURS [GENERATION REWOUND_FROM]]`,
//! so that scripts can read the first numbers without parsing the rest.

use crate::cursor::Cursor;

pub(super) fn encode(cursor: &Cursor) -> String {
    let tallies = serde_json::to_string(&cursor.tallies).expect("maps with text keys are JSON");
    let mut text = format!("{} {} {} {tallies}", cursor.epoch, cursor.done_to, cursor.sealed_to);
    if !cursor.hours.is_empty() || cursor.generation > 0 {
        text.push(' ');
        text.push_str(&serde_json::to_string(&cursor.hours).expect("maps with keys that are texts are JSON"));
    }
    if cursor.generation > 0 {
        text.push_str(&format!(" {} {}", cursor.generation, cursor.rewound_from));
    }
    text
}

pub(super) fn decode(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(4, ' ');
    let mut next = || parts.next()?.parse().ok();
    let (epoch, done_to, sealed_to) = (next()?, next()?, next()?);
    let mut maps = serde_json::Deserializer::from_str(parts.next()?);
    let tallies = serde::Deserialize::deserialize(&mut maps).ok()?;
    let mut cursor = Cursor { done_to, sealed_to, epoch, tallies, ..Cursor::default() };
    if maps.end().is_err() {
        cursor.hours = serde::Deserialize::deserialize(&mut maps).ok()?;
    }
    if maps.end().is_err() {
        cursor.generation = serde::Deserialize::deserialize(&mut maps).ok()?;
        cursor.rewound_from = serde::Deserialize::deserialize(&mut maps).ok()?;
    }
    Some(cursor)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::cursor::{Cursor, Tally};

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let tally = Tally { stored: 5, merged: 1, dead_lettered: 2, other: 0, ..Tally::default() };
        let tallies = [("a b".to_owned(), tally)].into();
        let cursor = Cursor { done_to: 8, sealed_to: 9, epoch: 3, tallies, ..Cursor::default() };
        assert_eq!(decode(&encode(&cursor)).as_ref(), Some(&cursor));
        let cursor = Cursor { hours: [("a b".to_owned(), [(-3, 7), (4, 8)].into())].into(), ..cursor };
        assert_eq!(decode(&encode(&cursor)).as_ref(), Some(&cursor));
        let cursor = Cursor { generation: 4, rewound_from: 70, ..cursor };
        assert_eq!(decode(&encode(&cursor)).as_ref(), Some(&cursor));
        let cursor = Cursor { hours: [].into(), ..cursor };
        assert_eq!(decode(&encode(&cursor)), Some(cursor));
        assert_eq!(decode("1 2"), None);
    }

    /// The golden file is of the first release and is never regenerated.
    #[test]
    fn cursor_texts_of_the_first_release_are_read_and_written_as_they_were() {
        let golden = include_str!("../../tests/golden/redis-cursors-1.txt");
        let [(_, rewound), (_, plain)] = crate::cursor::golden();
        for (text, cursor) in golden.lines().zip([plain, rewound]) {
            assert_eq!(decode(text).as_ref(), Some(&cursor));
            assert_eq!(encode(&cursor), text);
        }
    }
}
