//! Peppers: the keys under which secrets are kept. They lie outside of the registry, so that a copy
//! of the registry alone checks no guess.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{Token, TokenKind, random};

const HEADER: &str = "# Keys of Weir's credentials. Keep this file secret, and back it up apart from registry.redb:\n\
                      # without it no device secret and no API key is valid.\n";
/// More than two peppers with comments need.
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
    /// The file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Other users of the machine can read the file.
    #[error("{} can be read by other users: run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
    /// The text is not one or two peppers.
    #[error("{place}: {reason}: expected one or two lines `VERSION KEY`, the key as 64 hexadecimal digits")]
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

    fn line(&self) -> String {
        let mut line = format!("{} ", self.version);
        for byte in self.key {
            line.push_str(&format!("{byte:02x}"));
        }
        line.push('\n');
        line
    }
}

/// The current pepper and the previous one. Secrets are kept under the current pepper; one that is
/// kept under the previous one is valid, and moves at its next use.
#[derive(Clone)]
pub struct Peppers {
    current: Pepper,
    previous: Option<Pepper>,
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let previous = self.previous.as_ref().map(|pepper| pepper.version);
        f.debug_struct("Peppers").field("current", &self.current.version).field("previous", &previous).finish()
    }
}

impl Peppers {
    /// One new pepper, version 1.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        Ok(Self { current: Pepper::new(1, random()?), previous: None })
    }

    /// Reads peppers from a text: lines `VERSION KEY`, the highest version is the current one.
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
            found.push(Pepper::new(version, hexadecimal(key.trim()).ok_or_else(|| fault("a key is malformed"))?));
        }
        found.sort_by_key(|pepper| std::cmp::Reverse(pepper.version));
        let mut found = found.into_iter();
        let (current, previous) = (found.next(), found.next());
        let current = current.ok_or_else(|| fault("there is none"))?;
        if found.next().is_some() {
            return Err(fault("there are more than two"));
        }
        if previous.as_ref().is_some_and(|previous| previous.version == current.version) {
            return Err(fault("two have one version"));
        }
        Ok(Self { current, previous })
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// [`PepperError`].
    pub fn read(path: &Path) -> Result<Option<Self>, PepperError> {
        let failed = |source| PepperError::Io { path: path.to_owned(), source };
        let permissions = match std::fs::metadata(path) {
            Ok(metadata) => metadata.permissions(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if permissions.mode() & 0o077 != 0 {
            return Err(PepperError::Exposed(path.to_owned()));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        Self::parse(&path.display().to_string(), &bytes).map(Some)
    }

    /// Reads the file, or creates it with one new pepper. Only a new registry may get a new pepper:
    /// see [`Registry::match_peppers`](crate::Registry::match_peppers).
    ///
    /// # Errors
    /// [`PepperError`].
    pub fn open(path: &Path) -> Result<Self, PepperError> {
        if let Some(peppers) = Self::read(path)? {
            return Ok(peppers);
        }
        let failed = |source| PepperError::Io { path: path.to_owned(), source };
        let peppers = Self::generate().map_err(failed)?;
        peppers.write(path).map_err(failed)?;
        Ok(peppers)
    }

    /// Returns peppers with a new current one; the current one becomes the previous one, and
    /// secrets that are kept under the one before it are no longer valid.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn rotated(&self) -> std::io::Result<Self> {
        let current = Pepper::new(self.current.version.saturating_add(1), random()?);
        Ok(Self { current, previous: Some(self.current.clone()) })
    }

    /// Writes the file, readable by its owner only: it is replaced at once and on disk when this
    /// returns.
    ///
    /// # Errors
    /// As the disk has it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(HEADER.as_bytes())?;
        for pepper in [Some(&self.current), self.previous.as_ref()].into_iter().flatten() {
            file.write_all(pepper.line().as_bytes())?;
        }
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    }

    /// Returns the form in which a token is kept.
    pub(crate) fn digest(&self, token: &Token) -> Digest {
        Digest { pepper: self.current.version, hmac: self.current.mac(token).finalize().into_bytes().into() }
    }

    /// Compares a token with its digest in constant time. Without a digest, and for a pepper that
    /// does not exist, the same work is done.
    pub(crate) fn verify(&self, token: &Token, digest: Option<&Digest>) -> Verdict {
        let kept = |pepper: &&Pepper| digest.is_some_and(|digest| digest.pepper == pepper.version);
        let pepper = [Some(&self.current), self.previous.as_ref()].into_iter().flatten().find(kept);
        let expected = digest.map_or([0; 32], |digest| digest.hmac);
        let is_equal = pepper.unwrap_or(&self.current).mac(token).verify_slice(&expected).is_ok();
        match pepper {
            Some(pepper) if is_equal && pepper.version == self.current.version => Verdict::Right,
            Some(_) if is_equal => Verdict::Old,
            _ => Verdict::Wrong,
        }
    }

    /// True when a digest can be checked.
    pub(crate) fn knows(&self, version: u32) -> bool {
        self.current.version == version || self.previous.as_ref().is_some_and(|previous| previous.version == version)
    }

    /// Returns a value for each version from which another file with the same versions is told
    /// apart; it reveals no key.
    pub fn fingerprints(&self) -> Vec<(u32, [u8; 32])> {
        let of = |pepper: &Pepper| {
            let mut mac = pepper.keyed.clone();
            mac.update(b"fingerprint");
            (pepper.version, mac.finalize().into_bytes().into())
        };
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten().map(of).collect()
    }
}

fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(key)
}
