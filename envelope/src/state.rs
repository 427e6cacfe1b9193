//! The keys in memory, and how they are read from the file.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand;
use hashbrown::HashMap;

use crate::data_key::{DataKey, RawKey, unwrap};
use crate::error::KeyringError;
use crate::file::{self, Contents, Head, Line, Stamp};
use crate::kek::{Config, Kek};

pub(crate) struct State {
    pub(crate) head: Head,
    pub(crate) master: DataKey,
    pub(crate) tenants: HashMap<String, Tenant>,
}

#[derive(Default)]
pub(crate) struct Tenant {
    /// The last one seals.
    pub(crate) keys: Vec<Arc<DataKey>>,
    pub(crate) destroyed: Vec<u32>,
    /// Time of the destruction, in nanoseconds; `None` when new keys may be made.
    pub(crate) closed: Option<i64>,
}

impl Tenant {
    /// True for the id of a key that the tenant has, or had until it was destroyed.
    pub(crate) fn knows(&self, id: u32) -> bool {
        self.destroyed.contains(&id) || self.keys.iter().any(|key| key.id() == id)
    }
}

/// State of the keys of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantStatus {
    /// Its id.
    pub tenant: String,
    /// Keys that can be used.
    pub keys: usize,
    /// Time of the destruction in nanoseconds since 1970, when nothing is sealed for it.
    pub destroyed: Option<i64>,
}

/// State of a keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Fingerprint of the key-encryption key that wraps it.
    pub kek: String,
    /// New data is sealed.
    pub seals: bool,
    /// Tenants by id.
    pub tenants: Vec<TenantStatus>,
    /// Records and rows whose contents were discarded since the start, because the keys of their
    /// tenant were destroyed.
    pub discarded: u64,
    /// Records and rows that were read since the start and cannot be opened for the same reason.
    pub unreadable: u64,
}

pub(crate) fn encode(contents: &Contents) -> Vec<u8> {
    let mut bytes = file::encode(&contents.head);
    contents.lines.iter().for_each(|line| bytes.append(&mut file::encode(line)));
    bytes
}

pub(crate) fn create(path: &Path, kek: &Kek) -> Result<State, KeyringError> {
    let raw = DataKey::generate()?;
    let (fingerprint, envelope) = kek.wrap(&raw)?;
    let head = Head { version: file::VERSION, kek: fingerprint, master: envelope };
    let replaced = file::replace(path, &file::encode(&head)).and_then(|synced| synced);
    replaced.map_err(|source| KeyringError::Io { path: path.to_owned(), source })?;
    Ok(State { head, master: DataKey::new(0, &raw)?, tenants: HashMap::new() })
}

/// Returns the state, and the bytes up to the end of the last whole line.
pub(crate) fn load(path: &Path, bytes: &[u8], kek: &Kek) -> Result<(State, u64), KeyringError> {
    let damaged = |reason: String| KeyringError::Damaged { path: path.to_owned(), reason };
    let Contents { head, lines, whole } = file::decode(bytes).map_err(damaged)?;
    let master = DataKey::new(0, &kek.unwrap(&head.kek, &head.master)?)?;
    if kek.fingerprints().first().is_some_and(|first| *first != head.kek) {
        tracing::warn!(
            kek = head.kek,
            "the keyring is wrapped with an earlier key-encryption key: run `weir encryption rotate`"
        );
    }
    let mut tenants: HashMap<String, Tenant> = HashMap::new();
    for line in lines {
        match line {
            Line::Key { tenant, key, wrapped } => {
                let raw: RawKey = unwrap(&master, &wrapping(&tenant, key), &wrapped)
                    .map_err(|_| damaged(format!("a key of tenant {tenant} does not open")))?;
                tenants.entry(tenant).or_default().keys.push(Arc::new(DataKey::new(key, &raw)?));
            }
            Line::Destroyed { tenant, destroyed, time } => {
                let held = tenants.entry(tenant).or_default();
                held.keys.retain(|key| !destroyed.contains(&key.id()));
                held.destroyed.extend(destroyed);
                held.closed = Some(time);
            }
            Line::Allowed { tenant, .. } => tenants.entry(tenant).or_default().closed = None,
        }
    }
    Ok((State { head, master, tenants }, whole))
}

/// Readings of a file that is replaced meanwhile.
const READS: usize = 5;

/// Reads the file of another process. The bytes of a file that is replaced are overwritten, also
/// while they are read here.
pub(crate) fn read_followed(config: &Config, path: &Path) -> Result<(State, Stamp), KeyringError> {
    let io = |source| KeyringError::Io { path: path.to_owned(), source };
    let kek = Kek::read(config)?.ok_or_else(|| KeyringError::Off(path.to_owned()))?;
    let mut reads = 1;
    loop {
        let stamp = Stamp::of(path).map_err(io)?;
        let bytes = std::fs::read(path).map_err(io)?;
        let is_whole = Stamp::of(path).map_err(io)? == stamp;
        match load(path, &bytes, &kek) {
            Ok((state, _)) if is_whole || reads == READS => return Ok((state, stamp)),
            Err(error) if is_whole || reads == READS => return Err(error),
            _ => reads += 1,
        }
    }
}

impl State {
    /// Keeps the keys of `before` that are still there, with the nonces that they have used.
    pub(crate) fn keep_used(&mut self, before: &Self) {
        for (tenant, held) in &mut self.tenants {
            let Some(before) = before.tenants.get(tenant) else { continue };
            for key in &mut held.keys {
                if let Some(used) = before.keys.iter().find(|used| used.id() == key.id()) {
                    *key = Arc::clone(used);
                }
            }
        }
    }
}

/// A random id that no key of the tenant has had, so that keys of two keyrings differ.
pub(crate) fn unused_id(held: Option<&Tenant>) -> Result<u32, KeyringError> {
    loop {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes)?;
        let id = u32::from_le_bytes(bytes);
        if id != 0 && !held.is_some_and(|held| held.knows(id)) {
            return Ok(id);
        }
    }
}

/// Authenticated with a wrapped data key.
pub(crate) fn wrapping(tenant: &str, id: u32) -> Vec<u8> {
    [b"weir data key ", &id.to_le_bytes()[..], tenant.as_bytes()].concat()
}
