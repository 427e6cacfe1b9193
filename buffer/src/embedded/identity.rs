//! `log.json`: the identity of the log.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::recover::OpenError;

const FILE: &str = "log.json";
const VERSION: u32 = 1;

/// Identity of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    version: u32,
    /// Unique among all logs; a log from which a repair removed records gets a new id, and so does
    /// a copy that was restored.
    pub(super) id: String,
    /// Stored in the header of each of its frames.
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

    /// The identity of the log after a loss of records, from `old` if it is readable and from the
    /// incarnation in its frames.
    pub(super) fn after(old: Option<Self>, incarnation: Option<u64>) -> Self {
        let incarnation = incarnation.unwrap_or_else(unique);
        // Without the old id, the time is a number that no repair has used.
        let old = old.map_or_else(|| format!("{incarnation:016x}-{}", unique()), |old| old.id);
        let (stem, repairs) = old.split_once('-').unwrap_or((&old, "0"));
        let repairs = repairs.parse::<u64>().unwrap_or(0).saturating_add(1);
        Self::new(format!("{stem}-{repairs}"), incarnation)
    }

    /// The identity of a copy that is continued by other records than its original. Two copies of
    /// one log differ, too.
    pub(super) fn renewed(self) -> Self {
        let stem = self.id.split_once('-').map_or(&*self.id, |(stem, _)| stem);
        Self::new(format!("{stem}-{}", unique()), self.incarnation)
    }

    pub(super) fn write(&self, dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        let json = serde_json::to_vec(self).expect("plain fields are JSON");
        disk.replace(&path, &json).map_err(|error| OpenError::io("write", &path, &error))
    }
}

/// Reads the identity; None when the file does not exist.
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

/// Reads the identity, or creates it when the log is `empty`.
pub(super) fn read_or_make(dir: &Path, disk: &dyn Disk, empty: bool) -> Result<Identity, OpenError> {
    match read(dir)? {
        Some(identity) => Ok(identity),
        None if empty => {
            let identity = Identity::first(unique());
            identity.write(dir, disk)?;
            Ok(identity)
        }
        None => Err(missing(dir)),
    }
}

/// The error of segments without an identity.
pub(super) fn missing(dir: &Path) -> OpenError {
    OpenError::damaged(&dir.join(FILE), 0, "it is missing, and there are segments")
}

/// An id that is unique among logs but not secret: the time and the process.
fn unique() -> u64 {
    crate::log::now().unsigned_abs() ^ (u64::from(std::process::id()) << 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::disk::RealDisk;

    /// The golden file is of the first release and is never regenerated.
    #[test]
    fn identity_files_of_version_1_are_read_and_written_as_they_were() {
        let golden = include_bytes!("../../tests/golden/log-1.json");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), golden).unwrap();
        let identity = Identity::new("0123456789abcdef-2".to_owned(), 0x0123_4567_89AB_CDEF);
        assert_eq!(read(dir.path()).unwrap(), Some(identity.clone()));
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        identity.write(dir.path(), &RealDisk).unwrap();
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), golden);
    }
}
