//! A cursor as text: `EPOCH DONE_TO SEALED_TO TALLIES HOURS`, without the last when there are none, so that scripts find the numbers without reading the rest.

use crate::cursor::Cursor;

pub(super) fn encode(cursor: &Cursor) -> String {
    let tallies = serde_json::to_string(&cursor.tallies).expect("maps with text keys are JSON");
    let mut text = format!("{} {} {} {tallies}", cursor.epoch, cursor.done_to, cursor.sealed_to);
    if !cursor.hours.is_empty() {
        text.push(' ');
        text.push_str(&serde_json::to_string(&cursor.hours).expect("maps with keys that are texts are JSON"));
    }
    text
}

pub(super) fn decode(text: &str) -> Option<Cursor> {
    let mut parts = text.splitn(4, ' ');
    let mut next = || parts.next()?.parse().ok();
    let (epoch, done_to, sealed_to) = (next()?, next()?, next()?);
    let mut maps = serde_json::Deserializer::from_str(parts.next()?);
    let tallies = serde::Deserialize::deserialize(&mut maps).ok()?;
    let mut rest = maps.into_iter::<std::collections::BTreeMap<String, crate::cursor::Hours>>();
    let hours = rest.next().transpose().ok()?.unwrap_or_default();
    Some(Cursor { done_to, sealed_to, epoch, tallies, hours })
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::cursor::{Cursor, Tally};

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        let tally = Tally { stored: 5, merged: 1, dead_lettered: 2, other: 0, missed: 0 };
        let tallies = [("a b".to_owned(), tally)].into();
        let cursor = Cursor { done_to: 8, sealed_to: 9, epoch: 3, tallies, ..Cursor::default() };
        assert_eq!(decode(&encode(&cursor)).as_ref(), Some(&cursor));
        let cursor = Cursor { hours: [("a b".to_owned(), [(-3, 7), (4, 8)].into())].into(), ..cursor };
        assert_eq!(decode(&encode(&cursor)), Some(cursor));
        assert_eq!(decode("1 2"), None);
    }
}
