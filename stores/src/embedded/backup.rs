//! Copies of the files of an open store: what its sinks had passed at one moment.
//!
//! The small data are read as they are at that moment. The history is read file by file, later, and
//! goes on meanwhile: a block whose records the cursor of that moment had not passed is left out,
//! since the log that is copied with it has these records, and a start writes them again. That
//! takes blocks as the sink wrote them, so none are merged or deleted until the copy is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

use super::file::{Opened, Outcome, at};
use super::meta::{EXPIRED, LATEST, LETTER_BYTES, LETTER_COUNTS, LETTERS, LETTERS_TRIMMED, RETAINED};
use super::partition::{BLOCKS, MERGED, SIZES};
use super::{EmbeddedStore, Inner, keys};
use crate::contract::{Result, StoreError};

/// Bytes of one transaction of a copy.
const COMMIT_BYTES: u64 = 32 << 20;
/// Memory for the pages of a copy.
const CACHE_BYTES: usize = 16 << 20;

/// Offsets that the sinks of a log had passed. Entries of other logs are copied completely.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'a> {
    /// Id of the log.
    pub log: &'a str,
    /// Offset that the history had passed.
    pub history: u64,
    /// For each stage of dead letters, the offset that its sink had passed; the dead letters of
    /// other stages are copied completely.
    pub letters: &'a BTreeMap<String, u64>,
}

/// A store that neither merges nor deletes blocks for as long as this lives.
#[derive(Debug)]
pub struct Quiet(Arc<Inner>);

impl EmbeddedStore {
    /// Keeps the store from merging and deleting blocks; waits for a merge that is under way.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when another copy is being made.
    pub fn quiet(&self) -> Result<Quiet> {
        if std::mem::replace(&mut *self.0.quiet.lock(), true) {
            return Err(StoreError::busy("another backup is being taken: wait for its end"));
        }
        Ok(Quiet(Arc::clone(&self.0)))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        *self.0.quiet.lock() = false;
    }
}

impl Quiet {
    /// Holds the small data as they are now, without copying them yet.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn hold(self) -> Result<Held> {
        let path = self.0.meta_path();
        let meta = Source::open(path, self.0.meta.open()?)?;
        Ok(Held { meta, store: self })
    }
}

/// A store with its small data as they were at one moment.
#[derive(Debug)]
pub struct Held {
    meta: Source,
    store: Quiet,
}

impl Held {
    /// Writes the copy into the existing folder `dir`: everything, or what the sinks of a log had
    /// passed. Nothing is synced.
    ///
    /// # Errors
    /// Errors of either disk, with the file; a table that a later release made.
    pub fn write_to(&self, dir: &Path, passed: Option<Passed<'_>>) -> Result<()> {
        let history = dir.join("history");
        std::fs::create_dir(&history).map_err(|error| failed(&history)(error.into()))?;
        self.write_meta(&dir.join("meta.redb"), passed)?;
        let partitions = &self.store.0.partitions;
        for number in partitions.all() {
            let source = Source::open(partitions.path(number), partitions.open(number)?)?;
            self.write_partition(&source, &history.join(format!("{number}.redb")), passed)?;
        }
        Ok(())
    }

    fn write_meta(&self, to: &Path, passed: Option<Passed<'_>>) -> Result<()> {
        let bytes = [LATEST, LETTERS, RETAINED].map(|table| table.name().to_owned());
        let sums = [LETTER_COUNTS, LETTER_BYTES, LETTERS_TRIMMED].map(|table| table.name().to_owned());
        let known: Vec<String> = bytes.into_iter().chain(sums).chain([EXPIRED.name().to_owned()]).collect();
        self.meta.check(&known.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut copy = Copy::create(to, &self.meta)?;
        let mut left_out: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        copy.entries(LATEST, |_, _| Ok(true))?;
        copy.entries(RETAINED, |_, _| Ok(true))?;
        let is_passed = |key: &[u8], value: &[u8]| {
            let (Some(passed), Some(letter)) = (passed, keys::read_letter(key)) else { return Ok(true) };
            let below = passed.letters.get(letter.stage).copied().unwrap_or(u64::MAX);
            let keep = letter.log != passed.log || letter.offset < below;
            if !keep {
                let (count, bytes) = left_out.entry(letter.tenant.to_owned()).or_default();
                (*count, *bytes) = (*count + 1, *bytes + (key.len() + value.len()) as u64);
            }
            Ok(keep)
        };
        copy.entries(LETTERS, is_passed)?;
        let of = |tenant: &str| left_out.get(tenant).copied().unwrap_or_default();
        copy.counts(LETTER_COUNTS, |tenant, count| count.saturating_sub(of(tenant).0))?;
        copy.counts(LETTER_BYTES, |tenant, bytes| bytes.saturating_sub(of(tenant).1))?;
        copy.counts(LETTERS_TRIMMED, |_, count| count)?;
        copy.counts(EXPIRED, |_, rows| rows)
    }

    fn write_partition(&self, source: &Source, to: &Path, passed: Option<Passed<'_>>) -> Result<()> {
        let has_sizes = source.check(&[BLOCKS.name(), MERGED.name(), SIZES.name()])?.contains(SIZES.name());
        let mut copy = Copy::create(to, source)?;
        let mut left_out: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        let is_passed = |key: &[u8], value: &[u8]| {
            let block = keys::read_block(key)?;
            let keep =
                passed.is_none_or(|passed| *block.id.log != *passed.log || block.id.first_offset < passed.history);
            if !keep && has_sizes {
                let size = self.store.0.size_of_block(&source.path, key, value, &block);
                *left_out.entry(block.id.device.tenant).or_default() += size;
            }
            Ok(keep)
        };
        copy.entries(BLOCKS, is_passed)?;
        copy.counts(MERGED, |_, rows| rows)?;
        if has_sizes {
            let of = |tenant: &str| left_out.get(tenant).copied().unwrap_or_default();
            copy.counts(SIZES, |tenant, bytes| bytes.saturating_sub(of(tenant)))?;
        }
        Ok(())
    }
}

/// A file of the store as it was at one moment.
struct Source {
    path: PathBuf,
    read: ReadTransaction,
    /// Keeps the file from being closed.
    opened: Opened,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").field(&self.path).finish()
    }
}

