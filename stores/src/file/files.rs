//! The files of one log.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::sealed;
use crate::contract::{DeviceBatch, Result, StoreError};
use crate::reading::rows;

const OPEN: &str = "part";

/// The files of one log, from the first join on.
#[derive(Debug, Default)]
pub(super) struct LogFiles {
    joined: Option<Joined>,
    /// The highest epoch that this process joined with.
    epoch: u64,
}

#[derive(Debug)]
struct Joined {
    cursor: Cursor,
    open: Option<Open>,
}

/// The file that is written to.
#[derive(Debug)]
struct Open {
    file: File,
    /// Name without the mark of an open file.
    name: String,
    /// Whole lines end here.
    length: u64,
    begun: Instant,
    /// Its entry in the folder is synced.
    entered: bool,
}

/// Contents of the side file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// Form of the side file.
    version: u32,
    /// Lease epoch of the writer.
    epoch: u64,
    /// Everything below this offset is written. `None` before the first commit.
    done_to: Option<u64>,
    /// The file that was open at the last commit, without the mark of an open file.
    file: Option<String>,
    /// Its length then.
    length: u64,
}

const VERSION: u32 = 1;

impl LogFiles {
    /// Cuts away what was not committed, and returns the offset below which everything is written.
    pub(super) fn join(&mut self, config: &Config, log: &str, epoch: u64) -> Result<Option<u64>> {
        self.joined = None;
        if !config.folder.is_dir() {
            std::fs::create_dir_all(&config.folder).map_err(|error| refusal("create", &config.folder, &error))?;
            std::fs::set_permissions(&config.folder, Permissions::from_mode(0o750))
                .map_err(|error| refusal("set the mode of", &config.folder, &error))?;
        }
        let held = read_cursor(config, log)?;
        let is_new = held.is_none();
        let mut cursor = held.unwrap_or_else(|| Cursor { version: VERSION, ..Cursor::default() });
        if cursor.epoch > epoch {
            return Err(StoreError::busy(format!(
                "the files of log {log:?} in {} belong to the holder of lease epoch {}; this process holds {epoch}",
                config.folder.display(),
                cursor.epoch
            )));
        }
        self.epoch = epoch;
        let open = reopen(config, log, &cursor, is_new)?;
        if cursor.epoch != epoch || is_new {
            cursor.epoch = epoch;
            write_cursor(config, log, &cursor)?;
        }
        let done_to = cursor.done_to;
        self.joined = Some(Joined { cursor, open });
        Ok(done_to)
    }

    /// Appends readings. Those below the cursor are written already.
    pub(super) fn write(&mut self, config: &Config, log: &str, batches: &[DeviceBatch], abandoned: bool) -> Result<()> {
        let joined = self.joined(config, log, abandoned)?;
        let mut lines: Vec<_> = batches.iter().flat_map(|batch| rows(&batch.block, &batch.offsets)).collect();
        lines.retain(|row| joined.cursor.done_to.is_none_or(|done_to| row.offset >= done_to));
        lines.sort_by_key(|row| row.offset);
        let Some(first) = lines.first().map(|row| row.offset) else { return Ok(()) };
        let text = match config.keys.as_ref().filter(|keys| config.sealed && keys.seals()) {
            Some(keys) => sealed::lines(keys, log, &lines)?,
            None => {
                let mut text = Vec::with_capacity(lines.len() * 256);
                for row in &lines {
                    row.write_json(&mut text);
                    text.push(b'\n');
                }
                text
            }
        };
        let mut open = match joined.open.take() {
            Some(open) => open,
            None => create(config, log, first)?,
        };
        if let Err(error) = open.file.write_all(&text) {
            let refused = refusal("write to", &path_of(config, &open.name, true), &error);
            // A file that cannot be cut back is opened again by the next call, which cuts it to
            // what is committed.
            return match open.file.set_len(open.length) {
                Ok(()) => {
                    joined.open = Some(open);
                    Err(refused)
                }
                Err(_) => {
                    self.joined = None;
                    Err(StoreError::Aborted(refused.to_string()))
                }
            };
        }
        open.length += text.len() as u64;
        joined.open = Some(open);
        Ok(())
    }

    /// Makes everything written durable, together with the cursor; closes a file that is large or
    /// old enough.
    pub(super) fn commit(&mut self, config: &Config, log: &str, done_to: u64, abandoned: bool) -> Result<()> {
        let joined = self.joined(config, log, abandoned)?;
        let committed = joined.commit(config, log, done_to);
        if committed.is_err() {
            // After a failed sync nothing is known of the file but what the cursor records.
            self.joined = None;
        }
        committed
    }

