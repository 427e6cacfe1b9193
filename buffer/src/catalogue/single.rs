//! A catalogue of one log without other processes: a single process is a fleet of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Catalogue, CatalogueError, ExportSetting, Holder, Lease, LogInfo};
use crate::cursor::Cursor;
use crate::embedded::{Disk, RealDisk};
use crate::log::Log;

/// Epoch of the lease, which has no competitors.
const EPOCH: u64 = 1;
const VERSION: u32 = 1;

type Settings = BTreeMap<String, ExportSetting>;

#[derive(serde::Serialize, serde::Deserialize)]
struct Contents {
    version: u32,
    exports: Settings,
}

/// The only log of a process, and a file with the settings of exports.
pub struct SingleLog {
    log: Arc<dyn Log>,
    holder: Mutex<Option<Holder>>,
    /// `None` for settings in memory only.
    file: Option<PathBuf>,
    settings: Arc<Mutex<Settings>>,
}

impl std::fmt::Debug for SingleLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleLog").field("log", &self.log.id()).finish_non_exhaustive()
    }
}

impl SingleLog {
    /// Creates a catalogue of `log` with the settings in `file`; the file is created when a setting
    /// is changed.
    ///
    /// # Errors
    /// [`CatalogueError`] with the path when the file exists but cannot be read.
    pub fn open(log: Arc<dyn Log>, file: PathBuf) -> Result<Self, CatalogueError> {
        let settings = match std::fs::read(&file) {
            Ok(bytes) => decode(&bytes)
                .map_err(|reason| CatalogueError::Settings { path: file.display().to_string(), reason })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Settings::new(),
            Err(error) => return Err(CatalogueError::Unavailable(format!("read {}: {error}", file.display()))),
        };
        Ok(Self { file: Some(file), settings: Arc::new(Mutex::new(settings)), ..Self::in_memory(log) })
    }

    /// Creates a catalogue of `log` whose settings last until the end of the process.
    pub fn in_memory(log: Arc<dyn Log>) -> Self {
        Self { log, holder: Mutex::default(), file: None, settings: Arc::default() }
    }

    fn lease(&self, holder: &Holder) -> Lease {
        Lease { log: self.log.id().to_owned(), epoch: EPOCH, holder: holder.clone() }
    }
}

#[async_trait]
impl Catalogue for SingleLog {
    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError> {
        Ok(vec![LogInfo { id: self.log.id().to_owned(), written: true, holder: self.holder.lock().clone() }])
    }

    async fn announce(&self, holder: &Holder, _: Duration) -> Result<Vec<Holder>, CatalogueError> {
        Ok(vec![holder.clone()])
    }

    async fn withdraw(&self, _: &Holder) -> Result<(), CatalogueError> {
        Ok(())
    }

    async fn claim(&self, log: &str, holder: &Holder, _: Duration) -> Result<Option<Lease>, CatalogueError> {
        if log != self.log.id() {
            return Ok(None);
        }
        *self.holder.lock() = Some(holder.clone());
        Ok(Some(self.lease(holder)))
    }

    async fn renew(&self, lease: &Lease, _: Duration) -> Result<bool, CatalogueError> {
        Ok(self.holder.lock().as_ref() == Some(&lease.holder))
    }

    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError> {
        self.holder.lock().take_if(|holder| *holder == lease.holder);
        Ok(())
    }

    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError> {
        if log == self.log.id() {
            return Ok(Arc::clone(&self.log));
        }
        Err(CatalogueError::Unavailable(format!("there is no log {log}")))
    }

    /// False: the log is written for as long as the process runs.
    async fn remove(&self, _: &Lease) -> Result<bool, CatalogueError> {
        Ok(false)
    }

    async fn settled(&self) -> Result<BTreeMap<String, Cursor>, CatalogueError> {
        Ok(BTreeMap::new())
    }

