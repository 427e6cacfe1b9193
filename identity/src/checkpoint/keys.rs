//! The key that signs checkpoints, and the public keys by which they are checked.
//!
//! The key is one PEM section in a file of its own. The public keys, also those of keys that were
//! replaced, are PEM sections of the file beside it, so that checkpoints of each can be checked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::{PemObject, SectionKind};
use sha2::{Digest as _, Sha256};

use crate::public_key::pem;
use crate::secret::{KeyFileError, read_private, replace};
use crate::{SignedCheckpoint, hex};

/// `SubjectPublicKeyInfo` of Ed25519, before the 32 bytes of the key.
const SPKI: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Bytes of a file of public keys: some hundred.
const MAX_FILE_BYTES: usize = 64 << 10;

/// The reason why keys of checkpoints cannot be used. Its text names no key.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointKeyError {
    /// The file cannot be read or written, or others can read it.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The file has no key of this kind.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The fault, and how to mend it.
        reason: &'static str,
    },
    /// The file does not exist.
    #[error("{} does not exist: {cure}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The way to mend it.
        cure: &'static str,
    },
    /// The key cannot be generated.
    #[error("the system has no random bytes for a key")]
    Random,
}

/// The key that signs checkpoints.
pub struct CheckpointKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl CheckpointKey {
    pub(crate) fn generate() -> Result<Self, CheckpointKeyError> {
        Ed25519KeyPair::generate().map(Self::of).map_err(|_| CheckpointKeyError::Random)
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let id = id_of(pair.public_key().as_ref());
        Self { pair, id }
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointKeyError`].
    pub fn read(path: &Path) -> Result<Option<Self>, CheckpointKeyError> {
        let Some(text) = read_private(path)? else { return Ok(None) };
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(&text).filter_map(Result::ok);
        let keys: Vec<_> = sections.filter(|(kind, _)| *kind == SectionKind::PrivateKey).collect();
        let pair = match &keys[..] {
            [(_, der)] => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok(),
            _ => None,
        };
        let reason = "it has to have one PEM section `PRIVATE KEY` with an Ed25519 key: restore it, or remove it for a \
                      new one";
        let pair = pair.ok_or_else(|| CheckpointKeyError::Malformed { path: path.to_owned(), reason })?;
        Ok(Some(Self::of(pair)))
    }

    /// Reads the file, or creates it with a new key. Its public key is in the file beside it when
    /// this returns.
    ///
    /// # Errors
    /// [`CheckpointKeyError`].
    pub fn open(path: &Path) -> Result<Self, CheckpointKeyError> {
        let Some(key) = Self::read(path)? else { return Self::replace(path) };
        key.note(path)?;
        Ok(key)
    }

    /// Puts a new key in place of the one of the file. The public key of the old one stays known.
    ///
    /// # Errors
    /// [`CheckpointKeyError`].
    pub fn replace(path: &Path) -> Result<Self, CheckpointKeyError> {
        if let Some(old) = Self::read(path)? {
            old.note(path)?;
        }
        let new = Self::generate()?;
        // First: a checkpoint that it signs can be checked from the beginning.
        new.note(path)?;
        let der = new.pair.to_pkcs8v1().map_err(|_| CheckpointKeyError::Random)?;
        replace(path, 0o600, pem("PRIVATE KEY", der.as_ref()).as_bytes()).map_err(KeyFileError::io(path))?;
        Ok(new)
    }

    /// Adds the public key to the file of those that are known.
    fn note(&self, path: &Path) -> Result<(), CheckpointKeyError> {
        let path = CheckpointKeys::beside(path);
        let known = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(KeyFileError::io(&path))?,
        };
        if !known.is_empty() && CheckpointKeys::parse(&path, &known)?.0.contains_key(&self.id) {
            return Ok(());
        }
        let text = format!("{known}{}", self.public_pem());
        Ok(replace(&path, 0o644, text.as_bytes()).map_err(KeyFileError::io(&path))?)
    }

    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the public key.
    pub fn public(&self) -> [u8; 32] {
        let mut raw = [0; 32];
        raw.copy_from_slice(self.pair.public_key().as_ref());
        raw
    }

    /// Returns the public key as PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI[..], &self.public()].concat())
    }

    pub(super) fn sign(&self, text: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(text).as_ref());
        signature
    }
}

/// Returns the id of a key: it follows from the public key.
fn id_of(public: &[u8]) -> String {
    hex::encode(&Sha256::digest(public)[..8])
}

/// Public keys by which checkpoints are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointKeys(BTreeMap<String, [u8; 32]>);

impl CheckpointKeys {
    /// Returns the file of the public keys beside the file of a key.
    pub fn beside(path: &Path) -> PathBuf {
        let mut name = OsString::from(path);
        name.push(".pub");
        name.into()
    }

    /// Reads a file of public keys.
    ///
    /// # Errors
    /// [`CheckpointKeyError`], also when there is none.
    pub fn read(path: &Path) -> Result<Self, CheckpointKeyError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let cure = "`weir audit key` prints the public keys of an installation, name a file with them";
                Err(CheckpointKeyError::Missing { path: path.to_owned(), cure })
            }
            Err(error) => Err(KeyFileError::io(path)(error).into()),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, CheckpointKeyError> {
        let malformed = |reason| CheckpointKeyError::Malformed { path: path.to_owned(), reason };
        if text.len() > MAX_FILE_BYTES {
            return Err(malformed("it is longer than 64 KiB"));
        }
        let mut keys = BTreeMap::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, der) = section.map_err(|_| malformed("a PEM section cannot be read"))?;
            let raw: Option<[u8; 32]> = der.strip_prefix(&SPKI[..]).and_then(|raw| raw.try_into().ok());
            match raw.filter(|_| kind == SectionKind::PublicKey) {
                Some(raw) => keys.insert(id_of(&raw), raw),
                None => return Err(malformed("a PEM section is not a `PUBLIC KEY` of Ed25519")),
            };
        }
        if keys.is_empty() {
            return Err(malformed("it has no PEM section `PUBLIC KEY`"));
        }
        Ok(Self(keys))
    }

    /// Returns the ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the public key with an id.
    pub fn get(&self, id: &str) -> Option<&[u8; 32]> {
        self.0.get(id)
    }

    /// Checks the signature of a checkpoint; `None` when its key is not known.
    pub fn verify(&self, checkpoint: &SignedCheckpoint) -> Option<bool> {
        let key = UnparsedPublicKey::new(&ED25519, self.0.get(&checkpoint.key)?);
        Some(key.verify(checkpoint.text().as_bytes(), &checkpoint.signature).is_ok())
    }
}
