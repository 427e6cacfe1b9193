//! The embedded log: files, no server, one writer.
//!
//! ```text
//! DIR/lock                    held by the process that has the log open
//! DIR/log.json                format version, the log's id and incarnation; a repair that lost records gives a new id
//! DIR/cursors                 the sinks' cursors; replaced as a whole (write, fsync, rename, fsync of DIR)
//! DIR/end                     the durable end, written after each append without an fsync: a lower bound, exact after kill -9
//! DIR/N.seg                   frames from offset N on; pre-zeroed, so that an append changes no metadata
//! DIR/spare                   a zeroed file on its way to become the next segment
//! ```
//! **Write.** One `pwrite` and one `fdatasync` for a batch. Frames start at multiples of 512 bytes,
//! so no write touches a sector with an acknowledged frame. The next segment is zeroed in the
//! background. With [`Config::keys`], the contents are sealed ([`crate::frame`]). A failed fsync
//! poisons the log: the kernel may have dropped the pages, so that a retry could succeed without
//! writing them.
//!
//! **Recover.** Segments are read in order, and each frame's checksum is verified. The first
//! position without a frame is the end of the log if no frame follows and it is not below the known
//! durable end (the `end` file, the cursors); bytes of an unfinished write there are zeroed, and
//! logged. Anything else is damage: the log does not open, and the error names file and offset.
//! Complete frames that were not acknowledged are kept and synced before they can be read.
//!
//! Damage to a frame that is followed by another is always detected. Damage to the last frame is
//! detected after a clean end or kill -9, because the `end` file has the exact end. After a power
//! failure the `end` file may be as old as the kernel's write-back (30 s on Linux), and a last
//! frame damaged by another cause looks like an unfinished write.
//!
//! **Delete.** A segment is deleted when every registered sink and the retention have passed it,
//! oldest first, so that a crash leaves no gap. When space runs out, the retention is ignored.
//! Files are not reused: every segment starts as zeros, so that bytes that are not a frame are
//! either zeros or an unfinished write.

mod append;
mod config;
mod cursors;
mod disk;
mod identity;
pub(crate) mod key;
mod lock;
mod read;
mod recover;
mod repair;
mod segment;
mod snapshot;
mod spare;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use envelope::Keyring;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::backlog::{Backlog, Place};
use crate::batcher::Batcher;
use crate::cursor::Cursor;
use crate::frame::Frame;
use crate::log::{CursorError, Log, ReadError, State};
use crate::metrics::Metrics;
use crate::ring::Ring;

pub(crate) use append::EmbeddedWriter;
pub use config::Config;
pub use disk::{Disk, RealDisk};
pub use lock::lock_within;
pub use recover::{OpenError, verify};
pub use repair::{DamagedPlace, RepairReport, preview, repair};
pub use snapshot::{Snapshot, renew};

use cursors::CursorFile;
use segment::Segment;

/// The embedded log.
#[derive(Debug)]
pub struct EmbeddedLog {
    id: String,
    /// See [`LogBackend::key`](crate::batcher::LogBackend::key).
    key: [u64; 2],
    config: Config,
    disk: Arc<dyn Disk>,
    shared: Mutex<Shared>,
    cursors: CursorFile,
    end: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    backlog: Option<Arc<Backlog>>,
    /// Held while segments are deleted, oldest first, so that a crash leaves no gap.
    deleting: Mutex<()>,
    me: Weak<Self>,
    _lock: lock::Lock,
}

/// State shared by the writer and the readers.
#[derive(Debug)]
struct Shared {
    /// Segments by first offset; the last one is written to.
    segments: Vec<Arc<Segment>>,
    ring: Ring,
    blocked: Option<String>,
    /// Destructions of keys that the frames in memory know of.
    destructions: u64,
}