    async fn export_settings(&self) -> Result<Settings, CatalogueError> {
        Ok(self.settings.lock().clone())
    }

    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<(), CatalogueError> {
        let (settings, file, name) = (Arc::clone(&self.settings), self.file.clone(), name.to_owned());
        let set = tokio::task::spawn_blocking(move || {
            // Held across the write: changes are sequential and complete.
            let mut held = settings.lock();
            let mut next = held.clone();
            next.insert(name, setting);
            if let Some(file) = &file {
                write(file, &next)?;
            }
            *held = next;
            Ok(())
        });
        set.await.map_err(|error| CatalogueError::Unavailable(error.to_string()))?
    }
}

fn write(file: &Path, settings: &Settings) -> Result<(), CatalogueError> {
    RealDisk
        .replace(file, &encode(settings))
        .map_err(|error| CatalogueError::Unavailable(format!("write {}: {error}", file.display())))
}

/// One JSON object, readable by an operator.
fn encode(settings: &Settings) -> Vec<u8> {
    let contents = Contents { version: VERSION, exports: settings.clone() };
    let mut bytes = serde_json::to_vec_pretty(&contents).expect("maps with text keys are JSON");
    bytes.push(b'\n');
    bytes
}

fn decode(bytes: &[u8]) -> Result<Settings, String> {
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match contents.version {
        VERSION => Ok(contents.exports),
        other => Err(format!("it has version {other}, this release reads {VERSION}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batcher::BatchConfig;
    use crate::catalogue::Rewind;
    use crate::memory::MemoryLog;

    fn log() -> Arc<dyn Log> {
        MemoryLog::open("l1", BatchConfig::default()).unwrap().0
    }

    #[tokio::test]
    async fn settings_of_exports_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("exports.json");
        let paused = ExportSetting { paused: true, rewind: None };
        let rewound = ExportSetting { paused: false, rewind: Some(Rewind { generation: 3, to: -5 }) };
        let single = SingleLog::open(log(), file.clone()).unwrap();
        assert!(single.export_settings().await.unwrap().is_empty());
        single.set_export("events", paused).await.unwrap();
        single.set_export("archive", rewound).await.unwrap();
        single.set_export("events", ExportSetting::default()).await.unwrap();
        let held = SingleLog::open(log(), file.clone()).unwrap().export_settings().await.unwrap();
        assert_eq!(held, [("archive".to_owned(), rewound), ("events".to_owned(), ExportSetting::default())].into());
        for (bytes, wanted) in [(&b"{"[..], "EOF"), (br#"{"version":9,"exports":{}}"#, "version 9")] {
            std::fs::write(&file, bytes).unwrap();
            let error = SingleLog::open(log(), file.clone()).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("exports.json"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_log_is_claimed_under_one_epoch_and_never_removed() {
        let single = SingleLog::in_memory(log());
        let holder = Holder { name: "weir".to_owned(), address: String::new() };
        let time = Duration::from_secs(1);
        assert!(single.claim("l2", &holder, time).await.unwrap().is_none());
        let lease = single.claim("l1", &holder, time).await.unwrap().unwrap();
        assert_eq!((lease.epoch, single.renew(&lease, time).await.unwrap()), (EPOCH, true));
        assert_eq!(single.list().await.unwrap()[0].holder.as_ref(), Some(&holder));
        assert!(!single.remove(&lease).await.unwrap());
        single.release(&lease).await.unwrap();
        assert!(!single.renew(&lease, time).await.unwrap());
    }

    /// The golden file is of the first release and is never regenerated.
    #[test]
    fn settings_files_of_version_1_are_read_and_written_as_they_were() {
        let golden = include_bytes!("../../tests/golden/exports-1.json");
        let rewound = ExportSetting { paused: false, rewind: Some(Rewind { generation: 3, to: -5 }) };
        let paused = ExportSetting { paused: true, rewind: None };
        let settings = Settings::from([("archive".to_owned(), rewound), ("events".to_owned(), paused)]);
        assert_eq!(decode(golden), Ok(settings.clone()));
        assert_eq!(encode(&settings), golden);
    }
}
