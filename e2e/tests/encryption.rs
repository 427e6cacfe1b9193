//! docs/guides/encryption.md, with real processes: nothing is readable in the data folder, keys are
//! rotated under load, a tenant is destroyed, a backup needs its key.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::{Weir, checked, program, read, tail_of_log, wait_until};

const CANARY: &str = "canary-7f3a";
const BOUND: Duration = Duration::from_secs(60);

fn key(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn write_keys(path: &Path, keys: &[String]) -> anyhow::Result<()> {
    std::fs::write(path, keys.join("\n"))?;
    Ok(std::fs::set_permissions(path, Permissions::from_mode(0o600))?)
}

fn environment(key_file: &Path) -> anyhow::Result<[(&'static str, &str); 3]> {
    let key_file = key_file.to_str().context("a path is text")?;
    Ok([
        ("WEIR_ENCRYPTION_KEY_FILE", key_file),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "100"),
        ("WEIR_LATEST_FLUSH_INTERVAL_MS", "100"),
    ])
}

/// Runs `weir` with the data folder in `dir`.
fn weir(arguments: &[&str], dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(program("weir")?);
    command.args(arguments).arg("--data-dir").arg(dir.join("data")).envs(environment.iter().copied());
    Ok(command.output()?)
}

/// Publishes readings, a dead letter and a retained message, all with the canary.
fn publish(mqtt: SocketAddr, from: u64) -> anyhow::Result<()> {
    let mut device = Device::new("client", mqtt);
    device.connect()?;
    for n in from..from + 50 {
        device.send(n, "devices/d/telemetry", format!(r#"{{"n":{n},"{CANARY}":"{CANARY}"}}"#).as_bytes())?;
    }
    device.send(from + 50, "devices/d/telemetry", format!("{{ {CANARY}").as_bytes())?;
    device.wait_for_all()?;
    device.disconnect();
    Ok(())
}

/// Files in a folder that hold the canary.
fn readable(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut readable(&path)?);
        } else if std::fs::read(&path)?.windows(CANARY.len()).any(|bytes| bytes == CANARY.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

async fn stored(weir: &Weir, count: usize) -> anyhow::Result<()> {
    let channel = weir.channel().await?;
    wait_until("the readings are there", BOUND, async || {
        let found = read::all_readings(&channel, "d").await?.len();
        ensure!(found == count, "{found} of {count}");
        Ok(())
    })
    .await
}

/// Waits until there is no latest state.
async fn without_states(weir: &Weir) -> anyhow::Result<()> {
    wait_until("the latest states are gone", BOUND, async || {
        let latest = weir.cli(&["latest", "--format", "csv"])?;
        ensure!(latest.lines().count() <= 1, "{latest}");
        Ok(())
    })
    .await
}

/// Waits until nothing is pending in the books.
async fn flushed(weir: &Weir) -> anyhow::Result<()> {
    wait_until("everything is flushed", BOUND, async || {
        let status: serde_json::Value = {
            let answer = weir.get("/status.json")?;
            let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
            serde_json::from_str(body)?
        };
        let lines = status["books"].as_array().context("books")?;
        ensure!(!lines.is_empty() && lines.iter().all(|line| line["pending"] == 0), "{}", status["books"]);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_readable_in_the_data_folder_and_a_wrong_key_stops_the_start() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let kek = dir.path().join("kek");
    write_keys(&kek, &[key('1')])?;
    let on = environment(&kek)?;
    // Without a key first: what is there stays readable.
    let plain = Weir::start_with(dir.path(), "127.0.0.1:0", &on[1..])?;
    publish(plain.mqtt, 0)?;
    flushed(&plain).await?;
    plain.stop()?;
    ensure!(!readable(&dir.path().join("data"))?.is_empty(), "the test can see plain contents");
    let sealed = Weir::start_with(dir.path(), "127.0.0.1:0", &on)?;
    stored(&sealed, 50).await?;
    sealed.stop()?;

    let place = dir.path().join("sealed");
    std::fs::create_dir(&place)?;
    let sealed = Weir::start_with(&place, "127.0.0.1:0", &on)?;
    let mqtt = sealed.mqtt.to_string();
    publish(sealed.mqtt, 0)?;
    flushed(&sealed).await?;
    let data = place.join("data");
    ensure!(readable(&data)?.is_empty(), "readable: {:?}", readable(&data)?);
    sealed.kill()?;
    let sealed = Weir::start_with(&place, &mqtt, &on)?;
    publish(sealed.mqtt, 100)?;
    stored(&sealed, 100).await?;
    let metrics = sealed.get("/metrics")?;
    ensure!(metrics.contains("weir_encryption_keys 1"), "{metrics}");
    println!("{}", sealed.cli(&["books", "--check"])?);
    sealed.stop()?;
    ensure!(readable(&data)?.is_empty(), "readable: {:?}", readable(&data)?);

    write_keys(&kek, &[key('2')])?;
    for (environment, cure) in [(&on[..], "add the key"), (&on[1..], "encryption.key_file")] {
        let Err(error) = Weir::start_with(&place, "127.0.0.1:0", environment) else {
            anyhow::bail!("a start without the key")
        };
        ensure!(format!("{error:#}").contains(cure), "{error:#}");
        let doctor = weir(&["doctor"], &place, environment)?;
        let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
        ensure!(!doctor.status.success() && text.contains(cure), "{text}");
    }
    // New data in plain, what is sealed is readable.
    write_keys(&kek, &[key('1')])?;
    let reading: Vec<_> = on.into_iter().chain([("WEIR_ENCRYPTION_READ_ONLY", "true")]).collect();
    let off = Weir::start_with(&place, "127.0.0.1:0", &reading)?;
    publish(off.mqtt, 200)?;
    stored(&off, 150).await?;
    flushed(&off).await?;
    off.stop()?;
    ensure!(!readable(&data)?.is_empty(), "new data is in plain");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load_without_one_failed_reading() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let kek = dir.path().join("kek");
    write_keys(&kek, &[key('a')])?;
    let on = environment(&kek)?;
    let running = Weir::start_with(dir.path(), "127.0.0.1:0", &on)?;
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let device = std::thread::spawn({
        let (stop, rounds, mqtt) = (Arc::clone(&stop), Arc::clone(&rounds), running.mqtt);
        move || {
            while !stop.load(Ordering::Relaxed) {
                publish(mqtt, 100 * rounds.load(Ordering::Relaxed))?;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }
    });
    let channel = running.channel().await?;
    for (before, after) in [('a', 'b'), ('b', 'c'), ('c', 'd'), ('d', 'e')] {
        let goal = rounds.load(Ordering::Relaxed) + 3;
        while rounds.load(Ordering::Relaxed) < goal {
            let least = 50 * rounds.load(Ordering::Relaxed);
            let found = read::all_readings(&channel, "d").await?.len() as u64;
            ensure!(found >= least, "{found} of {least}");
        }
        write_keys(&kek, &[key(after), key(before)])?;
        checked("rotate", weir(&["encryption", "rotate"], dir.path(), &on)?)?;
        write_keys(&kek, &[key(after)])?;
    }
    stop.store(true, Ordering::Relaxed);
    device.join().expect("a device does not panic")?;
    let rounds = usize::try_from(rounds.load(Ordering::Relaxed))?;
    stored(&running, 50 * rounds).await?;
    running.kill()?;
    let again = Weir::start_with(dir.path(), "127.0.0.1:0", &on)?;
    stored(&again, 50 * rounds).await?;
    println!("{rounds} rounds\n{}", again.cli(&["books", "--check"])?);
    again.stop()?;
    ensure!(readable(&dir.path().join("data"))?.is_empty(), "{:?}", readable(&dir.path().join("data"))?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_tenant_is_unreadable_at_once_and_a_backup_needs_the_key_of_its_time() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let kek = dir.path().join("kek");
    write_keys(&kek, &[key('1')])?;
    let on = environment(&kek)?;
    let running = Weir::start_with(dir.path(), "127.0.0.1:0", &on)?;
    let mqtt = running.mqtt.to_string();
    publish(running.mqtt, 0)?;
    stored(&running, 50).await?;
    let copy = dir.path().join("backup");
    checked("backup", weir(&["backup", copy.to_str().context("text")?], dir.path(), &on)?)?;
    ensure!(readable(&copy)?.is_empty(), "{:?}", readable(&copy)?);

    let refused = weir(&["encryption", "destroy", "default"], dir.path(), &on)?;
    ensure!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    checked("destroy", weir(&["encryption", "destroy", "default", "--yes"], dir.path(), &on)?)?;
    stored(&running, 0).await?;
    without_states(&running).await?;
    // Messages are acknowledged, and their contents discarded.
    publish(running.mqtt, 100)?;
    flushed(&running).await?;
    stored(&running, 0).await?;
    without_states(&running).await?;
    println!("{}", running.cli(&["books", "--check"])?);
    running.kill()?;
    let running = Weir::start_with(dir.path(), &mqtt, &on)?;
    stored(&running, 0).await?;
    println!("{}", running.cli(&["books", "--check"])?);
    let status = checked("status", weir(&["encryption", "status"], dir.path(), &on)?)?;
    ensure!(status.contains("tenant default: destroyed"), "{status}");
    checked("allow", weir(&["encryption", "allow", "default"], dir.path(), &on)?)?;
    publish(running.mqtt, 200)?;
    stored(&running, 50).await?;

    // Another key-encryption key: the backup of before cannot be opened with it.
    write_keys(&kek, &[key('2'), key('1')])?;
    checked("rotate", weir(&["encryption", "rotate"], dir.path(), &on)?)?;
    running.stop()?;
    write_keys(&kek, &[key('2')])?;
    let place = dir.path().join("restored");
    std::fs::create_dir(&place)?;
    let mut command = Command::new(program("weir")?);
    checked("restore", command.arg("restore").arg(&copy).arg("--to").arg(place.join("data")).output()?)?;
    ensure!(Weir::start_with(&place, "127.0.0.1:0", &on).is_err(), "a start without the key of then");
    ensure!(tail_of_log(&place).contains("add the key"), "{}", tail_of_log(&place));
    // With the key of then, what was destroyed later is there again: the guide says so.
    write_keys(&kek, &[key('2'), key('1')])?;
    let restored = Weir::start_with(&place, "127.0.0.1:0", &on)?;
    stored(&restored, 50).await?;
    restored.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_to_files_is_sealed_and_decrypted_with_the_keyring() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (kek, out, config) = (dir.path().join("kek"), dir.path().join("out"), dir.path().join("weir.toml"));
    write_keys(&kek, &[key('1')])?;
    let text = format!(
        "[[export]]\nname = \"files\"\ntype = \"file\"\nfolder = {out:?}\nstart = \"beginning\"\nrotate_bytes = 1\n\
         flush_interval_ms = 50\n"
    );
    std::fs::write(&config, text)?;
    let mut on = environment(&kek)?.to_vec();
    on.push(("WEIR_CONFIG", config.to_str().context("a path is text")?));
    let running = Weir::start_with(dir.path(), "127.0.0.1:0", &on)?;
    publish(running.mqtt, 0)?;
    let closed = || -> anyhow::Result<Vec<String>> {
        let paths = std::fs::read_dir(&out)?.map(|entry| anyhow::Ok(entry?.path().display().to_string()));
        let paths = paths.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|path| path.ends_with(".ndjson")).collect())
    };
    let decrypted = || -> anyhow::Result<String> {
        let files = closed()?;
        let arguments: Vec<&str> =
            ["encryption", "decrypt"].into_iter().chain(files.iter().map(String::as_str)).collect();
        checked("decrypt", weir(&arguments, dir.path(), &on)?)
    };
    wait_until("the readings are in closed files", BOUND, async || {
        ensure!(!closed()?.is_empty(), "no file is closed");
        let lines = decrypted()?.lines().filter(|line| line.contains(CANARY)).count();
        ensure!(lines == 50, "{lines} of 50");
        Ok(())
    })
    .await?;
    ensure!(readable(&out)?.is_empty(), "{:?}", readable(&out)?);
    checked("destroy", weir(&["encryption", "destroy", "default", "--yes"], dir.path(), &on)?)?;
    ensure!(decrypted()?.is_empty(), "readings of a destroyed tenant are left out");
    running.stop()
}
