//! The key-encryption key: from a file, from an environment variable, or held by a service.

use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::command;
use crate::data_key::{DataKey, KEY_BYTES, RawKey, unwrap, wrap};

/// The current key and two others.
const MAX_KEYS: usize = 3;
/// More than three keys with comments need.
const MAX_TEXT_BYTES: u64 = 4096;
/// Authenticated with the master key.
const MASTER: &[u8] = b"weir master key";
/// Longest envelope of a service.
const MAX_ENVELOPE_BYTES: usize = 8 << 10;

/// `[encryption]`: encryption at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// File with the key that the keys of tenants are wrapped with: one line of 64 hexadecimal
    /// digits or of base64, readable by the owner alone. Turns encryption on.
    ///
    /// A second line is the key before it, until `weir encryption rotate` has run.
    pub key_file: PathBuf,
    /// Name of an environment variable with the same text, in place of the file.
    pub key_env: String,
    /// Command that wraps and unwraps the key with a key management service, in place of the file:
    /// `["/usr/local/bin/weir-kms", "--key", "alias/weir"]`. Called without a shell with `wrap` or
    /// `unwrap` as its last argument, base64 on standard input and output.
    pub key_command: Vec<String>,
    /// Read sealed data, write new data in plain.
    pub read_only: bool,
}

impl Config {
    /// True when there is a key-encryption key.
    pub fn is_on(&self) -> bool {
        self.sources() > 0
    }

    fn sources(&self) -> usize {
        let file = !self.key_file.as_os_str().is_empty();
        [file, !self.key_env.is_empty(), !self.key_command.is_empty()].iter().filter(|is_set| **is_set).count()
    }

    /// Checks the values.
    ///
    /// # Errors
    /// A sentence with the key.
    pub fn check(&self) -> Result<(), String> {
        if self.sources() > 1 {
            return Err("`encryption.key_file`, `encryption.key_env` and `encryption.key_command` are alternatives: \
                        set one of them"
                .to_owned());
        }
        if self.read_only && !self.is_on() {
            return Err("`encryption.read_only` needs the key of the sealed data: set `encryption.key_file`".to_owned());
        }
        Ok(())
    }
}

/// The reason why the key-encryption key cannot be used. Its text holds no key.
#[derive(Debug, thiserror::Error)]
pub enum KekError {
    /// The file cannot be read.
    #[error("cannot read `encryption.key_file` {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Other users of the machine can read the file.
    #[error("{} can be read by other users: run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
    /// There is no such variable.
    #[error("the environment variable {0} of `encryption.key_env` is not set")]
    Unset(String),
    /// The text is not one to three keys.
    #[error(
        "{place}: {reason}: expected one to three lines, each a key of 32 bytes as hexadecimal digits or base64; \
         `openssl rand -hex 32` makes one"
    )]
    Malformed {
        /// The file or the variable.
        place: String,
        /// The fault.
        reason: &'static str,
    },
    /// The command of the key management service failed.
    #[error("the command of `encryption.key_command`, `{command}`: {reason}")]
    Command {
        /// Its name and the verb.
        command: String,
        /// The reason.
        reason: String,
    },
    /// Another key wrapped the keyring.
    #[error(
        "the keyring was wrapped with the key-encryption key {wanted}, and {place} holds {held}: \
         add the key {wanted} as a further line"
    )]
    Other {
        /// Fingerprint of the key that is needed.
        wanted: String,
        /// The file or the variable.
        place: String,
        /// Fingerprints of the keys that are there.
        held: String,
    },
    /// The envelope of the keyring is damaged, or of another service.
    #[error("the keyring cannot be unwrapped: it is damaged, or {0} has another key of the same name")]
    Envelope(String),
    /// The system has no random bytes.
    #[error("the system has no random bytes")]
    Random,
}

/// A key-encryption key, and earlier ones that may have wrapped the keyring.
pub(crate) struct Kek {
    place: String,
    kind: Kind,
}

enum Kind {
    /// The first one wraps.
    Local(Vec<(String, DataKey)>),
    Service(Vec<String>),
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kek").field(&self.place).finish()
    }
}

/// The name of a service in place of a fingerprint.
const SERVICE: &str = "service";