    /// Sets the cursor. What stands in the files stays there.
    pub(super) fn rewind(&mut self, config: &Config, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        self.join(config, log, epoch)?;
        let joined = self.joined(config, log, false)?;
        joined.cursor.done_to = Some(done_to);
        write_cursor(config, log, &joined.cursor)
    }

    /// # Errors
    /// [`StoreError::Aborted`] after a fault, or when the answer to the call before this one never
    /// arrived: what was written since the last commit is cut away.
    fn joined(&mut self, config: &Config, log: &str, abandoned: bool) -> Result<&mut Joined> {
        if self.joined.is_none() || abandoned {
            self.join(config, log, self.epoch)?;
            return Err(StoreError::Aborted(format!("the files of log {log:?} were cut to their last commit")));
        }
        self.joined.as_mut().ok_or_else(|| StoreError::busy("the log is not joined"))
    }
}

impl Joined {
    fn commit(&mut self, config: &Config, log: &str, done_to: u64) -> Result<()> {
        let mut cursor = Cursor { version: VERSION, done_to: Some(done_to), file: None, length: 0, ..self.cursor };
        if let Some(open) = &mut self.open {
            let path = path_of(config, &open.name, true);
            open.file.sync_data().map_err(|error| lost("sync", &path, &error))?;
            if !open.entered {
                sync_folder(config)?;
                open.entered = true;
            }
            cursor.file = Some(open.name.clone());
            cursor.length = open.length;
        }
        if cursor != self.cursor {
            write_cursor(config, log, &cursor)?;
            self.cursor = cursor;
        }
        let limit = Duration::from_secs(config.rotate_secs);
        let due = |open: &mut Open| open.length >= config.rotate_bytes || open.begun.elapsed() >= limit;
        if let Some(open) = self.open.take_if(due) {
            let (from, to) = (path_of(config, &open.name, true), path_of(config, &open.name, false));
            if let Err(error) = std::fs::rename(&from, &to) {
                // The readings are committed; the next delivery goes into the same file and tries
                // again.
                tracing::warn!(path = %from.display(), %error, "cannot close the file");
                self.open = Some(open);
            }
        }
        Ok(())
    }
}

/// The open file that the cursor names, cut to its committed length. Other open files of the log
/// were never committed.
fn reopen(config: &Config, log: &str, cursor: &Cursor, is_new: bool) -> Result<Option<Open>> {
    let entries = std::fs::read_dir(&config.folder).map_err(|error| refusal("read", &config.folder, &error))?;
    let mark = format!("-{}-", file_name(log));
    for entry in entries {
        let entry = entry.map_err(|error| refusal("read", &config.folder, &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(OPEN)?.strip_suffix('.')) else { continue };
        if is_of_log(name, &mark) && cursor.file.as_deref() != Some(name) {
            // The side file is written before the first open file.
            if is_new {
                return Err(StoreError::NeedsOperator(format!(
                    "{} is missing, and {} may hold readings that it covered: put it back, or move the open file away",
                    cursor_path(config, log).display(),
                    entry.path().display()
                )));
            }
            std::fs::remove_file(entry.path()).map_err(|error| refusal("remove", &entry.path(), &error))?;
        }
    }
    let Some(name) = &cursor.file else { return Ok(None) };
    let path = path_of(config, name, true);
    let file = match OpenOptions::new().append(true).open(&path) {
        Ok(file) => file,
        // Closed right after the commit, and perhaps taken away by a reader since.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refusal("open", &path, &error)),
    };
    let length = file.metadata().map_err(|error| refusal("read", &path, &error))?.len();
    if length < cursor.length {
        return Err(StoreError::Damaged(format!(
            "{} has {length} bytes, {} were committed",
            path.display(),
            cursor.length
        )));
    }
    if length > cursor.length {
        tracing::info!(path = %path.display(), cut = length - cursor.length, "cut what was not committed");
        file.set_len(cursor.length).map_err(|error| refusal("cut", &path, &error))?;
    }
    Ok(Some(Open { file, name: name.clone(), length: cursor.length, begun: begun(name), entered: true }))
}

/// When a file was begun, from its name, as far as the clock of this process can tell.
fn begun(name: &str) -> Instant {
    let now = Instant::now();
    let age = || {
        let (text, _) = name.split_once("Z-")?;
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.f", text).ok()?;
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Duration::try_from(jiff::Timestamp::now().duration_since(time)).ok()
    };
    age().and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

fn create(config: &Config, log: &str, first: u64) -> Result<Open> {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let name = format!("{time}-{}-{first:020}.ndjson", file_name(log));
    let path = path_of(config, &name, true);
    let file = OpenOptions::new().append(true).create_new(true).open(&path);
    let file = file.map_err(|error| refusal("create", &path, &error))?;
    // Readers of an export are other programs, in the group of the process.
    file.set_permissions(Permissions::from_mode(0o640)).map_err(|error| refusal("set the mode of", &path, &error))?;
    Ok(Open { file, name, length: 0, begun: Instant::now(), entered: false })
}

fn is_of_log(name: &str, mark: &str) -> bool {
    let Some((_, rest)) = name.split_once("Z-") else { return false };
    rest.strip_prefix(&mark[1..])
        .is_some_and(|rest| rest.trim_end_matches(".ndjson").bytes().all(|b| b.is_ascii_digit()))
}

/// A log's id as part of a file name.
fn file_name(log: &str) -> String {
    percent_encoding::utf8_percent_encode(log, percent_encoding::NON_ALPHANUMERIC).to_string().replace("%2D", "-")
}

fn path_of(config: &Config, name: &str, open: bool) -> PathBuf {
    if open { config.folder.join(format!("{name}.{OPEN}")) } else { config.folder.join(name) }
}

fn cursor_path(config: &Config, log: &str) -> PathBuf {
    config.folder.join(format!("{}.cursor", file_name(log)))
}

fn read_cursor(config: &Config, log: &str) -> Result<Option<Cursor>> {
    let path = cursor_path(config, log);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refusal("read", &path, &error)),
    };
    let cursor = serde_json::from_slice::<Cursor>(&text);
    let cursor = cursor.map_err(|error| StoreError::Damaged(format!("{}: {error}", path.display())))?;
    if cursor.version == VERSION {
        return Ok(Some(cursor));
    }
    Err(StoreError::NeedsOperator(format!(
        "{} has version {}, this program knows {VERSION}: use the program that wrote it",
        path.display(),
        cursor.version
    )))
}

