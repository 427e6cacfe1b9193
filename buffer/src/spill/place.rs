//! `drain.json`: where the frames of the spill belong in the primary.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::OpenError;
use crate::embedded::{Disk, RealDisk};

const FILE: &str = "drain.json";
const VERSION: u32 = 1;

/// Offset `from` of the spill is offset `to` of the primary, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The primary's id.
    pub(super) log: String,
    pub(super) from: u64,
    pub(super) to: u64,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(flatten)]
    place: Place,
    /// CRC-32C of the rest.
    check: u32,
}

impl Place {
    /// The primary's offset of an offset of the spill.
    pub(super) fn of(&self, offset: u64) -> u64 {
        self.to + (offset - self.from)
    }

    /// Up to where the primary holds what was spilled, by its end; none when that end cannot be.
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

/// None when nothing was ever spilled.
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