impl Kek {
    /// Reads the configured key; `None` when none is configured.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>, KekError> {
        if !config.key_command.is_empty() {
            let place = "`encryption.key_command`".to_owned();
            return Ok(Some(Self { place, kind: Kind::Service(config.key_command.clone()) }));
        }
        let (place, text) = if !config.key_env.is_empty() {
            let text = std::env::var(&config.key_env).map_err(|_| KekError::Unset(config.key_env.clone()))?;
            (config.key_env.clone(), Zeroizing::new(text))
        } else if !config.key_file.as_os_str().is_empty() {
            (config.key_file.display().to_string(), read_file(&config.key_file)?)
        } else {
            return Ok(None);
        };
        let keys = parse(&place, &text)?;
        Ok(Some(Self { place, kind: Kind::Local(keys) }))
    }

    /// Wraps the master key, and checks that the envelope opens: a key-encryption key that opens
    /// nothing must not replace one that does. Returns the fingerprint of the key that wrapped it,
    /// and the envelope.
    pub(crate) fn wrap(&self, master: &RawKey) -> Result<(String, Vec<u8>), KekError> {
        let (fingerprint, envelope) = self.envelope(master)?;
        if *self.unwrap(&fingerprint, &envelope)? != **master {
            return Err(KekError::Envelope("the key-encryption key".to_owned()));
        }
        Ok((fingerprint, envelope))
    }

    fn envelope(&self, master: &RawKey) -> Result<(String, Vec<u8>), KekError> {
        match &self.kind {
            Kind::Local(keys) => {
                let (fingerprint, key) = &keys[0];
                Ok((fingerprint.clone(), wrap(key, MASTER, master).map_err(|_| KekError::Random)?))
            }
            Kind::Service(command) => {
                let envelope = command::call(command, "wrap", &master[..])?.to_vec();
                let is_plain = envelope.windows(KEY_BYTES).any(|bytes| bytes == &master[..]);
                let reason = match envelope.len() {
                    0 => "its answer to `wrap` is empty",
                    n if n > MAX_ENVELOPE_BYTES => "its answer to `wrap` is too long",
                    _ if is_plain => "its answer to `wrap` holds the key in plain",
                    _ => return Ok((SERVICE.to_owned(), envelope)),
                };
                Err(KekError::Command { command: command[0].clone(), reason: reason.to_owned() })
            }
        }
    }

    /// Unwraps the master key.
    pub(crate) fn unwrap(&self, fingerprint: &str, envelope: &[u8]) -> Result<RawKey, KekError> {
        let other = |held: String| KekError::Other { wanted: fingerprint.to_owned(), place: self.place.clone(), held };
        match &self.kind {
            Kind::Local(keys) => {
                let held = || keys.iter().map(|(held, _)| held.as_str()).collect::<Vec<_>>().join(", ");
                let (_, key) = keys.iter().find(|(held, _)| held == fingerprint).ok_or_else(|| other(held()))?;
                unwrap(key, MASTER, envelope).map_err(|_| KekError::Envelope(self.place.clone()))
            }
            Kind::Service(_) if fingerprint != SERVICE => Err(other("the key of a service".to_owned())),
            Kind::Service(command) => {
                let bytes = command::call(command, "unwrap", envelope)?;
                let mut raw = RawKey::default();
                if bytes.len() != KEY_BYTES {
                    return Err(KekError::Envelope(self.place.clone()));
                }
                raw.copy_from_slice(&bytes);
                Ok(raw)
            }
        }
    }

    /// Fingerprints of the keys; the first one wraps.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        match &self.kind {
            Kind::Local(keys) => keys.iter().map(|(fingerprint, _)| fingerprint.clone()).collect(),
            Kind::Service(_) => vec![SERVICE.to_owned()],
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, KekError> {
    let failed = |source| KekError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    // A file of another owner is for the group of this process: a secret that is mounted.
    let closed = if metadata.uid() == rustix::process::geteuid().as_raw() { 0o077 } else { 0o037 };
    if metadata.permissions().mode() & closed != 0 {
        return Err(KekError::Exposed(path.to_owned()));
    }
    if metadata.len() > MAX_TEXT_BYTES {
        return Err(KekError::Malformed { place: path.display().to_string(), reason: "it is too long" });
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

fn parse(place: &str, text: &str) -> Result<Vec<(String, DataKey)>, KekError> {
    let fault = |reason| KekError::Malformed { place: place.to_owned(), reason };
    let mut keys: Vec<(String, DataKey)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let raw = key(line).ok_or_else(|| fault("a key is malformed"))?;
        let fingerprint = fingerprint(&raw);
        if keys.iter().any(|(held, _)| *held == fingerprint) {
            return Err(fault("a key is there twice"));
        }
        keys.push((fingerprint, DataKey::new(0, &raw).map_err(|_| KekError::Random)?));
    }
    match keys.len() {
        0 => Err(fault("there is no key")),
        n if n > MAX_KEYS => Err(fault("there are more than three keys")),
        _ => Ok(keys),
    }
}

fn key(text: &str) -> Option<RawKey> {
    let mut raw = RawKey::default();
    if text.len() == 2 * KEY_BYTES {
        for (place, digits) in raw.iter_mut().zip(text.as_bytes().chunks(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
    } else {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        raw.copy_from_slice(bytes.get(..KEY_BYTES).filter(|_| bytes.len() == KEY_BYTES)?);
    }
    Some(raw)
}

/// Tells keys apart without saying anything about them.
fn fingerprint(key: &RawKey) -> String {
    let mut context = digest::Context::new(&SHA256);
    context.update(b"weir key-encryption key");
    context.update(&key[..]);
    context.finish().as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
