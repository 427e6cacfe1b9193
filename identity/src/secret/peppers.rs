//! Peppers: the keys under which secrets are kept. They lie outside of the registry, so that a copy
//! of the registry alone checks no guess.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::file::{self, KeyFileError};
use super::{CredentialId, Token, TokenKind, random};
use crate::hex;

const HEADER: &str = "# Keys of Weir's credentials. Keep this file secret, and back it up apart from registry.redb:\n\
                      # without it no device secret and no API key is valid.\n";
/// The current pepper, the one before it, and one that is prepared.
const MAX_PEPPERS: usize = 3;
/// More than three peppers with comments need.
const MAX_FILE_BYTES: usize = 4096;

/// HMAC-SHA256 of a secret under a pepper; `Debug` shows the pepper's version only.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Version of the pepper.
    pub pepper: u32,
    /// The authentication code.
    pub hmac: [u8; 32],
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest(pepper {})", self.pepper)
    }
}

/// The reason why peppers cannot be read or written. Its text names no key.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The file cannot be read or written, or others can read it.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The text is not one to three peppers.
    #[error("{place}: {reason}: expected one to three lines `VERSION KEY`, the key as 64 hexadecimal digits")]
    Malformed {
        /// The file, or the name of the source.
        place: String,
        /// The fault.
        reason: &'static str,
    },
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wrong,
    Right,
    /// Right under the previous pepper: keep it under the current one from now on.
    Old,
}

#[derive(Clone)]
struct Pepper {
    version: u32,
    key: [u8; 32],
    /// The keyed state, so that a check hashes the key no second time.
    keyed: Hmac<Sha256>,
}

impl Pepper {
    fn new(version: u32, key: [u8; 32]) -> Self {
        let keyed = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { version, key, keyed }
    }

    /// The code covers kind and id: the digest of one row is not valid in another.
    fn mac(&self, token: &Token) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(match token.kind {
            TokenKind::DeviceSecret => b"d",
            TokenKind::ApiKey => b"k",
        });
        mac.update(token.id.as_str().as_bytes());
        mac.update(&token.secret);
        mac
    }

    fn of_password(&self, id: &CredentialId, password: &[u8]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(b"p");
        mac.update(id.as_str().as_bytes());
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    fn line(&self) -> String {
        format!("{} {}\n", self.version, hex::encode(&self.key))
    }
}

/// The current pepper, and others that secrets may be kept under: the one before it, and one that
/// is prepared to become the current one. Secrets are kept under the current pepper; one that is
/// kept under another is valid, and moves at its next use.
///
/// All holders of one value see a change at once ([`Peppers::replace`]).
pub struct Peppers(RwLock<Arc<Set>>);

#[derive(Clone)]
struct Set {
    current: Pepper,
    others: Vec<Pepper>,
}

impl Set {
    fn all(&self) -> impl Iterator<Item = &Pepper> {
        std::iter::once(&self.current).chain(&self.others)
    }

    fn newest(&self) -> u32 {
        self.all().map(|pepper| pepper.version).max().unwrap_or_default()
    }

    fn generate(&self) -> std::io::Result<Pepper> {
        Ok(Pepper::new(self.newest().saturating_add(1), random()?))
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set();
        let others: Vec<u32> = set.others.iter().map(|pepper| pepper.version).collect();
        f.debug_struct("Peppers").field("current", &set.current.version).field("others", &others).finish()
    }
}

