//! A keyring for the tests of other crates.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Config, Keyring};

/// The key-encryption key of tests, in a file of `dir`.
///
/// # Panics
/// When it cannot be written.
pub fn config(dir: &Path) -> Config {
    let key_file: PathBuf = dir.join("key-encryption-key");
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&key_file);
    file.and_then(|mut file| writeln!(file, "{}", "5a".repeat(32))).expect("a key can be written");
    Config { key_file, ..Config::default() }
}

/// The keyring in `dir`, as a process opens it.
///
/// # Panics
/// When it cannot be opened.
pub fn keyring(dir: &Path) -> Keyring {
    Keyring::open(&config(dir), dir).expect("the keyring opens").expect("there is a key")
}