fn write_cursor(config: &Config, log: &str, cursor: &Cursor) -> Result<()> {
    let path = cursor_path(config, log);
    let part = path.with_extension("cursor.new");
    let text = serde_json::to_vec(cursor).map_err(|error| StoreError::busy(error.to_string()))?;
    let written = (|| {
        let mut file = File::create(&part)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&part, &path)
    })();
    written.map_err(|error| lost("write", &path, &error))?;
    sync_folder(config)
}

fn sync_folder(config: &Config) -> Result<()> {
    let synced = File::open(&config.folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| lost("sync", &config.folder, &error))
}

/// A fault that leaves what was written before in its place.
fn refusal(verb: &str, path: &Path, error: &std::io::Error) -> StoreError {
    let reason = format!("cannot {verb} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            StoreError::NeedsOperator(format!("{reason}; repair it, or set another `folder`"))
        }
        _ => StoreError::busy(reason),
    }
}

/// A fault after which what was written since the last commit has to be written again.
fn lost(verb: &str, path: &Path, error: &std::io::Error) -> StoreError {
    match refusal(verb, path, error) {
        StoreError::Busy { reason, .. } => StoreError::Aborted(reason),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::tests::batch;

    #[test]
    fn a_full_disk_is_named_and_the_delivery_is_written_again_when_there_is_room() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = Config { folder: dir.path().to_owned(), ..Config::default() };
        let mut files = LogFiles::default();
        files.join(&config, "log-1", 1).unwrap();
        files.write(&config, "log-1", &[batch("t", "d", &[0])], false).unwrap();
        files.commit(&config, "log-1", 1, false).unwrap();
        let open = files.joined.as_mut().unwrap().open.as_mut().unwrap();
        open.file = OpenOptions::new().append(true).open(full).unwrap();
        let refused = files.write(&config, "log-1", &[batch("t", "d", &[1])], false).unwrap_err().to_string();
        assert!(refused.contains("ndjson.part") && refused.contains("space"), "{refused}");
        let again = files.write(&config, "log-1", &[batch("t", "d", &[1])], false);
        assert!(matches!(again, Err(StoreError::Aborted(_))), "{again:?}");
        files.write(&config, "log-1", &[batch("t", "d", &[1])], false).unwrap();
        files.commit(&config, "log-1", 2, false).unwrap();
        let name = files.joined.unwrap().open.unwrap().name;
        let text = std::fs::read_to_string(path_of(&config, &name, true)).unwrap();
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn a_full_disk_is_waited_for_and_a_folder_that_may_not_be_written_needs_the_operator() {
        let of = |kind: ErrorKind| refusal("write to", Path::new("/x"), &kind.into());
        assert!(matches!(of(ErrorKind::StorageFull), StoreError::Busy { reason, .. } if reason.contains("/x")));
        assert!(matches!(of(ErrorKind::PermissionDenied), StoreError::NeedsOperator(r) if r.contains("`folder`")));
    }
}
