//! The faults of a memory store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::block::Block;
use crate::contract::{Result, StoreError};

/// Called at each step of a write: before it takes effect, and after. A hook that does not return
/// plays a process that was killed there or sleeps there.
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    /// Returns when the write may go on.
    async fn step(&self, name: &'static str);
}

type Refuse = Box<dyn Fn(&Block) -> Option<StoreError> + Send>;

/// Settings of a test, and what it may count.
pub struct Faults {
    hook: Option<Arc<dyn Hook>>,
    down: Mutex<Option<StoreError>>,
    refuse: Mutex<Option<Refuse>>,
    count_takes: Mutex<Duration>,
    /// Reads never answer.
    pub hangs: AtomicBool,
    /// The next so many fetches return [`StoreError::Moved`].
    pub moves: AtomicU32,
    /// Each write of blocks waits for a permit and gives it back.
    pub permits: Semaphore,
    /// Writes of blocks that began.
    pub writes: AtomicU64,
    /// Rows of the largest fetch.
    pub largest_fetch: AtomicU32,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            hook: None,
            down: Mutex::default(),
            refuse: Mutex::default(),
            count_takes: Mutex::default(),
            hangs: AtomicBool::default(),
            moves: AtomicU32::default(),
            permits: Semaphore::new(1_000),
            writes: AtomicU64::default(),
            largest_fetch: AtomicU32::default(),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("down", &self.down).finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn new(hook: Arc<dyn Hook>) -> Self {
        Self { hook: Some(hook), ..Self::default() }
    }

    /// Makes every call fail with `error`, until it is `None`.
    pub fn set_down(&self, error: Option<StoreError>) {
        *self.down.lock() = error;
    }

    /// Refuses the blocks for which `refuse` returns an error; the others of their batch are
    /// written.
    pub fn refuse(&self, refuse: impl Fn(&Block) -> Option<StoreError> + Send + 'static) {
        *self.refuse.lock() = Some(Box::new(refuse));
    }

    /// Makes a count of the history take this long.
    pub fn count_takes(&self, time: Duration) {
        *self.count_takes.lock() = time;
    }

    pub(super) fn answer(&self) -> Result<()> {
        self.down.lock().clone().map_or(Ok(()), Err)
    }

    pub(super) fn refusal(&self, block: &Block) -> Option<StoreError> {
        self.refuse.lock().as_ref().and_then(|refuse| refuse(block))
    }

    pub(super) async fn step(&self, name: &'static str) {
        if let Some(hook) = &self.hook {
            hook.step(name).await;
        }
    }

    pub(super) async fn count(&self) {
        let time = *self.count_takes.lock();
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }

    /// Begins a read.
    pub(super) async fn read(&self) -> Result<()> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.answer()
    }
}
