//! A cursor as text: `EPOCH DONE_TO SEALED_TO TALLIES`, so that scripts find the numbers without reading the rest.

use crate::cursor::Cursor;

pub(super) fn encode(cursor: &Cursor) -> String {
    let tallies = serde_json::to_string(&cursor.tallies).expect("maps with text keys are JSON");
    format!("{} {} {} {tallies}", cursor.epoch, cursor.done_to, cursor.sealed_to)
}

pub(super) fn decode(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(4, ' ');
    let mut next = || parts.next()?.parse().ok();
    let (epoch, done_to, sealed_to) = (next()?, next()?, next()?);
    let tallies = serde_json::from_str(parts.next()?).ok()?;
    Some(Cursor { done_to, sealed_to, epoch, tallies })
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::cursor::{Cursor, Tally};

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let tally = Tally { stored: 5, merged: 1, dead_lettered: 2, other: 0, missed: 0 };
        let cursor = Cursor { done_to: 8, sealed_to: 9, epoch: 3, tallies: [("a b".to_owned(), tally)].into() };
        assert_eq!(decode(&encode(&cursor)), Some(cursor));
        assert_eq!(decode("1 2"), None);
    }
}
