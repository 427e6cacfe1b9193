//! Generated secrets of devices and API keys.
//!
//! ```text
//! wd_{credential id 12}_{secret 43}{checksum 6}      a device's password
//! weir_{credential id 12}_{secret 43}{checksum 6}    an API key
//! ```
//! The secret is 256 bits from the operating system in base 62, the checksum the CRC-32 of all
//! characters before it: scanners of repositories recognise a leaked one by prefix and checksum.
//! The id is not secret; it finds the row.

mod base62;
mod file;
mod peppers;
#[cfg(test)]
mod tests;

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use file::{KeyFileError, read_private};
pub(crate) use file::{replace, sync_folder_of};
pub(crate) use peppers::Verdict;
pub use peppers::{Digest, PepperError, Peppers};

const ID: usize = 12;
const SECRET: usize = 43;
const CHECKSUM: usize = 6;

/// The id of a credential: 12 characters of `0-9A-Za-z`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialId([u8; ID]);

impl CredentialId {
    pub(crate) fn generate() -> std::io::Result<Self> {
        // 62^12 is about 2^71, so that the remainder of 2^128 favours no id.
        Ok(Self(base62::encode(u128::from_le_bytes(random()?))))
    }

    /// Returns the id of a credential that is found by its content: by the address of an issuer, by
    /// the name of a principal. The first 128 bits of the SHA-256 of all parts, each behind its
    /// length, in base 62. Compare the content of the row that it finds.
    pub(crate) fn derived(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash: [u8; 32] = hash.finalize().into();
        let (first, _) = hash.split_first_chunk::<16>().expect("a half of 32 bytes");
        Self(base62::encode(u128::from_le_bytes(*first)))
    }

    /// Returns an id, if the text is one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID] = text.as_bytes().try_into().ok()?;
        base62::is_digits(&bytes).then_some(Self(bytes))
    }

    /// Returns its characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<CredentialId> for String {
    fn from(id: CredentialId) -> Self {
        id.as_str().to_owned()
    }
}

impl TryFrom<String> for CredentialId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not the id of a credential"))
    }
}

/// The kind of a [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// The password of a device.
    DeviceSecret,
    /// The bearer token of a caller of the api.
    ApiKey,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::DeviceSecret => "wd_",
            Self::ApiKey => "weir_",
        }
    }
}

/// The text of a token, which is shown once, to the caller that created it, or of a password.
/// `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token with its secret; `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    kind: TokenKind,
    id: CredentialId,
    secret: [u8; 32],
}

impl Token {
    /// Generates a token.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn generate(kind: TokenKind) -> std::io::Result<Self> {
        Ok(Self { kind, id: CredentialId::generate()?, secret: random()? })
    }

    /// Parses a token of one kind: `None` when length, characters or checksum are not right.
    pub fn parse(kind: TokenKind, text: &[u8]) -> Option<Self> {
        let prefix = kind.prefix().as_bytes();
        if text.len() != prefix.len() + ID + 1 + SECRET + CHECKSUM || !text.starts_with(prefix) {
            return None;
        }
        let (body, checksum) = text.split_last_chunk::<CHECKSUM>()?;
        if checksum_of(body) != *checksum {
            return None;
        }
        let (id, secret) = body.strip_prefix(prefix)?.split_first_chunk::<ID>()?;
        let secret: &[u8; SECRET] = secret.strip_prefix(b"_")?.try_into().ok()?;
        let id = base62::is_digits(id).then_some(CredentialId(*id))?;
        Some(Self { kind, id, secret: base62::decode_256(secret)? })
    }

    /// Returns its kind.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// Returns the id of its credential.
    pub fn id(&self) -> CredentialId {
        self.id
    }

    /// The same token for another credential.
    #[cfg(test)]
    pub(crate) fn with_id(self, id: CredentialId) -> Self {
        Self { id, ..self }
    }

    /// Returns its text.
    pub fn text(&self) -> Secret {
        let mut text = String::with_capacity(80);
        text.push_str(self.kind.prefix());
        text.push_str(self.id.as_str());
        text.push('_');
        text.extend(base62::encode_256(&self.secret).map(char::from));
        let checksum = checksum_of(text.as_bytes());
        text.extend(checksum.map(char::from));
        Secret(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}{}_..)", self.kind.prefix(), self.id)
    }
}

fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM] {
    base62::encode(u128::from(crc32fast::hash(bytes)))
}

pub(crate) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes come in one piece.
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    if filled == N { Ok(bytes) } else { Err(std::io::Error::other("the system returned too few random bytes")) }
}
