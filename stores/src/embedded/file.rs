//! A file of the key-value store. After any error of the disk, also a full one that has space
//! again, the key-value store refuses every use of a file until it is closed and opened again: that
//! is done here, by the next use.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use redb::{Database, DatabaseError};

use crate::contract::{Result, StoreError};

pub(super) type Outcome<T> = std::result::Result<T, redb::Error>;

/// Opens a file, or creates it.
pub(super) type Open = Arc<dyn Fn(&Path) -> std::result::Result<Database, DatabaseError> + Send + Sync>;

/// Opens files with so much memory for the pages of each.
pub(super) fn opener(cache_bytes: usize) -> Open {
    Arc::new(move |path| Database::builder().set_cache_size(cache_bytes).create(path))
}

/// Returns the meaning of an error of the key-value store, with the name of the file.
pub(super) fn at<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StoreError + '_ {
    move |error| match error.into() {
        redb::Error::Corrupted(what) => StoreError::Damaged(format!("{}: {what}", path.display())),
        // The file is not what it was: its first bytes, for one.
        redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            StoreError::Damaged(format!("{}: {error}", path.display()))
        }
        redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull => StoreError::busy(format!(
            "no space left for {}: free some; the log keeps all readings meanwhile",
            path.display()
        )),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::busy(format!(
            "the disk refused an access to {} before; the file is opened again",
            path.display()
        )),
        error => StoreError::busy(format!("{}: {error}", path.display())),
    }
}

/// A file, open or to be opened.
pub(super) struct StoreFile {
    path: PathBuf,
    open: Open,
    /// Makes the tables of a new file.
    prepare: fn(&Database) -> Outcome<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database: Option<Arc<Database>>,
    /// Files that were given up and that a query may still hold open.
    given_up: Vec<Weak<Database>>,
}

impl std::fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StoreFile").field(&self.path).finish()
    }
}

impl StoreFile {
    /// A file that is opened by its first use.
    pub(super) fn new(path: PathBuf, open: Open, prepare: fn(&Database) -> Outcome<()>) -> Self {
        Self { path, open, prepare, state: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// True when nothing uses it.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        let is_used = state.database.as_ref().is_some_and(|database| Arc::strong_count(database) > 1);
        !is_used && state.given_up.iter().all(|given_up| given_up.strong_count() == 0)
    }

    /// Returns the open file.
    ///
    /// # Errors
    /// As the disk has it; [`StoreError::NeedsOperator`] when another process has it open.
    pub(super) fn open(self: &Arc<Self>) -> Result<Opened> {
        // Held while opening: a file must not be opened twice.
        let mut state = self.state.lock();
        let database = match &state.database {
            Some(database) => Arc::clone(database),
            None => {
                let database = Arc::new(self.reopen(&mut state)?);
                state.database = Some(Arc::clone(&database));
                database
            }
        };
        Ok(Opened { file: Arc::clone(self), database })
    }

    fn reopen(&self, state: &mut State) -> Result<Database> {
        let path = &self.path;
        state.given_up.retain(|given_up| given_up.strong_count() > 0);
        if !path.exists() {
            self.create()?;
        }
        (self.open)(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen if !state.given_up.is_empty() => {
                StoreError::busy(format!("{} is opened again once the queries that read it have ended", path.display()))
            }
            DatabaseError::DatabaseAlreadyOpen => StoreError::NeedsOperator(format!(
                "another process has {} open: stop it, or use another data folder",
                path.display()
            )),
            error => at(path)(error),
        })
    }

    /// Creates the file under another name first: when the disk is full, no part of a file is left
    /// under its own.
    fn create(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        let failed = |error: std::io::Error| at::<redb::Error>(&self.path)(error.into());
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let database = (self.open)(&new).map_err(at(&self.path))?;
        (self.prepare)(&database).map_err(at(&self.path))?;
        drop(database);
        std::fs::rename(&new, &self.path).map_err(failed)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn give_up(&self, database: &Arc<Database>) {
        let mut state = self.state.lock();
        if state.database.as_ref().is_some_and(|open| Arc::ptr_eq(open, database)) {
            state.database = None;
            state.given_up.push(Arc::downgrade(database));
            tracing::warn!(file = %self.path.display(), "the disk refused an access; the file is opened again");
        }
    }
}

/// An open file.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    file: Arc<StoreFile>,
    database: Arc<Database>,
}

impl Opened {
    /// Runs some work on it, and gives it up when the disk refuses.
    pub(super) fn run<T>(&self, work: impl FnOnce(&Database) -> Outcome<T>) -> Result<T> {
        work(&self.database).map_err(|error| self.failed(error))
    }

    /// Returns the meaning of an error, and gives the file up when the disk refused.
    pub(super) fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        let error = error.into();
        if matches!(
            error,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::DatabaseClosed
                | redb::Error::LockPoisoned(_)
                | redb::Error::TransactionPoisoned
        ) {
            self.file.give_up(&self.database);
        }
        at(&self.file.path)(error)
    }
}

impl std::ops::Deref for Opened {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}
