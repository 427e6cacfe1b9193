//! Sealing with one key.
//!
//! ```text
//! key id u32   nonce, 12 bytes   contents, as long as they were   tag, 16 bytes
//! ```
//! **Nonces.** A key begins, in each process, at a random 96-bit number and adds one for each use.
//! In a process no nonce repeats. Two processes, one after the other, share a nonce only if their
//! beginnings are closer than the number of uses: with 2^16 starts and 2^32 uses each, that has a
//! probability of 2^-32 over the life of the key.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of the tag behind the contents.
const TAG_BYTES: usize = 16;
/// Bytes before the contents: the id of the key and the nonce.
pub const HEAD_BYTES: usize = 4 + NONCE_LEN;
/// Bytes that sealed contents have more.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;

/// A key as it is generated or unwrapped; cleared when it is dropped.
pub(crate) type RawKey = Zeroizing<[u8; KEY_BYTES]>;

/// A key with its nonces.
#[derive(Debug)]
pub(crate) struct DataKey {
    id: u32,
    key: LessSafeKey,
    /// First nonce of this process.
    base: u128,
    used: AtomicU64,
}

impl DataKey {
    pub(crate) fn new(id: u32, raw: &RawKey) -> Result<Self, Unspecified> {
        let mut base = [0; 16];
        rand::fill(&mut base)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &raw[..])?);
        Ok(Self { id, key, base: u128::from_le_bytes(base), used: AtomicU64::new(0) })
    }

    /// A random key.
    pub(crate) fn generate() -> Result<RawKey, Unspecified> {
        let mut raw = RawKey::default();
        rand::fill(&mut raw[..])?;
        Ok(raw)
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    fn next_nonce(&self) -> [u8; NONCE_LEN] {
        let number = self.base.wrapping_add(self.used.fetch_add(1, Ordering::Relaxed).into());
        // The upper four bytes are never used.
        let bytes = number.to_le_bytes();
        *bytes.first_chunk().expect("sixteen bytes begin with twelve")
    }

    /// Seals in place what is behind [`HEAD_BYTES`] of room at `at`, and appends the tag.
    pub(crate) fn seal(&self, aad: &[u8], buffer: &mut Vec<u8>, at: usize) -> Result<(), Unspecified> {
        let nonce = self.next_nonce();
        let (head, contents) = buffer[at..].split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&self.id.to_le_bytes());
        head[4..].copy_from_slice(&nonce);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), contents)?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens sealed bytes in place. Returns the contents.
    pub(crate) fn open<'a>(&self, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Unspecified> {
        let (head, rest) = sealed.split_at_mut_checked(HEAD_BYTES).ok_or(Unspecified)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[4..])?;
        self.key.open_in_place(nonce, Aad::from(aad), rest)
    }
}

/// The id of the key that bytes were sealed with; `None` when they are too short.
pub(crate) fn key_id(sealed: &[u8]) -> Option<u32> {
    (sealed.len() >= OVERHEAD_BYTES).then(|| u32::from_le_bytes([sealed[0], sealed[1], sealed[2], sealed[3]]))
}

/// Wraps a key with another one.
pub(crate) fn wrap(with: &DataKey, aad: &[u8], raw: &RawKey) -> Result<Vec<u8>, Unspecified> {
    // The room that the key takes is written over by the sealed bytes.
    let mut out = Vec::with_capacity(OVERHEAD_BYTES + KEY_BYTES);
    out.resize(HEAD_BYTES, 0);
    out.extend_from_slice(&raw[..]);
    with.seal(aad, &mut out, 0)?;
    Ok(out)
}

/// Unwraps a key.
pub(crate) fn unwrap(with: &DataKey, aad: &[u8], wrapped: &[u8]) -> Result<RawKey, Unspecified> {
    let mut bytes = Zeroizing::new(wrapped.to_vec());
    let opened = with.open(aad, &mut bytes)?;
    let mut raw = RawKey::default();
    if opened.len() != KEY_BYTES {
        return Err(Unspecified);
    }
    raw.copy_from_slice(opened);
    Ok(raw)
}