impl Peppers {
    /// One new pepper, version 1.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        Ok(Self::of(Set { current: Pepper::new(1, random()?), others: Vec::new() }))
    }

    fn of(set: Set) -> Self {
        Self(RwLock::new(Arc::new(set)))
    }

    fn set(&self) -> Arc<Set> {
        Arc::clone(&self.0.read())
    }

    /// Takes over the peppers of another value.
    pub fn replace(&self, new: &Self) {
        let new = new.set();
        *self.0.write() = new;
    }

    /// Reads peppers from a text: lines `VERSION KEY`, the first one is the current one.
    ///
    /// # Errors
    /// [`PepperError::Malformed`]; `place` names the text in it.
    pub fn parse(place: &str, text: &[u8]) -> Result<Self, PepperError> {
        let fault = |reason| PepperError::Malformed { place: place.to_owned(), reason };
        if text.len() > MAX_FILE_BYTES {
            return Err(fault("it is too long"));
        }
        let text = std::str::from_utf8(text).map_err(|_| fault("it is not UTF-8"))?;
        let mut found = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (version, key) = line.split_once(' ').ok_or_else(|| fault("a line has one word"))?;
            let version = version.parse().map_err(|_| fault("a version is not a number"))?;
            found.push(Pepper::new(version, hex::decode(key.trim()).ok_or_else(|| fault("a key is malformed"))?));
        }
        if found.len() > MAX_PEPPERS {
            return Err(fault("there are more than three"));
        }
        let mut versions: Vec<u32> = found.iter().map(|pepper| pepper.version).collect();
        versions.sort_unstable();
        if versions.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(fault("two have one version"));
        }
        let mut found = found.into_iter();
        let current = found.next().ok_or_else(|| fault("there is none"))?;
        Ok(Self::of(Set { current, others: found.collect() }))
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// [`PepperError`].
    pub fn read(path: &Path) -> Result<Option<Self>, PepperError> {
        let Some(bytes) = file::read_private(path)? else { return Ok(None) };
        Self::parse(&path.display().to_string(), &bytes).map(Some)
    }

    /// Reads the file, or creates it with one new pepper. Only a new registry may get a new pepper:
    /// see [`RegistryWrites::match_peppers`](crate::RegistryWrites::match_peppers).
    ///
    /// # Errors
    /// [`PepperError`].
    pub fn open(path: &Path) -> Result<Self, PepperError> {
        if let Some(peppers) = Self::read(path)? {
            return Ok(peppers);
        }
        let failed = KeyFileError::io(path);
        let peppers = Self::generate().map_err(&failed)?;
        peppers.write(path).map_err(&failed)?;
        Ok(peppers)
    }

    /// Returns peppers with a new current one: the one that was prepared, or one that is generated.
    /// The current one becomes the previous one, and secrets that are kept under the one before it
    /// are no longer valid.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn rotated(&self) -> std::io::Result<Self> {
        let set = self.set();
        let prepared = set.others.iter().find(|pepper| pepper.version > set.current.version).cloned();
        let current = prepared.map_or_else(|| set.generate(), Ok)?;
        Ok(Self::of(Set { current, others: vec![set.current.clone()] }))
    }

    /// Returns peppers with a further one that becomes the current one at the next rotation:
    /// processes that share a registry all know it before the first of them uses it. `None` when
    /// one is prepared already.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn prepared(&self) -> std::io::Result<Option<Self>> {
        let set = self.set();
        if set.newest() > set.current.version {
            return Ok(None);
        }
        let mut new = (*set).clone();
        new.others.push(set.generate()?);
        Ok(Some(Self::of(new)))
    }

    /// Returns the version of the current pepper.
    pub fn version(&self) -> u32 {
        self.set().current.version
    }

    /// Writes the file, readable by its owner only: it is replaced at once and on disk when this
    /// returns.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let lines: String = self.set().all().map(Pepper::line).collect();
        file::replace(path, 0o600, format!("{HEADER}{lines}").as_bytes())
    }

    /// Returns the form in which a token is kept.
    pub(crate) fn digest(&self, token: &Token) -> Digest {
        let set = self.set();
        Digest { pepper: set.current.version, hmac: set.current.mac(token).finalize().into_bytes().into() }
    }

    /// Compares a token with its digest in constant time. Without a digest, and for a pepper that
    /// does not exist, the same work is done.
    pub(crate) fn verify(&self, token: &Token, digest: Option<&Digest>) -> Verdict {
        let set = self.set();
        let pepper = set.all().find(|pepper| digest.is_some_and(|digest| digest.pepper == pepper.version));
        let expected = digest.map_or([0; 32], |digest| digest.hmac);
        let is_equal = pepper.unwrap_or(&set.current).mac(token).verify_slice(&expected).is_ok();
        match pepper {
            // One that is prepared is newer: another process uses it already.
            Some(pepper) if is_equal && pepper.version >= set.current.version => Verdict::Right,
            Some(_) if is_equal => Verdict::Old,
            _ => Verdict::Wrong,
        }
    }

    /// True when digests of a version need not move: of the current pepper, or of a prepared one,
    /// which another process uses already.
    pub(crate) fn is_current(&self, version: u32) -> bool {
        let set = self.set();
        set.all().any(|pepper| pepper.version == version && version >= set.current.version)
    }

    /// Returns a code for some parts, under each pepper: only this installation can make it.
    pub(crate) fn codes(&self, parts: &[&str]) -> Vec<String> {
        let code = |pepper: &Pepper| {
            let mut mac = pepper.keyed.clone();
            mac.update(b"code");
            for part in parts {
                mac.update(&(part.len() as u64).to_le_bytes());
                mac.update(part.as_bytes());
            }
            hex::encode(&mac.finalize().into_bytes()[..16])
        };
        self.set().all().map(code).collect()
    }

    /// Returns what is hashed in place of a password: its code under the pepper of a version;
    /// `None` for a pepper that does not exist.
    pub(crate) fn of_password(&self, version: u32, id: &CredentialId, password: &[u8]) -> Option<[u8; 32]> {
        let set = self.set();
        set.all().find(|pepper| pepper.version == version).map(|pepper| pepper.of_password(id, password))
    }

    /// Returns the version of the current pepper, and what is hashed in place of a password that is
    /// kept from now on.
    pub(crate) fn of_new_password(&self, id: &CredentialId, password: &[u8]) -> (u32, [u8; 32]) {
        let set = self.set();
        (set.current.version, set.current.of_password(id, password))
    }

    /// True when a digest can be checked.
    pub(crate) fn knows(&self, version: u32) -> bool {
        self.set().all().any(|pepper| pepper.version == version)
    }

    /// Returns a value for each version from which another file with the same versions is told
    /// apart; it reveals no key.
    pub fn fingerprints(&self) -> Vec<(u32, [u8; 32])> {
        let of = |pepper: &Pepper| {
            let mut mac = pepper.keyed.clone();
            mac.update(b"fingerprint");
            (pepper.version, mac.finalize().into_bytes().into())
        };
        self.set().all().map(of).collect()
    }
}
