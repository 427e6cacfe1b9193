//! The keys of all tenants, and the file that holds them.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use crate::data_key::{DataKey, key_id, unwrap, wrap};
use crate::error::{KeyringError, SealError, UnsealError};
use crate::file::{self, Contents, Line, Stamp};
use crate::kek::{Config, Kek};
use crate::state::{State, Status, Tenant, TenantStatus, create, encode, load, read_followed, unused_id, wrapping};

/// Name of the file in the data folder.
pub const FILE: &str = "keyring";

/// The keys of all tenants. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    path: PathBuf,
    seals: bool,
    /// The file is changed by another process.
    followed: Option<Followed>,
    /// Held while the file is written.
    writing: Mutex<()>,
    state: RwLock<State>,
    /// Destructions so far.
    destructions: AtomicU64,
    discarded: AtomicU64,
    unreadable: AtomicU64,
    appends: AtomicU64,
}

/// A file that another process changes, as it was read.
struct Followed {
    config: Config,
    read: Mutex<Stamp>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.0.path).finish()
    }
}

impl PartialEq for Keyring {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Keyring {}

/// True when the folder `dir` has a keyring, so that its data cannot be read without it.
pub fn is_needed(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

impl Keyring {
    /// Opens the keyring of the data folder `dir`, or creates it. `None` without a key-encryption
    /// key and without a keyring. For one process at a time.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn open(config: &Config, dir: &Path) -> Result<Option<Self>, KeyringError> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(KeyringError::Io { path, source }),
        };
        let Some(kek) = Kek::read(config)? else {
            return if bytes.is_some() { Err(KeyringError::Off(path)) } else { Ok(None) };
        };
        file::remove_left(&path).map_err(|source| KeyringError::Io { path: path.with_extension("new"), source })?;
        let state = match bytes {
            Some(bytes) => {
                let (state, whole) = load(&path, &bytes, &kek)?;
                if whole < bytes.len() as u64 {
                    tracing::warn!(path = %path.display(), "cut a key that was not whole: nothing was sealed with it");
                    file::cut(&path, whole).map_err(|source| KeyringError::Io { path: path.clone(), source })?;
                }
                state
            }
            None => create(&path, &kek)?,
        };
        Ok(Some(Self::of(path, state, !config.read_only, None)))
    }

