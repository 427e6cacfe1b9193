//! Creates the next segment in advance, in a thread.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::disk::Disk;

/// A zeroed file in advance, or the attempt to create it.
#[derive(Debug)]
pub(super) struct Spare {
    /// None during drop.
    orders: Option<SyncSender<u64>>,
    thread: Option<JoinHandle<()>>,
    made: Receiver<io::Result<(File, u64)>>,
    ordered: bool,
    pub(super) path: PathBuf,
}

impl Spare {
    pub(super) fn start(path: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (orders, next) = sync_channel::<u64>(1);
        let (done, made) = sync_channel(1);
        let file = path.clone();
        let thread = std::thread::Builder::new().name("log-spare".into()).spawn(move || {
            while let Ok(bytes) = next.recv() {
                let result = disk.create_zeroed(&file, bytes).map(|file| (file, bytes));
                if done.send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread), made, ordered: false, path })
    }

    /// Requests a file, unless one is requested already.
    pub(super) fn order(&mut self, bytes: u64) {
        if !self.ordered {
            self.ordered = self.orders.as_ref().is_some_and(|orders| orders.send(bytes).is_ok());
        }
    }

    /// Waits for the file. The next one has to be requested after this.
    ///
    /// # Errors
    /// The error of its creation.
    pub(super) fn take(&mut self, bytes: u64) -> io::Result<(File, u64)> {
        self.order(bytes);
        let made = self.made.recv().map_err(|_| io::Error::other("the thread that makes segments has ended"))?;
        self.ordered = false;
        match made {
            // Created before a larger one was needed: remove it.
            Ok((_, made)) if made < bytes => self.take(bytes),
            result => result,
        }
    }
}

impl Drop for Spare {
    /// Waits for the thread, so that the next owner of the log has exclusive access to the file.
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that makes log segments panicked");
        }
    }
}