impl EmbeddedLog {
    /// Opens or creates the log in `config.dir` and starts its writer.
    ///
    /// # Errors
    /// [`OpenError`] with the file, and for damage the offset.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<(Arc<Self>, Batcher), OpenError> {
        Self::open_on(config, metrics, Arc::new(RealDisk))
    }

    /// Like [`EmbeddedLog::open`], on a given disk.
    ///
    /// # Errors
    /// Like [`EmbeddedLog::open`].
    pub fn open_on(
        config: Config,
        metrics: Arc<Metrics>,
        disk: Arc<dyn Disk>,
    ) -> Result<(Arc<Self>, Batcher), OpenError> {
        let batch = config.batch.clone();
        let (log, form) = Self::open_form(config, Arc::clone(&metrics), disk)?;
        let batcher = Batcher::start(batch, metrics, form).map_err(OpenError::start)?;
        Ok((log, batcher))
    }

    /// Like [`EmbeddedLog::open_on`], but returns the writer instead of starting it.
    pub(crate) fn open_form(
        config: Config,
        metrics: Arc<Metrics>,
        disk: Arc<dyn Disk>,
    ) -> Result<(Arc<Self>, EmbeddedWriter), OpenError> {
        config.check()?;
        let recovered = recover::recover(&config, &*disk)?;
        let destructions = config.keys.as_ref().map_or(0, Keyring::destructions);
        let mut ring = Ring::new(config.ring_bytes);
        recovered.recent.into_iter().for_each(|frame| ring.push(frame));
        let log = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            deleting: Mutex::default(),
            id: recovered.identity.id,
            key: recovered.key,
            shared: Mutex::new(Shared { segments: recovered.segments, ring, blocked: None, destructions }),
            cursors: recovered.cursors,
            end: watch::channel(recovered.end).0,
            metrics,
            backlog: Backlog::new(config.divided_bytes(), None, config.tenant_share_percent),
            _lock: recovered.lock,
            config,
            disk,
        });
        log.count_backlog();
        let form = EmbeddedWriter::new(Arc::clone(&log), recovered.identity.incarnation).map_err(OpenError::start)?;
        Ok((log, form))
    }

    /// The shared state. Frames in memory of a tenant whose keys were destroyed are as unreadable
    /// as those on disk.
    fn shared(&self) -> MutexGuard<'_, Shared> {
        let mut shared = self.shared.lock();
        if let Some(keys) = &self.config.keys {
            let destructions = keys.destructions();
            if shared.destructions != destructions {
                shared.destructions = destructions;
                shared.ring.reopen(keys);
            }
        }
        shared
    }

    fn used_bytes(&self) -> u64 {
        self.shared.lock().segments.iter().map(|s| s.capacity()).sum()
    }

    /// The offset that every registered sink has passed, or the log's start without sinks.
    fn passed(&self) -> u64 {
        self.cursors.passed().unwrap_or_else(|| self.start())
    }

    /// Counts the records of earlier starts that a sink has not passed.
    fn count_backlog(&self) {
        let Some(backlog) = &self.backlog else { return };
        for (end, bytes) in self.unpassed(self.passed()) {
            backlog.found(Place::Log, end, bytes);
        }
    }

    /// The end and the bytes of each segment with records from `passed` on.
    pub(crate) fn unpassed(&self, passed: u64) -> Vec<(u64, u64)> {
        let end = self.end();
        let shared = self.shared.lock();
        let ends = shared.segments.iter().skip(1).map(|next| next.first_offset).chain([end]);
        let segments = shared.segments.iter().zip(ends).filter(|(_, end)| *end > passed);
        segments.map(|(segment, end)| (end, segment.end())).collect()
    }

    /// Notes how far every sink has come, after a cursor moved.
    fn note_passed(&self) {
        if let Some(backlog) = &self.backlog {
            backlog.pass(Place::Log, self.passed());
        }
    }

    /// Deletes segments that all sinks have passed; with `urgent`, regardless of the retention.
    /// Returns the new start.
    fn drop_segments(&self, urgent: bool) -> std::io::Result<u64> {
        let _one_at_a_time = self.deleting.lock();
        let passed = self.passed();
        loop {
            let gone = {
                let shared = self.shared.lock();
                match &shared.segments[..] {
                    [first, second, ..]
                        if second.first_offset <= passed && (urgent || self.retention_is_over(&shared, passed)) =>
                    {
                        Arc::clone(first)
                    }
                    segments => return Ok(segments[0].first_offset),
                }
            };
            self.disk.remove(&gone.path)?;
            self.shared.lock().segments.remove(0);
            self.metrics.used.set(i64::try_from(self.used_bytes()).unwrap_or(i64::MAX));
        }
    }

    /// True when the retention does not keep the first segment.
    fn retention_is_over(&self, shared: &Shared, passed: u64) -> bool {
        let kept = shared.segments.iter().take_while(|s| s.first_offset < passed).map(|s| s.capacity()).sum::<u64>();
        let age = crate::log::now().saturating_sub(shared.segments[1].first_time());
        kept > self.config.retain_bytes || age > self.config.retain_secs.saturating_mul(1_000_000_000).cast_signed()
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn id(&self) -> &str {
        &self.id
    }

    fn start(&self) -> u64 {
        self.shared.lock().segments[0].first_offset
    }

    fn end(&self) -> u64 {
        *self.end.borrow()
    }

    fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        self.read_frames(from, max_bytes).await
    }

    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError> {
        Ok(self.cursors.all())
    }

    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let (file, disk) = (self.cursors.clone(), Arc::clone(&self.disk));
        let (sink, end) = (sink.to_owned(), self.end());
        tokio::task::spawn_blocking(move || file.move_to(&sink, cursor, end, &*disk))
            .await
            .map_err(|error| CursorError::Unavailable(error.to_string()))??;
        self.note_passed();
        Ok(())
    }

    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let unavailable = |reason: String| CursorError::Unavailable(reason);
        let Some(log) = self.me.upgrade() else { return Err(unavailable("the log is closed".to_owned())) };
        let sink = sink.to_owned();
        let rewound = tokio::task::spawn_blocking(move || {
            // No segment is deleted between the check and the write.
            let _one_at_a_time = log.deleting.lock();
            log.cursors.rewind(&sink, cursor, (log.start(), log.end()), &*log.disk)
        });
        rewound.await.map_err(|error| unavailable(error.to_string()))?
    }

    async fn forget_cursor(&self, sink: &str, epoch: u64) -> Result<(), CursorError> {
        let (file, disk, sink) = (self.cursors.clone(), Arc::clone(&self.disk), sink.to_owned());
        tokio::task::spawn_blocking(move || file.forget(&sink, epoch, &*disk))
            .await
            .map_err(|error| CursorError::Unavailable(error.to_string()))??;
        self.note_passed();
        Ok(())
    }

    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError> {
        self.find_time(time).await
    }

    async fn trim(&self) -> Result<u64, ReadError> {
        let Some(log) = self.me.upgrade() else { return Ok(self.start()) };
        tokio::task::spawn_blocking(move || log.drop_segments(false))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| ReadError::Unavailable(format!("delete a log segment: {error}")))
    }

    fn state(&self) -> State {
        let blocked = self.shared.lock().blocked.clone();
        State { used_bytes: self.used_bytes(), capacity_bytes: self.config.capacity_bytes, blocked }
    }
}
