//! Page tokens and resume tokens: versioned, authenticated, encrypted, bound to their query.
//!
//! ```text
//! 0 version u8   1 hash of the query u64   9 position, by call   [last 16 bytes: HMAC-SHA-256 over everything
//! before, cut to 128 bits]
//! ```
//! Hash and position are encrypted with a key stream, HMAC-SHA-256 over the last 16 bytes and a
//! counter (the construction of synthetic initialization vectors): a position may be a device that
//! the caller does not see, where a page ended while others were examined.
//!
//! The hash is the beginning of an HMAC-SHA-256 of the call and its request under the same key, so
//! that no two queries can be made to share their tokens. A token names a position and grants no
//! rights: a call with a token is authorized like any other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

const VERSION: u8 = 4;
const HEAD: usize = 9;
const TAG: usize = 16;
/// Maximum size of a token.
const MAX_BYTES: usize = 4096;

/// The query that a token belongs to, with the key of its tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Query {
    key: [u8; 32],
    hash: u64,
}

impl Query {
    /// The query of a call and its request, whose tokens and page size were cleared and whose
    /// tenant was resolved.
    pub(crate) fn new(key: &[u8; 32], call: &str, request: &impl Message) -> Self {
        // A token begins with its version, a query with a byte that is no version.
        let mut bytes = vec![0];
        bytes.extend_from_slice(call.as_bytes());
        bytes.push(0);
        bytes.extend(request.encode_to_vec());
        let tag = mac(key, &bytes).finalize().into_bytes();
        Self { key: *key, hash: u64::from_le_bytes(tag[..8].try_into().expect("eight bytes")) }
    }

    /// Makes a page token for the position that `write` writes.
    pub(crate) fn page(self, write: impl FnOnce(&mut Writer)) -> String {
        URL_SAFE_NO_PAD.encode(self.token(write))
    }

    /// Reads the position in a page token; `None` for an empty token, the first page.
    ///
    /// # Errors
    /// A message for the caller.
    pub(crate) fn read_page<T>(
        self,
        token: &str,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<Option<T>, &'static str> {
        let bytes = if token.len() <= 2 * MAX_BYTES { URL_SAFE_NO_PAD.decode(token).ok() } else { None };
        self.read_token(&bytes.ok_or(MALFORMED)?, read)
    }

    /// Makes a token for the position that `write` writes.
    pub(crate) fn token(self, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(64));
        writer.0.push(VERSION);
        writer.u64(self.hash);
        write(&mut writer);
        let tag = mac(&self.key, &writer.0).finalize().into_bytes();
        apply_key_stream(&self.key, &tag[..TAG], &mut writer.0[1..]);
        writer.0.extend_from_slice(&tag[..TAG]);
        writer.0
    }

    /// Reads the position in a token; `None` for an empty one.
    ///
    /// # Errors
    /// A message for the caller.
    pub(crate) fn read_token<T>(
        self,
        token: &[u8],
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<Option<T>, &'static str> {
        if token.is_empty() {
            return Ok(None);
        }
        let (bytes, tag) = match token.len().checked_sub(TAG) {
            Some(at) if at > 0 && token.len() <= MAX_BYTES => token.split_at(at),
            _ => return Err(MALFORMED),
        };
        // The version is read before the tag: what is signed differs between versions.
        if bytes[0] != VERSION {
            return Err("belongs to another release: start from the beginning");
        }
        let mut bytes = bytes.to_vec();
        apply_key_stream(&self.key, tag, &mut bytes[1..]);
        mac(&self.key, &bytes).verify_truncated_left(tag).map_err(|_| UNSIGNED)?;
        self.read(&bytes, read).map(Some)
    }

    fn read<T>(self, bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Result<T, &'static str> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(MALFORMED)?;
        let hash = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
        if hash != self.hash {
            return Err("belongs to another query: all other fields must be as they were in the first call");
        }
        let mut reader = Reader(rest);
        let place = read(&mut reader).ok_or(MALFORMED)?;
        if reader.0.is_empty() { Ok(place) } else { Err(MALFORMED) }
    }
}

