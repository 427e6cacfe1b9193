//! Many rounds of append, crash and recovery on one log, by kill and by power failure, at any step.
//!
//! `WEIR_SEED=N cargo test -p weir-buffer --test crash` replays one history.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod common;
#[path = "common/crash_disk.rs"]
mod crash_disk;

use std::path::Path;
use std::sync::Arc;

use common::{all, append, stage};
use crash_disk::{CrashDisk, Random};
use weir_buffer::embedded::{Config, EmbeddedLog};
use weir_buffer::{Cursor, Log};

fn config(dir: &Path) -> Config {
    let keys = dir.join(envelope::FILE).exists().then(|| envelope::testing::keyring(dir));
    Config {
        keys,
        dir: dir.join("log"),
        segment_bytes: 8 << 10,
        ring_bytes: 1 << 10,
        retain_bytes: 0,
        ..Config::default()
    }
}

/// Knowledge of the log outside of the process.
#[derive(Default)]
struct Known {
    /// Submitted records by offset; those past `durable` may be stored or not.
    submitted: Vec<i64>,
    durable: u64,
    cursor: Cursor,
    /// A possible cursor, when its move was interrupted.
    moving: Option<Cursor>,
    next: i64,
}

impl Known {
    /// Asserts that the log holds all acknowledged records, then possibly some unacknowledged ones,
    /// and no others.
    async fn check(&mut self, log: &EmbeddedLog) {
        let (start, end) = (usize::try_from(log.start()).unwrap(), usize::try_from(log.end()).unwrap());
        assert!(log.end() >= self.durable, "{} of {} acknowledged records are there", log.end(), self.durable);
        assert!(end <= self.submitted.len());
        assert_eq!(all(log).await, self.submitted[start..end]);
        let cursors = log.cursors().await.unwrap();
        let cursor = cursors.get("sink").cloned().unwrap_or_default();
        assert!(cursor == self.cursor || Some(&cursor) == self.moving.as_ref(), "{cursor:?}");
        assert!(log.start() <= cursor.done_to);
        self.submitted.truncate(end);
        (self.durable, self.cursor, self.moving) = (log.end(), cursor, None);
    }

    /// Uses the log until the process dies or the steps are done.
    async fn work(&mut self, disk: &Arc<CrashDisk>, dir: &Path, random: &mut Random) {
        let opened = EmbeddedLog::open_on(config(dir), Arc::default(), disk.clone());
        let (log, batcher) = match opened {
            Ok(opened) => opened,
            Err(error) => return assert!(disk.is_dead(), "a crash must not stop the next start: {error}"),
        };
        if !disk.is_dead() {
            self.check(&log).await;
        }
        for _ in 0..random.below(40) {
            if random.below(6) == 0 {
                self.move_cursor(&log, random).await;
            } else {
                let count = 1 + random.below(60).cast_signed();
                let numbers = self.next..self.next + count;
                self.next += count;
                self.submitted.extend(numbers.clone());
                if append(&batcher, stage(numbers, false)).is_err() {
                    break;
                }
                self.durable = self.submitted.len() as u64;
            }
        }
        batcher.close();
    }

    async fn move_cursor(&mut self, log: &EmbeddedLog, random: &mut Random) {
        let done_to = self.cursor.done_to + random.below(self.durable - self.cursor.done_to + 1);
        let to = Cursor { done_to, sealed_to: done_to, ..Cursor::default() };
        match log.move_cursor("sink", to.clone()).await {
            Ok(()) => self.cursor = to,
            Err(_) => {
                self.moving.get_or_insert(to);
            }
        }
        // An error leaves the segment in place, which is harmless.
        log.trim().await.ok();
    }
}

async fn history(seed: u64, rounds: u32) {
    println!("WEIR_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    // Every other history is sealed.
    if (seed >> 40).is_multiple_of(2) {
        drop(envelope::testing::keyring(dir.path()));
    }
    let mut random = Random(seed);
    let disk = Arc::new(CrashDisk::new(random.below(u64::MAX - 1) + 1));
    let mut known = Known::default();
    for _ in 0..rounds {
        disk.restart(random.below(120));
        known.work(&disk, dir.path(), &mut random).await;
        // Some processes are killed twice before the power fails.
        if random.below(3) > 0 {
            disk.power_failure();
        }
    }
    disk.restart(u64::MAX);
    known.work(&disk, dir.path(), &mut random).await;
    assert!(known.durable > 0 && known.cursor.done_to > 0);
}

#[tokio::test]
async fn no_crash_loses_an_acknowledged_record_or_stops_the_next_start() {
    if let Ok(seed) = std::env::var("WEIR_SEED") {
        return history(seed.parse().expect("WEIR_SEED is a number"), 60).await;
    }
    for seed in 1..=40 {
        history(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed), 60).await;
    }
}
