//! A failing disk, and damaged images of a log.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod common;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use common::{Bell, all, append, stage};
use weir_buffer::embedded::{Config, Disk, EmbeddedLog, OpenError, RealDisk, RepairReport, preview, repair, verify};
use weir_buffer::{Cursor, Log, Tally};

#[derive(Debug, Default)]
struct FailingDisk {
    no_space: AtomicBool,
    fsync_fails: AtomicBool,
}

impl Disk for FailingDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        if self.fsync_fails.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { RealDisk.sync(file) }
    }

    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<File> {
        if self.no_space.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        RealDisk.create_zeroed(path, bytes)
    }
}

fn publish(batcher: &weir_buffer::Batcher, count: i64) {
    for n in 0..count {
        append(batcher, stage([n], false)).unwrap();
    }
}

fn config(dir: &Path) -> Config {
    Config { dir: dir.to_owned(), segment_bytes: 8 << 10, retain_bytes: 0, retain_secs: 0, ..Config::default() }
}

#[tokio::test]
async fn after_a_failed_fsync_no_record_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let (log, batcher) = EmbeddedLog::open_on(config(dir.path()), Arc::default(), disk.clone()).unwrap();
    append(&batcher, stage([1], false)).unwrap();
    disk.fsync_fails.store(true, Ordering::SeqCst);
    let error = append(&batcher, stage([2], false)).unwrap_err();
    assert!(error.contains("fsync") && error.contains(".seg"), "{error}");
    disk.fsync_fails.store(false, Ordering::SeqCst);
    assert!(append(&batcher, stage([3], false)).is_err(), "an fsync is never tried again");
    assert_eq!(log.end(), 1);
    assert!(log.state().blocked.unwrap().contains("fsync"));
}

#[tokio::test]
async fn a_full_disk_holds_the_acknowledgement_back_until_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let (log, batcher) = EmbeddedLog::open_on(config(dir.path()), Arc::default(), disk.clone()).unwrap();
    disk.no_space.store(true, Ordering::SeqCst);
    let publisher = {
        let batcher = batcher.clone();
        std::thread::spawn(move || publish(&batcher, 200))
    };
    while log.state().blocked.is_none() {
        tokio::task::yield_now().await;
    }
    let (end, reason) = (log.end(), log.state().blocked.unwrap());
    assert!(end < 200 && reason.contains("space"), "{end} {reason}");
    assert!(!publisher.is_finished());
    disk.no_space.store(false, Ordering::SeqCst);
    publisher.join().unwrap();
    assert_eq!(all(&*log).await, (0..200).collect::<Vec<_>>());
    assert_eq!(log.state().blocked, None);
}

#[tokio::test]
async fn a_log_at_its_capacity_waits_for_the_slowest_sink() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { capacity_bytes: 40 << 10, ..config(dir.path()) };
    let (log, batcher) = EmbeddedLog::open(config, Arc::default()).unwrap();
    log.move_cursor("slow", Cursor::default()).await.unwrap();
    let publisher = std::thread::spawn(move || publish(&batcher, 500));
    while !publisher.is_finished() {
        if log.state().blocked.is_some() {
            assert!(log.state().used_bytes <= 40 << 10);
            let end = log.end();
            log.move_cursor("slow", Cursor { done_to: end, sealed_to: end, ..Cursor::default() }).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    publisher.join().unwrap();
    assert_eq!(log.end(), 500);
    assert!(log.start() > 0);
}

#[tokio::test]
async fn producers_wait_when_the_open_batch_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let config = Config {
        batch: weir_buffer::batcher::BatchConfig { max_bytes: 200, ..Default::default() },
        ..config(dir.path())
    };
    let (_log, batcher) = EmbeddedLog::open_on(config, Arc::default(), disk).unwrap();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell);
    let mut full = false;
    for n in 0..100_000 {
        let mut staged = stage([n], false);
        if batcher.submit(&mut staged, &waker).is_err() {
            assert_eq!(staged.count(), 1, "what was not taken stays staged");
            full = true;
            break;
        }
    }
    assert!(full);
}

/// Creates a log of a few segments as after kill -9. Returns its contents.
fn image(dir: &Path) -> Vec<i64> {
    let (log, batcher) = EmbeddedLog::open(config(dir), Arc::default()).unwrap();
    for n in 0..30 {
        append(&batcher, stage((n * 10)..(n * 10 + 10), false)).unwrap();
    }
    drop((log, batcher));
    (0..300).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| !matches!(p.file_name().unwrap().to_str().unwrap(), "lock" | "spare"));
    paths.sort();
    paths
}