impl Source {
    fn open(path: PathBuf, opened: Opened) -> Result<Self> {
        let read = opened.run(|database| Ok(database.begin_read()?))?;
        Ok(Self { path, read, opened })
    }

    /// Refuses a file with tables that this release does not copy. Returns its tables.
    fn check(&self, known: &[&str]) -> Result<BTreeSet<String>> {
        let tables = self.read.list_tables().map_err(|error| self.opened.failed(error))?;
        let tables: BTreeSet<String> = tables.map(|table| table.name().to_owned()).collect();
        match tables.iter().find(|table| !known.contains(&table.as_str())) {
            None => Ok(tables),
            Some(table) => Err(StoreError::NeedsOperator(format!(
                "{} has a table {table:?} that this release does not know: use the release that wrote it",
                self.path.display()
            ))),
        }
    }
}

/// A new file, filled from a source.
struct Copy<'a> {
    source: &'a Source,
    path: PathBuf,
    database: Database,
}

impl<'a> Copy<'a> {
    fn create(path: &Path, source: &'a Source) -> Result<Self> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| failed(path)(error.into()))?;
        Ok(Self { source, path: path.to_owned(), database })
    }

    /// Copies the entries of a table whose keys are to be kept, in transactions of bounded size.
    fn entries(
        &mut self,
        table: TableDefinition<'_, &'static [u8], &'static [u8]>,
        mut keep: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let opened = &self.source.opened;
        let from = self.source.read.open_table(table).map_err(|error| opened.failed(error))?;
        let mut entries = from.iter().map_err(|error| opened.failed(error))?;
        let mut is_last = false;
        while !is_last {
            let mut part = Vec::new();
            let mut bytes = 0;
            while bytes < COMMIT_BYTES {
                let Some(entry) = entries.next() else {
                    is_last = true;
                    break;
                };
                let (key, value) = entry.map_err(|error| opened.failed(error))?;
                let is_kept = keep(key.value(), value.value())
                    .map_err(|error| StoreError::Damaged(format!("{}: {error}", self.source.path.display())))?;
                if is_kept {
                    bytes += (key.value().len() + value.value().len()) as u64;
                    part.push((key, value));
                }
            }
            self.change(|write| {
                let mut table = write.open_table(table)?;
                for (key, value) in &part {
                    table.insert(key.value(), value.value())?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Copies a small table of counts.
    fn counts<K: Key + 'static>(
        &mut self,
        table: TableDefinition<'_, K, u64>,
        mut count: impl FnMut(&K::SelfType<'_>, u64) -> u64,
    ) -> Result<()> {
        let opened = &self.source.opened;
        let from = self.source.read.open_table(table).map_err(|error| opened.failed(error))?;
        self.change(|write| {
            let mut table = write.open_table(table)?;
            for entry in from.iter()? {
                let (key, value) = entry?;
                let value = count(&key.value(), value.value());
                table.insert(key.value(), value)?;
            }
            Ok(())
        })
    }

    fn change(&self, change: impl FnOnce(&redb::WriteTransaction) -> Outcome<()>) -> Result<()> {
        let work = || {
            let write = self.database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        };
        work().map_err(failed(&self.path))
    }
}

/// The meaning of an error of a copy.
fn failed(path: &Path) -> impl Fn(redb::Error) -> StoreError + '_ {
    move |error| match error {
        redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull => {
            StoreError::busy(format!("no space left for {}", path.display()))
        }
        error => at(path)(error),
    }
}
