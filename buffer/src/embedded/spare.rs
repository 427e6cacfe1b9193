//! Makes the next segment ahead of its time, in a thread of its own.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::disk::Disk;

/// One zeroed file in waiting, or the attempt to make it.
#[derive(Debug)]
pub(super) struct Spare {
    orders: SyncSender<u64>,
    made: Receiver<io::Result<(File, u64)>>,
    ordered: bool,
    pub(super) path: PathBuf,
}

impl Spare {
    pub(super) fn start(path: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (orders, next) = sync_channel::<u64>(1);
        let (done, made) = sync_channel(1);
        let file = path.clone();
        std::thread::Builder::new().name("log-spare".into()).spawn(move || {
            while let Ok(bytes) = next.recv() {
                let result = disk.create_zeroed(&file, bytes).map(|file| (file, bytes));
                if done.send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, made, ordered: false, path })
    }

    /// Has one made, unless that is under way.
    pub(super) fn order(&mut self, bytes: u64) {
        if !self.ordered {
            self.ordered = self.orders.send(bytes).is_ok();
        }
    }

    /// Waits for the file. Another has to be ordered after this.
    ///
    /// # Errors
    /// That of making it.
    pub(super) fn take(&mut self, bytes: u64) -> io::Result<(File, u64)> {
        self.order(bytes);
        let made = self.made.recv().map_err(|_| io::Error::other("the thread that makes segments has ended"))?;
        self.ordered = false;
        match made {
            // Made before a larger one was needed: this one goes.
            Ok((_, made)) if made < bytes => self.take(bytes),
            result => result,
        }
    }
}