/// Opens a damaged copy: it is complete, or the error names one of its files.
async fn all_or_loud(dir: &Path, wanted: &[i64], what: &str) -> bool {
    match EmbeddedLog::open(config(dir), Arc::default()) {
        Ok((log, batcher)) => {
            assert_eq!(all(&*log).await, wanted, "{what}");
            batcher.close();
            false
        }
        Err(error @ (OpenError::Damaged { .. } | OpenError::Version { .. })) => {
            let text = error.to_string();
            assert!(text.contains(dir.to_str().unwrap()) && text.contains("byte"), "{what}: {text}");
            true
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[tokio::test]
async fn every_damaged_region_yields_all_records_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let wanted = image(&original);
    let mut loud = 0;
    let damaged = dir.path().join("damaged");
    for file in files(&original) {
        let name = file.file_name().unwrap();
        let bytes = std::fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(97) {
            for kind in ["flip", "zero", "cut"] {
                let mut bad = bytes.clone();
                match kind {
                    "flip" => bad[at] ^= 1 << (at % 8),
                    "zero" => bad[at..(at + 512).min(bytes.len())].fill(0),
                    _ => bad.truncate(at),
                }
                if bad == bytes {
                    continue;
                }
                copy(&original, &damaged);
                std::fs::write(damaged.join(name), &bad).unwrap();
                loud += usize::from(all_or_loud(&damaged, &wanted, &format!("{kind} {name:?} at {at}")).await);
                std::fs::remove_dir_all(&damaged).unwrap();
            }
        }
    }
    assert!(loud > 100, "only {loud} were noticed");
}

#[tokio::test]
async fn a_missing_segment_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let wanted = image(&original);
    let segments: Vec<_> = files(&original).into_iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    assert!(segments.len() > 2);
    for segment in &segments[1..] {
        let damaged = dir.path().join("damaged");
        copy(&original, &damaged);
        std::fs::remove_file(damaged.join(segment.file_name().unwrap())).unwrap();
        assert!(all_or_loud(&damaged, &wanted, "a segment is gone").await);
        std::fs::remove_dir_all(&damaged).unwrap();
    }
}

#[tokio::test]
async fn an_unfinished_append_is_removed_for_every_subset_of_its_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let config = |dir: &Path| Config { segment_bytes: 64 << 10, ..config(dir) };
    {
        let (_log, batcher) = EmbeddedLog::open(config(&before), Arc::default()).unwrap();
        append(&batcher, stage(0..20, false)).unwrap();
    }
    copy(&before, &after);
    {
        let (_log, batcher) = EmbeddedLog::open(config(&after), Arc::default()).unwrap();
        append(&batcher, stage(100..150, false)).unwrap();
    }
    let name = "00000000000000000000.seg";
    let (old, new) = (std::fs::read(before.join(name)).unwrap(), std::fs::read(after.join(name)).unwrap());
    let changed: Vec<usize> = (0..old.len() / 512).filter(|s| old[s * 512..][..512] != new[s * 512..][..512]).collect();
    assert!(changed.len() > 4);
    // Any subset of the sectors may be on the medium: all prefixes, all but one, and random ones.
    let mut random = 0x9E37_79B9_u64;
    for round in 0..64 + 2 * changed.len() {
        let kept: Vec<usize> = match round {
            r if r < changed.len() => changed[..r].to_vec(),
            r if r < 2 * changed.len() => {
                changed.iter().copied().filter(|s| *s != changed[r - changed.len()]).collect()
            }
            _ => {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                changed.iter().enumerate().filter(|(i, _)| random >> (i % 60) & 1 == 1).map(|(_, s)| *s).collect()
            }
        };
        let mut torn = old.clone();
        kept.iter().for_each(|s| torn[s * 512..][..512].copy_from_slice(&new[s * 512..][..512]));
        let image = dir.path().join("torn");
        copy(&before, &image);
        std::fs::write(image.join(name), &torn).unwrap();
        let (log, batcher) = EmbeddedLog::open(config(&image), Arc::default()).unwrap();
        let mut wanted: Vec<i64> = (0..20).collect();
        if torn == new {
            wanted.extend(100..150);
        }
        assert_eq!(all(&*log).await, wanted, "sectors {kept:?}");
        append(&batcher, stage([7], false)).unwrap();
        batcher.close();
        drop((log, batcher));
        let (log, batcher) = EmbeddedLog::open(config(&image), Arc::default()).unwrap();
        wanted.push(7);
        assert_eq!(all(&*log).await, wanted, "after another start");
        batcher.close();
        drop((log, batcher));
        std::fs::remove_dir_all(&image).unwrap();
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|p| p.extension().is_some_and(|e| e == "seg")).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn repair_keeps_complete_records_before_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let before = log_id(dir.path());
    flip(&segments(dir.path())[1], 100);
    assert!(EmbeddedLog::open(config(dir.path()), Arc::default()).is_err());
    let report = repair(dir.path()).unwrap();
    assert!(report.end > 0 && report.cut_records > 0 && !report.kept.is_empty(), "{report:?}");
    assert_eq!(report.lost, Some(report.end..300));
    let (log, batcher) = EmbeddedLog::open(config(dir.path()), Arc::default()).unwrap();
    assert_eq!(all(&*log).await, (0..report.end.cast_signed()).collect::<Vec<_>>());
    assert_ne!(log.id(), before, "offsets that are given again must not look like the old ones");
    assert_eq!(report.new_id.as_deref(), Some(log.id()));
    append(&batcher, stage([1], false)).unwrap();
}