    /// Reads the keyring in `dir`, also while a process uses it or in a backup. It is never
    /// changed here: only the keys that are there can be used. Each use sees the keys that the
    /// other process has made and destroyed until then.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn read(config: &Config, dir: &Path) -> Result<Self, KeyringError> {
        let path = dir.join(FILE);
        let (state, stamp) = read_followed(config, &path)?;
        let followed = Followed { config: config.clone(), read: Mutex::new(stamp) };
        Ok(Self::of(path, state, !config.read_only, Some(followed)))
    }

    fn of(path: PathBuf, state: State, seals: bool, followed: Option<Followed>) -> Self {
        let (writing, state) = (Mutex::default(), RwLock::new(state));
        let [destructions, discarded, unreadable, appends] = [const { AtomicU64::new(0) }; 4];
        let inner = Inner { path, seals, followed, writing, state, destructions, discarded, unreadable, appends };
        Self(Arc::new(inner))
    }

    /// Reads the file again if another process has changed it.
    fn follow(&self) -> Result<(), KeyringError> {
        let Some(followed) = &self.0.followed else { return Ok(()) };
        let mut read = followed.read.lock();
        if Stamp::of(&self.0.path).map_err(|source| self.io(source))? == *read {
            return Ok(());
        }
        let (mut next, stamp) = read_followed(&followed.config, &self.0.path)?;
        let mut state = self.0.state.write();
        next.keep_used(&state);
        *state = next;
        drop(state);
        self.0.destructions.fetch_add(1, Ordering::Release);
        *read = stamp;
        Ok(())
    }

    /// True when new data is to be sealed; otherwise sealed data is only read.
    pub fn seals(&self) -> bool {
        self.0.seals
    }

    /// Seals contents of a tenant in place: those behind [`HEAD_BYTES`](crate::HEAD_BYTES) of room
    /// at `at`. `place` says where they will lie; they can be opened with the same place only.
    ///
    /// # Errors
    /// [`SealError`]; the buffer is then unchanged.
    pub fn seal(&self, tenant: &str, place: &[u8], buffer: &mut Vec<u8>, at: usize) -> Result<(), SealError> {
        let key = self.current(tenant)?;
        let sealed = key.seal(&aad(tenant, key.id(), place), buffer, at);
        sealed.map_err(|_| SealError::NoKey {
            tenant: tenant.to_owned(),
            reason: "the contents are too long to be sealed".to_owned(),
        })
    }

    /// Opens sealed bytes of a tenant in place, and returns the contents.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn open_sealed<'a>(
        &self,
        tenant: &str,
        place: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], UnsealError> {
        let damaged = || UnsealError::Damaged(tenant.to_owned());
        let id = key_id(sealed).ok_or_else(damaged)?;
        let missing = || UnsealError::Missing { tenant: tenant.to_owned(), id };
        self.follow().map_err(|error| {
            tracing::warn!(%error, "cannot read the keyring, which another process has changed");
            missing()
        })?;
        let key = {
            let state = self.0.state.read();
            let held = state.tenants.get(tenant);
            match held.and_then(|held| held.keys.iter().find(|key| key.id() == id)) {
                Some(key) => Arc::clone(key),
                None if held.is_some_and(|held| held.destroyed.contains(&id)) => {
                    return Err(UnsealError::Destroyed(tenant.to_owned()));
                }
                None => return Err(missing()),
            }
        };
        key.open(&aad(tenant, id, place), sealed).map_err(|_| damaged())
    }

    /// Checks that the key of sealed bytes is there, or was destroyed.
    ///
    /// # Errors
    /// [`UnsealError::Missing`].
    pub fn check(&self, tenant: &str, sealed: &[u8]) -> Result<(), UnsealError> {
        let id = key_id(sealed).ok_or_else(|| UnsealError::Damaged(tenant.to_owned()))?;
        let state = self.0.state.read();
        match state.tenants.get(tenant).is_some_and(|held| held.knows(id)) {
            true => Ok(()),
            false => Err(UnsealError::Missing { tenant: tenant.to_owned(), id }),
        }
    }

    /// True when keys of the tenant were destroyed.
    pub fn has_destroyed(&self, tenant: &str) -> bool {
        self.0.state.read().tenants.get(tenant).is_some_and(|held| held.closed.is_some() || !held.destroyed.is_empty())
    }

    /// True while nothing is sealed for the tenant, because its keys were destroyed.
    pub fn is_closed(&self, tenant: &str) -> bool {
        self.0.state.read().tenants.get(tenant).is_some_and(|held| held.closed.is_some())
    }

    /// Returns the tenants for which nothing is sealed, because their keys were destroyed.
    pub fn closed(&self) -> Vec<String> {
        let state = self.0.state.read();
        let closed = state.tenants.iter().filter(|(_, held)| held.closed.is_some());
        closed.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// True when bytes were sealed with a key that was destroyed.
    pub fn is_destroyed(&self, tenant: &str, sealed: &[u8]) -> bool {
        let state = self.0.state.read();
        let destroyed = state.tenants.get(tenant).map(|held| &held.destroyed);
        destroyed.zip(key_id(sealed)).is_some_and(|(destroyed, id)| destroyed.contains(&id))
    }

    /// Makes the keys that these tenants do not have yet, with one append to the file for all of
    /// them: sealing for each of them then waits for no disk.
    ///
    /// # Errors
    /// [`SealError::NoKey`] with the first of them: no key was made, and it may work later.
    pub fn prepare<'a>(&self, tenants: impl IntoIterator<Item = &'a str>) -> Result<(), SealError> {
        let without_key = |state: &State, tenant: &str| {
            state.tenants.get(tenant).is_none_or(|held| held.closed.is_none() && held.keys.is_empty())
        };
        let mut missing: BTreeSet<&str> = {
            let state = self.0.state.read();
            tenants.into_iter().filter(|tenant| without_key(&state, tenant)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let no_key = |tenant: &str, error: &KeyringError| SealError::NoKey {
            tenant: tenant.to_owned(),
            reason: error.to_string(),
        };
        let first = missing.first().copied().unwrap_or_default();
        self.follow().map_err(|error| no_key(first, &error))?;
        let _one_at_a_time = self.0.writing.lock();
        {
            let state = self.0.state.read();
            missing.retain(|tenant| without_key(&state, tenant));
        }
        let Some(first) = missing.first().copied() else { return Ok(()) };
        self.make_keys(&missing).map_err(|error| no_key(first, &error))
    }

    /// Returns the key that seals for a tenant; the first use makes it.
    fn current(&self, tenant: &str) -> Result<Arc<DataKey>, SealError> {
        let no_key = |reason: String| SealError::NoKey { tenant: tenant.to_owned(), reason };
        self.follow().map_err(|error| no_key(error.to_string()))?;
        if let Some(found) = self.held(tenant) {
            return found;
        }
        self.prepare([tenant])?;
        self.held(tenant).unwrap_or_else(|| Err(no_key("it was destroyed meanwhile".to_owned())))
    }

    fn held(&self, tenant: &str) -> Option<Result<Arc<DataKey>, SealError>> {
        let state = self.0.state.read();
        let held = state.tenants.get(tenant)?;
        match held.closed {
            Some(_) => Some(Err(SealError::Destroyed(tenant.to_owned()))),
            None => held.keys.last().map(|key| Ok(Arc::clone(key))),
        }
    }

    /// Adds a key for each of these tenants. The caller holds `writing`.
    fn make_keys(&self, tenants: &BTreeSet<&str>) -> Result<(), KeyringError> {
        self.check_own()?;
        let mut lines = Vec::new();
        let mut keys = Vec::with_capacity(tenants.len());
        {
            let state = self.0.state.read();
            for tenant in tenants {
                let raw = DataKey::generate()?;
                let id = unused_id(state.tenants.get(*tenant))?;
                let wrapped = wrap(&state.master, &wrapping(tenant, id), &raw)?;
                lines.append(&mut file::encode(&Line::Key { tenant: (*tenant).to_owned(), key: id, wrapped }));
                keys.push((*tenant, Arc::new(DataKey::new(id, &raw)?)));
            }
        }
        self.append(&lines)?;
        let mut state = self.0.state.write();
        for (tenant, key) in keys {
            state.tenants.entry(tenant.to_owned()).or_default().keys.push(key);
        }
        Ok(())
    }

    fn append(&self, lines: &[u8]) -> Result<(), KeyringError> {
        file::append(&self.0.path, lines).map_err(|source| self.io(source))?;
        self.0.appends.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The number of appends to the file by this process. Each waits for the disk.
    pub fn appends(&self) -> u64 {
        self.0.appends.load(Ordering::Relaxed)
    }

    /// Destroys the keys of a tenant, durably when it returns: nothing that was sealed for it can
    /// be opened, and nothing more is sealed for it until [`Keyring::allow`]. Returns the number of
    /// destroyed keys.
    ///
    /// # Errors
    /// [`KeyringError`]: the keys are as they were; or they are destroyed and
    /// [`Keyring::is_closed`], when only the folder could not be synced.
    pub fn destroy(&self, tenant: &str) -> Result<usize, KeyringError> {
        self.check_own()?;
        let _one_at_a_time = self.0.writing.lock();
        let mut contents = self.contents()?;
        let is_of = |line: &Line| matches!(line, Line::Key { tenant: of, .. } if of == tenant);
        let ids: Vec<u32> = {
            let state = self.0.state.read();
            state.tenants.get(tenant).into_iter().flat_map(|held| held.keys.iter().map(|key| key.id())).collect()
        };
        contents.lines.retain(|line| !is_of(line));
        let time = now();
        let line = Line::Destroyed { tenant: tenant.to_owned(), destroyed: ids.clone(), time };
        contents.lines.push(line);
        let synced = self.replace(&contents)?;
        let mut state = self.0.state.write();
        let held = state.tenants.entry(tenant.to_owned()).or_default();
        held.keys.clear();
        held.destroyed.extend(&ids);
        held.closed = Some(time);
        drop(state);
        self.0.destructions.fetch_add(1, Ordering::Release);
        synced.map_err(|source| self.io(source))?;
        Ok(ids.len())
    }

    /// Allows new keys for a tenant whose keys were destroyed, for a new tenant of the same name.
    /// What was destroyed stays so.
    ///
    /// # Errors
    /// [`KeyringError`]: nothing has changed.
    pub fn allow(&self, tenant: &str) -> Result<(), KeyringError> {
        self.check_own()?;
        let _one_at_a_time = self.0.writing.lock();
        if self.0.state.read().tenants.get(tenant).is_none_or(|held| held.closed.is_none()) {
            return Ok(());
        }
        let line = Line::Allowed { tenant: tenant.to_owned(), allowed: true };
        self.append(&file::encode(&line))?;
        if let Some(held) = self.0.state.write().tenants.get_mut(tenant) {
            held.closed = None;
        }
        Ok(())
    }

    /// Wraps everything anew: a new master key under the key-encryption key that `config` has
    /// first. The keys of tenants stay, and nothing waits. Returns the fingerprints before and
    /// after.
    ///
    /// # Errors
    /// [`KeyringError`]: the keyring is as it was; or it is rotated, when only the folder could not
    /// be synced.
    pub fn rotate(&self, config: &Config) -> Result<(String, String), KeyringError> {
        let kek = Kek::read(config)?.ok_or_else(|| KeyringError::Off(self.0.path.clone()))?;
        self.check_own()?;
        let raw = DataKey::generate()?;
        let master = DataKey::new(0, &raw)?;
        // Before the lock: a service may take its time, and new keys wait for the lock.
        let (fingerprint, envelope) = kek.wrap(&raw)?;
        let _one_at_a_time = self.0.writing.lock();
        let mut contents = self.contents()?;
        {
            let state = self.0.state.read();
            for line in &mut contents.lines {
                if let Line::Key { tenant, key, wrapped } = line {
                    let place = wrapping(tenant, *key);
                    let data_key = unwrap(&state.master, &place, wrapped).map_err(|_| self.damaged(tenant))?;
                    *wrapped = wrap(&master, &place, &data_key)?;
                }
            }
        }
        let before = std::mem::replace(&mut contents.head.kek, fingerprint.clone());
        contents.head.master = envelope;
        let synced = self.replace(&contents)?;
        let mut state = self.0.state.write();
        state.master = master;
        state.head = contents.head;
        drop(state);
        synced.map_err(|source| self.io(source))?;
        Ok((before, fingerprint))
    }

    /// The number of destructions in this process: frames in memory that were opened before the
    /// last one are to be opened again.
    pub fn destructions(&self) -> u64 {
        self.0.destructions.load(Ordering::Acquire)
    }

    /// Counts records or rows whose contents were discarded.
    pub fn note_discarded(&self, count: u64) {
        self.0.discarded.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts records or rows that cannot be opened since the keys of their tenant were destroyed.
    pub fn note_unreadable(&self, count: u64) {
        self.0.unreadable.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the state.
    pub fn status(&self) -> Status {
        let state = self.0.state.read();
        let tenant = |(tenant, held): (&String, &Tenant)| TenantStatus {
            tenant: tenant.clone(),
            keys: held.keys.len(),
            destroyed: held.closed,
        };
        let mut tenants: Vec<TenantStatus> = state.tenants.iter().map(tenant).collect();
        tenants.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        Status {
            kek: state.head.kek.clone(),
            seals: self.0.seals,
            tenants,
            discarded: self.0.discarded.load(Ordering::Relaxed),
            unreadable: self.0.unreadable.load(Ordering::Relaxed),
        }
    }

    fn check_own(&self) -> Result<(), KeyringError> {
        if self.0.followed.is_none() { Ok(()) } else { Err(KeyringError::Shared) }
    }

    fn contents(&self) -> Result<Contents, KeyringError> {
        let bytes = std::fs::read(&self.0.path).map_err(|source| self.io(source))?;
        file::decode(&bytes).map_err(|reason| KeyringError::Damaged { path: self.0.path.clone(), reason })
    }

    /// As [`file::replace`]: after an inner error, too, the file is the new one.
    fn replace(&self, contents: &Contents) -> Result<std::io::Result<()>, KeyringError> {
        file::replace(&self.0.path, &encode(contents)).map_err(|source| self.io(source))
    }

    fn io(&self, source: std::io::Error) -> KeyringError {
        KeyringError::Io { path: self.0.path.clone(), source }
    }

    fn damaged(&self, tenant: &str) -> KeyringError {
        KeyringError::Damaged { path: self.0.path.clone(), reason: format!("a key of tenant {tenant} does not open") }
    }
}

/// Authenticated with sealed contents.
fn aad(tenant: &str, id: u32, place: &[u8]) -> Vec<u8> {
    let length = u32::try_from(tenant.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut aad = Vec::with_capacity(8 + tenant.len() + place.len());
    [&id.to_le_bytes()[..], &length, tenant.as_bytes(), place].iter().for_each(|part| aad.extend_from_slice(part));
    aad
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
