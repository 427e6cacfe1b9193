//! `drain.json`: offsets of the spill's frames in the primary.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::embedded::{Disk, RealDisk};

const FILE: &str = "drain.json";
const VERSION: u32 = 1;

/// Offset `from` of the spill is offset `to` of the primary, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Id of the primary.
    pub(super) log: String,
    pub(super) from: u64,
    pub(super) to: u64,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(flatten)]
    place: Place,
    /// CRC-32C of the other fields.
    check: u32,
}

impl Place {
    /// Converts an offset of the spill to one of the primary.
    pub(super) fn of(&self, offset: u64) -> u64 {
        self.to + (offset - self.from)
    }

    /// The offset of the spill up to which the primary has its frames, from the primary's end; None
    /// for an impossible end.
    pub(super) fn drained(&self, end: u64) -> Option<u64> {
        Some(self.from + end.checked_sub(self.to)?)
    }

    fn check(&self) -> u32 {
        let numbers = [self.from, self.to].map(u64::to_le_bytes).concat();
        crc32c::crc32c_append(crc32c::crc32c(self.log.as_bytes()), &numbers)
    }
}

/// Durable when it returns.
pub(super) fn write(dir: &Path, place: &Place) -> Result<(), OpenError> {
    let contents = Contents { version: VERSION, place: place.clone(), check: place.check() };
    let json = serde_json::to_vec(&contents).expect("plain fields are JSON");
    let path = dir.join(FILE);
    RealDisk.replace(&path, &json).map_err(|error| OpenError::Place(format!("write {}: {error}", path.display())))
}

/// Reads the file; None when it does not exist.
pub(super) fn read(dir: &Path) -> Result<Option<Place>, OpenError> {
    let path = dir.join(FILE);
    let fault = |what: String| OpenError::Place(format!("{}: {what}", path.display()));
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
    };
    let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
    if contents.version != VERSION {
        let version = contents.version;
        return Err(fault(format!("format version {version}: start the release that wrote it")));
    }
    if contents.check != contents.place.check() {
        return Err(fault("its checksum does not match".into()));
    }
    Ok(Some(contents.place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden file is of the first release and is never regenerated.
    #[test]
    fn place_files_of_version_1_are_read_and_written_as_they_were() {
        let golden = include_bytes!("../../tests/golden/drain-1.json");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), golden).unwrap();
        let place = Place { log: "node-a.7".to_owned(), from: 40, to: 1000 };
        assert_eq!(read(dir.path()).unwrap(), Some(place.clone()));
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        write(dir.path(), &place).unwrap();
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), golden);
    }
}