/// The books of a repaired log agree: the totals of its sinks are the same again, although one had
/// passed more of the lost records than another.
#[tokio::test]
async fn cursors_past_the_damage_are_set_back_to_it_with_their_tallies() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let stored = |stored| Tally { stored, ..Tally::default() };
    {
        let (log, _batcher) = EmbeddedLog::open(config(dir.path()), Arc::default()).unwrap();
        for (sink, done_to) in [("history", 290), ("latest", 300), ("late", 1)] {
            let tallies = [("default".to_owned(), stored(done_to))].into();
            log.move_cursor(sink, Cursor { done_to, sealed_to: done_to, tallies, ..Cursor::default() }).await.unwrap();
        }
    }
    flip(&segments(dir.path())[1], 100);
    let error = EmbeddedLog::open(config(dir.path()), Arc::default()).unwrap_err();
    assert_eq!(verify(dir.path()), Err(error.clone()), "the same answer without a start");
    let before: Vec<_> = files(dir.path()).iter().map(|path| std::fs::read(path).unwrap()).collect();
    let preview = preview(dir.path()).unwrap();
    let after: Vec<_> = files(dir.path()).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(before, after, "a preview changes nothing");
    let place = &preview.places[0];
    assert_eq!((&place.file, place.offset), (&segments(dir.path())[1], 0), "{preview:?}");
    let report = repair(dir.path()).unwrap();
    assert_eq!(RepairReport { kept: Vec::new(), ..report.clone() }, preview);
    assert_eq!(report.cursors_set_back, ["history", "latest"]);
    assert!(!report.cursors_reset);
    assert_eq!(verify(dir.path()), Ok(report.end));
    let (log, _batcher) = EmbeddedLog::open(config(dir.path()), Arc::default()).unwrap();
    let cursors = log.cursors().await.unwrap();
    let tally = |sink: &str| cursors[sink].tallies["default"];
    assert_eq!(cursors["latest"].done_to, report.end);
    assert_eq!(tally("latest"), stored(300));
    assert_eq!(tally("history"), Tally { missed: 10, ..stored(290) });
    let late = tally("late");
    assert_eq!(late.total() + report.end - 1, 300, "what is lost, and what the log still has: {late:?}");
}

fn log_id(dir: &Path) -> String {
    EmbeddedLog::open(config(dir), Arc::default()).unwrap().0.id().to_owned()
}

#[tokio::test]
async fn repair_does_not_change_an_intact_log() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let before: Vec<_> = files(dir.path()).iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
    let report = repair(dir.path()).unwrap();
    assert!(report.end == 300 && report.lost.is_none() && report.kept.is_empty() && report.new_id.is_none());
    let after: Vec<_> = files(dir.path()).iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect();
    assert!(before == after);
}

/// After a repair of any damaged region the log opens with a prefix of its records.
#[tokio::test]
async fn a_repaired_log_opens_after_damage_to_any_region() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    let wanted = image(&original);
    for file in files(&original) {
        let name = file.file_name().unwrap();
        let length = std::fs::read(&file).unwrap().len();
        for at in (0..length).step_by(389.min(length / 3)) {
            for cut in [false, true] {
                let damaged = dir.path().join("damaged");
                copy(&original, &damaged);
                if cut {
                    File::options().write(true).open(damaged.join(name)).unwrap().set_len(at as u64).unwrap();
                } else {
                    flip(&damaged.join(name), at);
                }
                if EmbeddedLog::open(config(&damaged), Arc::default()).is_err() {
                    repair(&damaged).unwrap();
                }
                let (log, batcher) = EmbeddedLog::open(config(&damaged), Arc::default()).unwrap();
                let end = usize::try_from(log.end()).unwrap();
                assert_eq!(all(&*log).await, wanted[..end], "{name:?} at {at}");
                drop((log, batcher));
                std::fs::remove_dir_all(&damaged).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_frame_of_a_later_release_is_named_and_neither_skipped_nor_cut() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let segment = segments(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4] = 4;
    bytes[48..52].fill(7);
    std::fs::write(&segment, &bytes).unwrap();
    let error = EmbeddedLog::open(config(dir.path()), Arc::default()).unwrap_err();
    assert!(matches!(error, OpenError::Version { version: 4, .. }), "{error}");
    assert!(matches!(repair(dir.path()), Err(OpenError::Version { version: 4, .. })));
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

#[tokio::test]
async fn damage_to_an_open_log_is_detected_by_a_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { ring_bytes: 0, ..config(dir.path()) };
    let (log, batcher) = EmbeddedLog::open(config, Arc::default()).unwrap();
    publish(&batcher, 100);
    let segment = segments(dir.path()).remove(0);
    flip(&segment, 600);
    let error = log.read(1, 1).await.unwrap_err().to_string();
    assert!(error.contains(segment.to_str().unwrap()) && error.contains("byte 512"), "{error}");
}

#[test]
fn a_capacity_that_is_too_small_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { capacity_bytes: 12 << 10, ..config(dir.path()) };
    let error = EmbeddedLog::open(config, Arc::default()).unwrap_err();
    assert!(matches!(error, OpenError::Capacity { least: 16_384, .. }), "{error}");
}
