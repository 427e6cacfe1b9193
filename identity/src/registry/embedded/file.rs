//! The file of the registry. After an error of the disk the key-value store refuses every use of a
//! file until it is closed and opened again: that is done here, by the next use.

use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use redb::{Database, DatabaseError};

use crate::registry::{Error, Result};

/// Opens a file, or creates it.
pub(super) type Open = Arc<dyn Fn(&Path) -> std::result::Result<Database, DatabaseError> + Send + Sync>;

pub(super) type Outcome<T> = std::result::Result<T, Stop>;

/// The reason why work on the file ended early; nothing of its transaction is kept.
#[derive(Debug)]
pub(super) enum Stop {
    /// By a rule of the registry.
    Refused(Error),
    /// Stored bytes are not those that were written.
    Damaged(String),
    /// By the key-value store.
    Failed(redb::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Stop {
            fn from(error: $error) -> Self {
                Self::Failed(error.into())
            }
        }
    )*};
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// The file, open or to be opened.
pub(super) struct RegistryFile {
    path: PathBuf,
    open: Open,
    prepare: fn(&Database) -> Outcome<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database: Option<Arc<Database>>,
    /// True once it was open: from then on it is not created.
    was_open: bool,
    /// Given up, and perhaps still in use by a read.
    given_up: Weak<Database>,
}

impl std::fmt::Debug for RegistryFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RegistryFile").field(&self.path).finish()
    }
}

impl RegistryFile {
    /// A file that is opened by its first use, or created; `prepare` makes the tables of a new one.
    pub(super) fn new(path: PathBuf, open: Open, prepare: fn(&Database) -> Outcome<()>) -> Self {
        Self { path, open, prepare, state: Mutex::default() }
    }

    /// Runs some work, and gives the file up when the disk refuses.
    pub(super) fn run<T>(&self, work: impl FnOnce(&Database) -> Outcome<T>) -> Result<T> {
        let database = self.database()?;
        work(&database).map_err(|stop| {
            if matches!(
                stop,
                Stop::Failed(
                    redb::Error::Io(_)
                        | redb::Error::PreviousIo
                        | redb::Error::DatabaseClosed
                        | redb::Error::LockPoisoned(_)
                        | redb::Error::TransactionPoisoned
                )
            ) {
                self.give_up(&database);
            }
            self.meaning(stop)
        })
    }

    fn database(&self) -> Result<Arc<Database>> {
        // Held while opening: a file must not be opened twice.
        let mut state = self.state.lock();
        if let Some(database) = &state.database {
            return Ok(Arc::clone(database));
        }
        let exists = self.path.try_exists().map_err(|error| self.meaning(Stop::Failed(error.into())))?;
        if !exists && state.was_open {
            // An empty registry in its place would refuse every credential, and forget them.
            let path = self.path.display();
            return Err(Error::Unavailable(format!("{path} is gone: mount its volume, or restore it from a backup")));
        }
        if !exists {
            self.create()?;
        }
        let database = (self.open)(&self.path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen if state.given_up.strong_count() > 0 => Error::Unavailable(format!(
                "{} is opened again once the reads that use it have ended",
                self.path.display()
            )),
            DatabaseError::DatabaseAlreadyOpen => Error::Unavailable(format!(
                "another process has {} open: stop it, or use another data folder",
                self.path.display()
            )),
            error => self.meaning(Stop::Failed(error.into())),
        })?;
        // A file of an earlier release may lack a table.
        (self.prepare)(&database).map_err(|stop| self.meaning(stop))?;
        state.was_open = true;
        Ok(Arc::clone(state.database.insert(Arc::new(database))))
    }

    /// Creates the file under another name first: when the disk is full, no part of a file is left
    /// under its own.
    fn create(&self) -> Result<()> {
        let failed = |error: std::io::Error| self.meaning(Stop::Failed(error.into()));
        let new = self.path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        let database = (self.open)(&new).map_err(|error| self.meaning(Stop::Failed(error.into())))?;
        (self.prepare)(&database).map_err(|stop| self.meaning(stop))?;
        drop(database);
        std::fs::rename(&new, &self.path).map_err(failed)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn give_up(&self, database: &Arc<Database>) {
        let mut state = self.state.lock();
        if state.database.as_ref().is_some_and(|open| Arc::ptr_eq(open, database)) {
            state.database = None;
            state.given_up = Arc::downgrade(database);
            tracing::warn!(file = %self.path.display(), "the disk refused an access; the file is opened again");
        }
    }

    fn meaning(&self, stop: Stop) -> Error {
        let path = self.path.display();
        let error = match stop {
            Stop::Refused(error) => return error,
            Stop::Damaged(place) => {
                return Error::Unavailable(format!("{path}: {place} is damaged: restore the file from a backup"));
            }
            Stop::Failed(error) => error,
        };
        Error::Unavailable(match error {
            redb::Error::Corrupted(reason) => format!("{path} is damaged ({reason}): restore it from a backup"),
            redb::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
                format!("{path} is damaged ({error}): restore it from a backup")
            }
            redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull => {
                format!("no space left for {path}: free some")
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                format!("the disk refused an access to {path} before; the file is opened again")
            }
            error => format!("{path}: {error}"),
        })
    }
}
