//! The text of JSON payloads.

use std::borrow::Cow;

use super::{Class, Refusal};

/// A document in the text of a payload, and the way to read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonText<'a> {
    /// The whole payload, so that errors name positions in it.
    pub(crate) text: &'a str,
    /// Start of the document.
    pub(crate) at: usize,
    pub(crate) lenient: bool,
}

/// The text of a payload.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    text: Cow<'a, str>,
    /// First byte that is not UTF-8.
    foreign_at: Option<usize>,
}

/// Characters of bytes 0x80 to 0x9F in Windows-1252, which is Latin-1 elsewhere; NUL for none.
const WINDOWS: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“', '”', '•',
    '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

impl<'a> Decoded<'a> {
    /// Decodes a payload. Bytes that are not UTF-8 are read as Latin-1.
    pub(crate) fn new(payload: &'a [u8]) -> Result<Self, Refusal> {
        match std::str::from_utf8(payload) {
            Ok(text) => Ok(Self { text: Cow::Borrowed(text), foreign_at: None }),
            Err(error) => {
                let at = error.valid_up_to();
                let text = mixed(payload).ok_or_else(|| not_utf8(at))?;
                Ok(Self { text: Cow::Owned(text), foreign_at: Some(at) })
            }
        }
    }

    /// Returns the document at a position. Only a lenient reading takes bytes that are not UTF-8.
    pub(crate) fn from(&self, at: usize, lenient: bool) -> Result<JsonText<'_>, Refusal> {
        match self.foreign_at {
            Some(foreign) if !lenient => Err(not_utf8(foreign)),
            _ => Ok(JsonText { text: &self.text, at, lenient }),
        }
    }
}

fn not_utf8(at: usize) -> Refusal {
    Refusal::new(Class::Json, format!("not JSON: not UTF-8 at byte {at}"))
}

/// Decodes text in which UTF-8 and Latin-1 may be mixed; None for bytes that are neither.
fn mixed(payload: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(payload.len() + payload.len() / 4);
    for chunk in payload.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push(latin(*byte)?);
        }
    }
    Some(out)
}

/// Returns the character of a byte from 0x80 on.
pub(super) fn latin(byte: u8) -> Option<char> {
    match byte {
        0x80..0xA0 => Some(WINDOWS[usize::from(byte) - 0x80]).filter(|c| *c != '\0'),
        byte => Some(char::from(byte)),
    }
}