const MALFORMED: &str = "is not a token of this server: pass it back unchanged";
const UNSIGNED: &str = "was not issued by this installation or was changed: start from the beginning";

fn mac(secret: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac
}

/// Returns a text that stands for another one, which it does not show.
pub(crate) fn opaque(secret: &[u8; 32], text: &str) -> String {
    // Neither a token nor a query nor a key stream begins with this byte.
    let tag = mac(secret, &[&[2], text.as_bytes()].concat()).finalize().into_bytes();
    URL_SAFE_NO_PAD.encode(&tag[..TAG])
}

/// Encrypts or decrypts bytes of a token with this tag.
fn apply_key_stream(secret: &[u8; 32], tag: &[u8], bytes: &mut [u8]) {
    for (counter, part) in (0_u32..).zip(bytes.chunks_mut(32)) {
        // Neither a token nor a query begins with this byte.
        let mut block = vec![1];
        block.extend_from_slice(tag);
        block.extend_from_slice(&counter.to_le_bytes());
        let stream = mac(secret, &block).finalize().into_bytes();
        part.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
    }
}

/// Writes a position.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.u64(value.cast_unsigned());
    }

    pub(crate) fn text(&mut self, value: &str) {
        let length = u16::try_from(value.len()).expect("ids and names are shorter than 64 KiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }
}

/// Reads a position; methods return `None` when the bytes run out.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        Some(self.u64()?.cast_signed())
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let length = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(call: &str, filter: &str) -> Query {
        let request = proto::v1::ListDevicesRequest { filter: filter.into(), ..Default::default() };
        Query::new(&[7; 32], call, &request)
    }

    #[test]
    fn a_page_token_fits_only_its_own_query() {
        let token = query("Devices", "a").page(|w| w.text("d7"));
        assert_eq!(query("Devices", "a").read_page(&token, |r| r.text()), Ok(Some("d7".into())));
        assert!(query("Devices", "b").read_page(&token, |r| r.text()).is_err());
        assert!(query("Gaps", "a").read_page(&token, |r| r.text()).is_err());
        assert_eq!(query("Devices", "a").read_page("", |r| r.text()), Ok(None));
        assert!(query("Devices", "a").read_page("!!", |r| r.text()).is_err());
    }

    #[test]
    fn a_token_shows_nothing_of_its_position() {
        let query = query("Devices", "a");
        let token = |id: &str| query.token(|w| w.text(id));
        let (long, other) = (token(&"hall-7/pump".repeat(9)), token(&"hall-8/pump".repeat(9)));
        assert!(!long.windows(4).any(|bytes| bytes == b"hall"));
        let same = long.iter().zip(&other).skip(1).filter(|(a, b)| a == b).count();
        assert!(same < long.len() / 8, "tokens of similar positions are not similar: {same} bytes");
        assert_eq!(query.read_token(&long, |r| r.text()), Ok(Some("hall-7/pump".repeat(9))));
    }

    #[test]
    fn a_token_with_any_bit_changed_is_refused() {
        let query = query("Live", "a");
        let token = query.token(|w| w.i64(-5));
        assert_eq!(query.read_token(&token, |r| r.i64()), Ok(Some(-5)));
        assert_eq!(Query { key: [8; 32], ..query }.read_token(&token, |r| r.i64()), Err(UNSIGNED));
        for bit in 0..token.len() * 8 {
            let mut changed = token.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(query.read_token(&changed, |r| r.i64()).is_err(), "bit {bit}");
            let page = URL_SAFE_NO_PAD.encode(&changed);
            assert!(query.read_page(&page, |r| r.i64()).is_err(), "bit {bit} of a page token");
        }
        for length in 1..token.len() {
            assert!(query.read_token(&token[..length], |r| r.i64()).is_err(), "{length} bytes");
        }
    }
}
