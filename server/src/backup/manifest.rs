//! `manifest.json`: the contents of a backup.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files;

pub(super) const FILE: &str = "manifest.json";
const FORMAT: u64 = 1;

/// The contents of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u64,
    /// Release that took it.
    pub(super) weir: String,
    /// Readings that were acknowledged before this time are in it.
    pub(super) taken: String,
    /// The log of the data folder, and the spill.
    pub(super) logs: Vec<CopiedLog>,
    /// Copies of the servers, in the order in which they are to be taken.
    pub(super) servers: Vec<Step>,
    pub(super) files: Vec<CopiedFile>,
    /// SHA-256 of the manifest with an empty text here.
    check: String,
}

/// A log in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopiedLog {
    pub(super) folder: String,
    pub(super) id: String,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Offset that each sink had passed.
    pub(super) passed: BTreeMap<String, u64>,
}

/// A copy of a server that belongs to the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) server: String,
    pub(super) backup: String,
    pub(super) restore: String,
    pub(super) why: String,
}

/// A file in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopiedFile {
    /// Relative to the manifest.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn new(taken: String, logs: Vec<CopiedLog>, servers: Vec<Step>, files: Vec<CopiedFile>) -> Self {
        let weir = env!("CARGO_PKG_VERSION").to_owned();
        let mut manifest = Self { format: FORMAT, weir, taken, logs, servers, files, check: String::new() };
        manifest.check = manifest.digest();
        manifest
    }

    fn digest(&self) -> String {
        let unchecked = Self { check: String::new(), ..self.clone() };
        hex(&Sha256::digest(serde_json::to_vec(&unchecked).unwrap_or_default()))
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).context("the manifest is JSON")?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads and checks the manifest of the backup in `dir`, not its files.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let shown = path.display();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("{shown} is missing: name the folder that `weir backup` wrote, whole")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        let damaged = || format!("{shown} is damaged: use another copy of this backup, or an earlier one");
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        if let Some(format) = value["format"].as_u64().filter(|format| *format > FORMAT) {
            let writer = value["weir"].as_str().unwrap_or("a later release");
            bail!("{shown} has format {format}, this release reads up to {FORMAT}: restore it with weir {writer}");
        }
        let manifest: Self = serde_json::from_value(value).with_context(damaged)?;
        ensure!(manifest.check == manifest.digest(), "{}", damaged());
        for file in &manifest.files {
            let inside = Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)));
            ensure!(inside && !file.path.is_empty(), "{shown} names {:?}, which is outside of it", file.path);
        }
        Ok(manifest)
    }

    /// Compares every file in `dir` with the manifest.
    ///
    /// # Errors
    /// Names the first file that is missing or differs.
    pub(super) fn verify(&self, dir: &Path) -> anyhow::Result<()> {
        self.files.iter().try_for_each(|file| file.verify(&files::digest(&dir.join(&file.path)), dir))
    }
}

impl CopiedFile {
    /// Compares the file with what was read of it.
    pub(super) fn verify(&self, found: &std::io::Result<(u64, String)>, dir: &Path) -> anyhow::Result<()> {
        const CURE: &str = "use another copy of this backup, or an earlier one";
        let path = dir.join(&self.path);
        let shown = path.display();
        match found {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("{shown} is missing from the backup: {CURE}")
            }
            Err(error) => bail!("cannot read {shown}: {error}: {CURE}"),
            Ok((bytes, _)) if *bytes != self.bytes => {
                bail!("{shown} is damaged: it has {bytes} bytes and was written with {}: {CURE}", self.bytes)
            }
            Ok((_, sha256)) if *sha256 != self.sha256 => {
                bail!("{shown} is damaged: its checksum is not that of {FILE}: {CURE}")
            }
            Ok(_) => Ok(()),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(path: &str) -> Manifest {
        let file = CopiedFile { path: path.to_owned(), bytes: 3, sha256: hex(&Sha256::digest(b"abc")) };
        let log = CopiedLog {
            folder: "log".into(),
            id: "l".into(),
            start: 0,
            end: 7,
            passed: [("history".to_owned(), 5)].into(),
        };
        Manifest::new("2026-11-28T12:00:00Z".into(), vec![log], Vec::new(), vec![file])
    }

    #[test]
    fn a_manifest_that_is_missing_damaged_or_of_a_later_format_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let refused = || format!("{:#}", Manifest::read(dir.path()).unwrap_err());
        assert!(refused().contains("manifest.json is missing"), "{}", refused());
        let text = String::from_utf8(manifest("a").encode().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest("a"));
        for damage in [text.replace("\"end\": 7", "\"end\": 8"), text.replace("\"end\"", "\"ent\""), text[..90].into()]
        {
            std::fs::write(&path, damage).unwrap();
            assert!(refused().contains("manifest.json is damaged"), "{}", refused());
        }
        std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(refused().contains("manifest.json has format 2, this release reads up to 1"), "{}", refused());
        for outside in ["../a", "/etc/a", ""] {
            std::fs::write(&path, manifest(outside).encode().unwrap()).unwrap();
            assert!(refused().contains("outside of it"), "{}", refused());
        }
    }

    #[test]
    fn a_file_that_is_missing_cut_or_changed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || manifest("a").verify(dir.path()).unwrap_err().to_string();
        assert!(refused().contains("/a is missing from the backup"), "{}", refused());
        for (contents, fault) in [("ab", "it has 2 bytes and was written with 3"), ("abd", "its checksum is not that")]
        {
            std::fs::write(dir.path().join("a"), contents).unwrap();
            assert!(refused().contains(fault) && refused().contains("/a is damaged"), "{}", refused());
        }
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        manifest("a").verify(dir.path()).unwrap();
    }
}
