//! The file of the keyring: lines `CRC-32C JSON`.
//!
//! ```text
//! {"version":1,"kek":FINGERPRINT,"master":ENVELOPE}      first line
//! {"tenant":T,"key":ID,"wrapped":ENVELOPE}               a data key; the last one of a tenant seals
//! {"tenant":T,"destroyed":[ID,…],"time":NS}              nothing more of the tenant is readable
//! {"tenant":T,"allowed":true}                            the name is used again, with new keys
//! ```
//! A key is appended and synced before its first use. A last line without its end is an append that
//! a crash cut short: its key was never used. A rotation and a destruction replace the file; what
//! was there before is overwritten, as far as the file system lets it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Version of the format.
pub(crate) const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) version: u32,
    pub(crate) kek: String,
    #[serde(with = "text")]
    pub(crate) master: Vec<u8>,
}

/// Every other line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Line {
    /// A data key.
    Key {
        tenant: String,
        key: u32,
        #[serde(with = "text")]
        wrapped: Vec<u8>,
    },
    /// The end of all keys of a tenant.
    Destroyed { tenant: String, destroyed: Vec<u32>, time: i64 },
    /// A tenant of the same name gets new keys.
    Allowed { tenant: String, allowed: bool },
}

mod text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// The contents of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) head: Head,
    pub(crate) lines: Vec<Line>,
    /// Bytes up to the end of the last whole line; more follow when an append was cut short.
    pub(crate) whole: u64,
}

/// Encodes one line.
pub(crate) fn encode<T: Serialize>(line: &T) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("plain fields are JSON");
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
}

/// Decodes a file. The error is a sentence about it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Contents, String> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|_| "it is not text")?;
    let mut lines = text.lines().enumerate().map(|(n, line)| {
        let damaged = |what: &str| format!("line {}: {what}", n + 1);
        let (crc, json) = line.split_once(' ').ok_or_else(|| damaged("it has no checksum"))?;
        match u32::from_str_radix(crc, 16) == Ok(crc32c::crc32c(json.as_bytes())) {
            true => Ok((n, json)),
            false => Err(damaged("its checksum does not match")),
        }
    });
    let (_, first) = lines.next().ok_or("it is empty")??;
    let version = serde_json::from_str::<serde_json::Value>(first).ok().and_then(|head| head["version"].as_u64());
    if version.is_some_and(|version| version > VERSION.into()) {
        return Err(format!("it has a later format than {VERSION}: start the release that wrote it"));
    }
    let head: Head = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
    let lines = lines.map(|line| {
        let (n, json) = line?;
        serde_json::from_str(json).map_err(|error| format!("line {}: {error}", n + 1))
    });
    Ok(Contents { head, lines: lines.collect::<Result<_, String>>()?, whole: whole as u64 })
}

/// A file at one time. It differs after each append and replacement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    number: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self { number: found.ino(), length: found.len(), modified: (found.mtime(), found.mtime_nsec()) })
    }
}

/// Appends whole lines, durable when it returns; on an error nothing is added.
pub(crate) fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    // The name may not be durable yet, when the sync after a replacement failed.
    folder_of(path)?.sync_all()?;
    let mut file = File::options().read(true).append(true).open(path)?;
    let before = cut_to_line(&mut file)?;
    let written = file.write_all(lines).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is reported; a part of the line has no end and is cut at the next start.
        file.set_len(before).ok();
    }
    written
}

/// Cuts what has no end, left by an append that could not be undone. Returns the length.
fn cut_to_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    file.seek(SeekFrom::Start(length.saturating_sub(1)))?;
    if length > 0 {
        file.read_exact(&mut last)?;
    }
    if last == *b"\n" {
        return Ok(length);
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    file.set_len(whole)?;
    Ok(whole)
}

fn folder_of(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}

/// Cuts an append that has no end.
pub(crate) fn cut(path: &Path, whole: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(whole)?;
    file.sync_all()
}

/// Checks that a keyring, or a copy of one, can be read. Needs no key.
///
/// # Errors
/// A sentence that names the file.
pub fn check(path: &Path) -> Result<(), String> {
    let named = |fault: String| format!("{}: {fault}", path.display());
    let bytes = std::fs::read(path).map_err(|error| named(error.to_string()))?;
    let whole = usize::try_from(decode(&bytes).map_err(named)?.whole).unwrap_or(usize::MAX);
    match bytes.get(whole..).is_some_and(|rest| rest.contains(&0)) {
        true => Err(named("its end is overwritten".to_owned())),
        false => Ok(()),
    }
}

/// Overwrites and removes a file that an interrupted [`replace`] left.
pub(crate) fn remove_left(path: &Path) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match File::options().write(true).open(&temporary) {
        Ok(left) => overwrite(left).and_then(|()| std::fs::remove_file(&temporary)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces the file, durable when it returns. The bytes of the old one are overwritten.
///
/// On an outer error nothing has changed. On an inner one the file is the new one, but a crash may
/// bring the old one back.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<io::Result<()>> {
    remove_left(path)?;
    let folder = folder_of(path)?;
    let old = match File::options().write(true).open(path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Err(error) = folder.sync_all() {
        return Ok(Err(error));
    }
    if let Some(Err(error)) = old.map(overwrite) {
        tracing::warn!(path = %path.display(), %error, "cannot overwrite the old keyring, which is deleted");
    }
    Ok(Ok(()))
}

fn overwrite(mut file: File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&vec![0; length])?;
    file.sync_all()
}
