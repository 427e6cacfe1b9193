//! `key`: the key of the hashes by which resent messages are recognised.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::disk::Disk;
use super::recover::OpenError;

const FILE: &str = "key";

/// Reads the key, or makes one. A file that cannot be read as a key is replaced: messages of before
/// are then not recognised when they are sent again.
pub(super) fn read_or_make(dir: &Path, disk: &dyn Disk) -> Result<[u64; 2], OpenError> {
    let path = dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => match parse(&text) {
            Some(key) => return Ok(key),
            None => tracing::warn!(
                "{} does not hold a key: making a new one; messages that were stored before and are sent again now \
                 are stored twice",
                path.display()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::io("read", &path, &error)),
    }
    let key = random();
    disk.replace(&path, text(key).as_bytes()).map_err(|error| OpenError::io("write", &path, &error))?;
    Ok(key)
}

/// A key that only this installation knows.
pub(crate) fn random() -> [u64; 2] {
    // Hashers of the standard library are keyed by the system's source of randomness.
    [0, 1].map(|n: u8| RandomState::new().hash_one(n))
}

/// A key as text.
pub(crate) fn text(key: [u64; 2]) -> String {
    format!("{:016x}{:016x}", key[0], key[1])
}

/// Reads a key from its text.
pub(crate) fn parse(text: &str) -> Option<[u64; 2]> {
    let (first, second) = text.trim_end().split_at_checked(16)?;
    let number = |digits: &str| {
        let hex = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some([number(first)?, number(second)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::disk::RealDisk;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = read_or_make(dir.path(), &RealDisk).unwrap();
        assert_eq!(read_or_make(dir.path(), &RealDisk).unwrap(), key);
        assert_ne!(key, read_or_make(tempfile::tempdir().unwrap().path(), &RealDisk).unwrap());
        std::fs::write(dir.path().join(FILE), "no key").unwrap();
        let new = read_or_make(dir.path(), &RealDisk).unwrap();
        assert_ne!(new, key);
        assert_eq!(read_or_make(dir.path(), &RealDisk).unwrap(), new);
    }
}
