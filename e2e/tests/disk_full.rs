//! A full disk stops acknowledgements, but not the process; no acknowledged reading is lost, and
//! Weir continues when there is space.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::{Weir, checked, read, wait_until};

/// A small file system for one test.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn mount(dir: &Path, bytes: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let size = format!("size={bytes}");
        checked("mount", Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).output()?)?;
        Ok(Self { dir: dir.to_owned() })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount, because a process of a failed test may still use it.
        Command::new("umount").arg("-l").arg(&self.dir).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_acknowledgements_and_loses_nothing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = match SmallDisk::mount(&dir.path().join("small"), 96 << 20) {
        Ok(disk) => disk,
        Err(error) => {
            ensure!(std::env::var_os("CI").is_none(), "{error:#}");
            println!("skipped: a_full_disk_stops_acknowledgements_and_loses_nothing: {error:#}");
            return Ok(());
        }
    };
    // The history is never flushed here, so that the log alone fills the disk.
    let environment = [("WEIR_LOG_SEGMENT_BYTES", "4194304"), ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "600000")];
    let mut weir = Weir::start_with(&disk.dir, "127.0.0.1:0", &environment)?;
    let ballast = disk.dir.join("ballast");
    fill(&ballast)?;

    // Publish until acknowledgements stop.
    let mqtt = weir.mqtt;
    let publisher = std::thread::spawn(move || -> anyhow::Result<(Device, u64, u64)> {
        let mut device = Device::new("d", mqtt);
        let (mut sent, mut acknowledged) = (0, 0);
        let text = "x".repeat(2000);
        loop {
            while device.in_flight() < 50 {
                let payload = format!(r#"{{"n":{sent},"text":"{text}"}}"#);
                device.send(sent, "devices/d/telemetry", payload.as_bytes())?;
                sent += 1;
            }
            match device.acknowledged() {
                Ok(numbers) => acknowledged += numbers.len() as u64,
                // Ten seconds without an acknowledgement.
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Ok((device, sent, acknowledged));
                }
                Err(error) => return Err(error.into()),
            }
            ensure!(sent < 1_000_000, "the disk never fills");
        }
    });
    let (mut device, sent, acknowledged) = publisher.join().expect("the publisher does not panic")?;
    ensure!(acknowledged > 0 && acknowledged < sent, "{acknowledged} of {sent} were acknowledged");
    ensure!(weir.runs()?, "a full disk does not end the process");
    let ready = weir.get("/health/ready")?;
    ensure!(ready.starts_with("HTTP/1.1 503"), "readiness says {ready}");
    ensure!(ready.to_lowercase().contains("space") || ready.contains("full"), "readiness does not say why: {ready}");
    println!("{}", ready.lines().last().context("an answer")?);

    // With free space, all messages are acknowledged without a restart.
    std::fs::remove_file(&ballast)?;
    let begun = Instant::now();
    device.connect()?;
    while device.in_flight() > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "{} are still not acknowledged", device.in_flight());
        // The device reconnects and sends again.
        if device.acknowledged().is_err() {
            device.connect()?;
        }
    }
    wait_until("readiness comes back", Duration::from_secs(20), async || {
        let ready = weir.get("/health/ready")?;
        ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        Ok(())
    })
    .await?;
    let mut found: Vec<i64> = read::all_readings(&weir.channel().await?, "d")
        .await?
        .iter()
        .map(|r| r.int("n"))
        .collect::<anyhow::Result<_>>()?;
    found.sort_unstable();
    ensure!(found == (0..i64::try_from(sent)?).collect::<Vec<_>>(), "{} of {sent} readings, each once", found.len());
    weir.stop()
}

/// Fills the file system except for a small rest.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let block = vec![1; 64 << 10];
    while file.write_all(&block).is_ok() {}
    // Leave 16 MiB: room for a few segments.
    let length = file.metadata()?.len();
    file.set_len(length.saturating_sub(16 << 20))?;
    Ok(())
}
