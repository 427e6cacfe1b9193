//! Texts: each distinct text once, then its number for each row.

use std::collections::HashMap;

use super::numbers::{read_integers, write_integers};
use super::{CodecError, Input, varint};

pub(super) fn write(out: &mut Vec<u8>, values: &[Box<str>]) {
    let mut places: HashMap<&str, i64> = HashMap::new();
    let mut different = Vec::new();
    let rows: Vec<i64> = values
        .iter()
        .map(|text| {
            *places.entry(text).or_insert_with(|| {
                different.push(&**text);
                different.len() as i64 - 1
            })
        })
        .collect();
    varint(out, different.len() as u64);
    for text in different {
        varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    write_integers(out, &rows);
}

pub(super) fn read(input: &mut Input<'_>, count: usize) -> Result<Vec<Box<str>>, CodecError> {
    let mut different = Vec::new();
    for _ in 0..input.length(input.0.len())? {
        let length = input.length(input.0.len())?;
        different.push(std::str::from_utf8(input.take(length)?).map_err(|_| CodecError::Malformed)?);
    }
    let rows = read_integers(input.0, count)?;
    let text = |row: &i64| usize::try_from(*row).ok().and_then(|i| different.get(i)).map(|t| Box::from(*t));
    rows.iter().map(|row| text(row).ok_or(CodecError::Malformed)).collect()
}
