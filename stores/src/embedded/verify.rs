//! A check of the store's files, for a store that no process has open.

use std::path::Path;

use redb::{Database, DatabaseError};

/// Opens every file of the store in `dir` without changing it. Returns the number of files, and one
/// text for each that cannot be opened. A file that a killed process left open is intact: the next
/// start recovers it.
pub fn verify(dir: &Path) -> (usize, Vec<String>) {
    let history = std::fs::read_dir(dir.join("history")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = history.filter(|path| path.extension().is_some_and(|e| e == "redb")).collect();
    files.extend(Some(dir.join("meta.redb")).filter(|path| path.exists()));
    files.sort();
    let damage = |path: &std::path::PathBuf| match Database::builder().open_read_only(path) {
        Ok(_) | Err(DatabaseError::RepairAborted) => None,
        Err(error) => Some(format!("{}: {error}", path.display())),
    };
    (files.len(), files.iter().filter_map(damage).collect())
}
