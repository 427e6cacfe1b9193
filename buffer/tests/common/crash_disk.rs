//! A disk that stops at a given step, and that loses unsynced writes in a power failure.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use weir_buffer::embedded::Disk;

const SECTOR: usize = 512;

/// The disk. Writes go to real files; previous contents are kept until the file is synced.
#[derive(Debug)]
pub(crate) struct CrashDisk {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    /// Steps until the crash; None after it.
    left: Option<u64>,
    /// Previous contents of unsynced sectors, by inode.
    unsynced: HashMap<u64, (File, HashMap<u64, Vec<u8>>)>,
    /// Renames whose folder is not synced.
    renamed: Vec<(PathBuf, PathBuf)>,
}

fn crashed() -> io::Error {
    io::Error::other("the process was killed")
}

impl CrashDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State { random: Random(seed), left: Some(u64::MAX), unsynced: HashMap::new(), renamed: Vec::new() };
        Self { state: Mutex::new(state) }
    }

    /// Restarts the process, which is killed at a later step.
    pub(crate) fn restart(&self, steps: u64) {
        self.state.lock().left = Some(steps);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().left.is_none()
    }

    /// Simulates a power failure: every unsynced sector and name is either new or old.
    pub(crate) fn power_failure(&self) {
        let mut state = self.state.lock();
        let State { random, unsynced, renamed, .. } = &mut *state;
        for (_, (file, sectors)) in unsynced.drain() {
            let mut sectors: Vec<_> = sectors.into_iter().collect();
            sectors.sort();
            let all = random.below(3);
            for (sector, before) in sectors {
                if all == 0 || (all == 1 && random.below(2) == 0) {
                    file.write_all_at(&before, sector * SECTOR as u64).expect("the file is there");
                }
            }
        }
        for (from, to) in renamed.drain(..).rev() {
            if random.below(2) == 0 {
                std::fs::rename(to, from).expect("the file is there");
            }
        }
    }
}

impl State {
    /// True when this step is the last one and stays incomplete.
    fn step(&mut self) -> io::Result<bool> {
        match self.left {
            None => Err(crashed()),
            Some(0) => {
                self.left = None;
                Ok(true)
            }
            Some(n) => {
                self.left = Some(n - 1);
                Ok(false)
            }
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.left.is_some() { Ok(()) } else { Err(crashed()) }
    }

    fn remember(&mut self, file: &File, bytes: usize, at: u64) -> io::Result<()> {
        let metadata = file.metadata()?;
        let (_, sectors) = self.unsynced.entry(metadata.ino()).or_insert((file.try_clone()?, HashMap::new()));
        // Write-only files are read through their path in /proc.
        let readable = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
        for sector in at / SECTOR as u64..(at + bytes as u64).div_ceil(SECTOR as u64) {
            let from = sector * SECTOR as u64;
            let length = metadata.len().saturating_sub(from).min(SECTOR as u64);
            let mut before = vec![0; usize::try_from(length).expect("a sector")];
            readable.read_exact_at(&mut before, from)?;
            sectors.entry(sector).or_insert(before);
        }
        Ok(())
    }
}

impl Disk for CrashDisk {
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let last = state.step()?;
        state.remember(file, bytes.len(), at)?;
        if !last {
            return file.write_all_at(bytes, at);
        }
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            if state.random.below(2) == 0 {
                file.write_all_at(sector, at + (i * SECTOR) as u64)?;
            }
        }
        Err(crashed())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.step()? {
            return Err(crashed());
        }
        state.unsynced.remove(&file.metadata()?.ino());
        Ok(())
    }

    /// Runs in a separate thread and is not a step, so that a seed always yields the same crash. A
    /// dead process may do it too, because a spare file has no contents.
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<File> {
        std::fs::write(path, vec![0; usize::try_from(bytes).expect("a small file")])?;
        File::options().read(true).write(true).open(path)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let temporary = path.with_extension("new");
        let written = match state.step()? {
            false => 3,
            true => state.random.below(4),
        };
        match written {
            0 => {}
            1 => std::fs::write(temporary, &bytes[..bytes.len() / 2])?,
            2 => std::fs::write(temporary, bytes)?,
            _ => {
                std::fs::write(&temporary, bytes)?;
                std::fs::rename(temporary, path)?;
            }
        }
        state.alive()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let last = state.step()?;
        if !last || state.random.below(2) == 0 {
            std::fs::rename(from, to)?;
        }
        if last && to.exists() {
            state.renamed.push((from.to_owned(), to.to_owned()));
        }
        state.alive()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.step()? || state.random.below(2) == 0 {
            std::fs::remove_file(path)?;
        }
        state.alive()
    }

    fn sync_folder_of(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.renamed.clear();
        Ok(())
    }
}

/// Marsaglia's xorshift: the same numbers for the same seed.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number from 0 to `limit`, exclusive.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
