//! `log.json`: who the log is.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::recover::OpenError;

const FILE: &str = "log.json";
const VERSION: u32 = 1;

/// Who the log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    version: u32,
    /// Unique among all logs, and among what one log was before and after records of it were lost.
    pub(super) id: String,
    /// In the header of each of its frames.
    pub(super) incarnation: u64,
    /// CRC-32C of the id and the incarnation.
    check: u32,
}

impl Identity {
    fn new(id: String, incarnation: u64) -> Self {
        let check = crc32c::crc32c_append(crc32c::crc32c(id.as_bytes()), &incarnation.to_le_bytes());
        Self { version: VERSION, id, incarnation, check }
    }

    fn first(incarnation: u64) -> Self {
        Self::new(format!("{incarnation:016x}"), incarnation)
    }

    /// Who the log is from now on, when records of it are gone: `old` as far as it can be read, and the incarnation that
    /// is in its frames.
    pub(super) fn after(old: Option<Self>, incarnation: Option<u64>) -> Self {
        let incarnation = incarnation.unwrap_or_else(unique);
        // Without the old id, a number that no repair has given: the time.
        let old = old.map_or_else(|| format!("{incarnation:016x}-{}", unique()), |old| old.id);
        let (stem, repairs) = old.split_once('-').unwrap_or((&old, "0"));
        let repairs = repairs.parse::<u64>().unwrap_or(0).saturating_add(1);
        Self::new(format!("{stem}-{repairs}"), incarnation)
    }

    pub(super) fn write(&self, dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        let json = serde_json::to_vec(self).expect("plain fields are JSON");
        disk.replace(&path, &json).map_err(|error| OpenError::io("write", &path, &error))
    }
}

/// Reads it; none when there is no such file.
pub(super) fn read(dir: &Path) -> Result<Option<Identity>, OpenError> {
    let path = dir.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let identity: Identity =
                serde_json::from_slice(&bytes).map_err(|error| OpenError::damaged(&path, 0, error.to_string()))?;
            if identity.version != VERSION {
                return Err(OpenError::Version { file: path, offset: 0, version: identity.version });
            }
            if identity != Identity::new(identity.id.clone(), identity.incarnation) {
                return Err(OpenError::damaged(&path, 0, "its checksum does not match"));
            }
            Ok(Some(identity))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io("read", &path, &error)),
    }
}

/// Reads it, or makes it when the log is `empty`.
pub(super) fn read_or_make(dir: &Path, disk: &dyn Disk, empty: bool) -> Result<Identity, OpenError> {
    match read(dir)? {
        Some(identity) => Ok(identity),
        None if empty => {
            let identity = Identity::first(unique());
            identity.write(dir, disk)?;
            Ok(identity)
        }
        None => Err(OpenError::damaged(&dir.join(FILE), 0, "it is missing, and there are segments")),
    }
}

/// Unique among logs, not secret: the time, and the process.
fn unique() -> u64 {
    crate::log::now().unsigned_abs() ^ (u64::from(std::process::id()) << 48)
}
