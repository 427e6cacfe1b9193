//! Control of a server in tests of the log on Redis.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use weir_buffer::Batcher;
use weir_buffer::frame::Staged;

use crate::common::{append, stage};
use crate::server::{Server, wait_until};

impl Server {
    /// Sets settings for the next start.
    pub(crate) fn arguments_for_next(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &process]).status().unwrap().success());
    }
}

/// Appends consecutive numbers until it is stopped.
pub(crate) struct Producer {
    stop: Arc<AtomicBool>,
    pub(crate) durable: Arc<AtomicI64>,
    thread: std::thread::JoinHandle<()>,
}

impl Producer {
    pub(crate) fn start(batcher: &Batcher) -> Self {
        Self::start_with(batcher, |n| stage([n], false))
    }

    /// With frames of about 100 KiB.
    pub(crate) fn start_large(batcher: &Batcher) -> Self {
        Self::start_with(batcher, |_| stage(0..2000, false))
    }

    fn start_with(batcher: &Batcher, staged: impl Fn(i64) -> Staged + Send + 'static) -> Self {
        let (stop, durable) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let thread = std::thread::spawn({
            let (batcher, stop, durable) = (batcher.clone(), Arc::clone(&stop), Arc::clone(&durable));
            move || {
                for n in (0..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                    append(&batcher, staged(n)).unwrap();
                    durable.store(n + 1, Ordering::SeqCst);
                }
            }
        });
        Self { stop, durable, thread }
    }

    pub(crate) fn reached(&self, count: i64) -> bool {
        self.durable.load(Ordering::SeqCst) >= count
    }

    /// Waits until this number of further records are durable.
    pub(crate) fn goes_on(&self, count: i64) {
        let at = self.durable.load(Ordering::SeqCst) + count;
        wait_until("appends go on", || self.reached(at));
    }

    /// Number of acknowledged records.
    pub(crate) fn end(self) -> i64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.durable.load(Ordering::SeqCst)
    }
}
