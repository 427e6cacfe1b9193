//! Checks of this machine.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::client::time;
use crate::config::{Config, Listener, Loaded, Site};
use crate::data_dir::{OpenError, RESTORING, User, lanes_in, log_in, spill_in, store_in};
use crate::run::{limits, settings};

/// Free space below which the disk will soon be full.
const LITTLE_SPACE: u64 = 1 << 30;

/// Open files of Weir besides its connections.
const OWN_FILES: u64 = 256;

/// 2026-01-01: an earlier clock is not set.
const EARLIEST_NOW: i64 = 1_767_225_600;

pub(super) fn configuration(loaded: &Loaded) -> Finding {
    const WHAT: &str = "configuration";
    let usable = settings::routes(&loaded.config).map(drop).and_then(|()| loaded.config.check_exposure());
    if let Err(error) = usable {
        return Finding::fail(WHAT, format!("{error:#}"));
    }
    if !loaded.warnings.is_empty() {
        return Finding::warn(WHAT, loaded.warnings.join("; "));
    }
    match &loaded.file {
        Some(file) => Finding::ok(WHAT, format!("{} is valid", file.display())),
        None => Finding::ok(WHAT, "the defaults, without a file"),
    }
}

pub(super) fn data_folder(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "data folder";
    let dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let there = existing(&dir);
    let shown = dir.display();
    let mut findings = vec![match (there == dir, writable(&there)) {
        _ if dir.join(RESTORING).exists() => Finding::fail(WHAT, OpenError::Restoring(dir.clone()).to_string()),
        (true, Ok(())) => Finding::ok(WHAT, format!("{shown} is writable")),
        (false, Ok(())) => Finding::ok(WHAT, format!("{shown} does not exist yet and can be created")),
        (_, Err(error)) => {
            let text =
                format!("cannot write to {}: {error}: change its owner or use another --data-dir", there.display());
            Finding::fail(WHAT, text)
        }
    }];
    if let Ok(space) = statvfs(&there) {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let gib = |bytes: u64| format!("{:.1} GiB", mebibytes(bytes) / 1024.0);
        findings.push(if free < config.log.segment_bytes.saturating_mul(2) {
            let text = format!(
                "{} free at {shown}, and devices wait when the disk is full: free space or move the folder",
                gib(free)
            );
            Finding::fail("disk", text)
        } else if free < LITTLE_SPACE.max(config.log.segment_bytes.saturating_mul(4)) {
            Finding::warn("disk", format!("only {} free at {shown}: free space", gib(free)))
        } else {
            Finding::ok("disk", format!("{} free", gib(free)))
        });
    }
    findings
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mebibytes(bytes: u64) -> f64 {
    (bytes >> 20) as f64
}

/// The folder, or its nearest ancestor that exists.
fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|d| d.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn writable(dir: &Path) -> std::io::Result<()> {
    let mut file = tempfile::tempfile_in(dir)?;
    file.write_all(b"weir")?;
    file.sync_all()
}

pub(super) fn open_files(config: &Config) -> Finding {
    const WHAT: &str = "open files";
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted = (config.mqtt.broker.max_connections as u64).saturating_add(OWN_FILES);
    let (fitting, lowered) = limits::within_open_files(config.clone(), most);
    if lowered.is_empty() {
        return Finding::ok(WHAT, format!("up to {most}"));
    }
    if !lowered.iter().any(|lowered| lowered.is_set) {
        let connections = fitting.mqtt.broker.max_connections;
        let text = format!(
            "up to {most}, which is enough for {connections} MQTT connections; for more raise the limit (ulimit -Hn, \
             LimitNOFILE in a unit file)"
        );
        return Finding::ok(WHAT, text);
    }
    let text = format!(
        "the system allows {most} open files, too few for {} connections: raise the limit (ulimit -Hn {wanted}, \
         LimitNOFILE={wanted} in a unit file) or lower mqtt.max_connections",
        config.mqtt.broker.max_connections
    );
    Finding::warn(WHAT, text)
}

pub(super) fn clock() -> Finding {
    const WHAT: &str = "clock";
    let now = time::now();
    let shown = time::show(now.div_euclid(model::time::SECOND) * model::time::SECOND);
    if !(EARLIEST_NOW * model::time::SECOND..model::time::LATEST).contains(&now) {
        Finding::fail(WHAT, format!("the clock is at {shown}: set it, as readings get their time from it"))
    } else {
        Finding::ok(WHAT, shown)
    }
}

/// Reads the files of the log and of the store. Only for a folder that no process uses.
pub(super) fn files(config: &Config) -> Vec<Finding> {
    const LOG: &str = "log";
    const STORE: &str = "store";
    let mut findings = Vec::new();
    let lanes = lanes_in(&config.data_dir);
    let logs = lanes.iter().flat_map(|lane| [log_in(lane), spill_in(lane)]);
    for dir in logs.filter(|dir| dir.is_dir()) {
        findings.push(match buffer::embedded::verify(&dir) {
            Ok(end) => Finding::ok(LOG, format!("{} is intact up to record {end}", dir.display())),
            Err(error) => {
                let text = format!(
                    "{error}; copy {} first, then see what a repair changes: `weir repair --data-dir {}`",
                    config.data_dir.display(),
                    config.data_dir.display()
                );
                Finding::fail(LOG, text)
            }
        });
    }
    for dir in lanes.iter().map(|lane| store_in(lane)).filter(|dir| dir.is_dir()) {
        let (files, damaged) = stores::embedded::verify(&dir);
        if damaged.is_empty() {
            findings.push(Finding::ok(STORE, format!("the {files} files in {} can be opened", dir.display())));
        }
        let lost = |text: String| {
            Finding::fail(STORE, format!("{text}: copy {} first, then restore it from a backup", dir.display()))
        };
        findings.extend(damaged.into_iter().map(lost));
    }
    findings
}

/// Encryption at rest.
pub(super) fn encryption(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "encryption";
    let dir = &config.data_dir;
    if !config.encryption.is_on() && !envelope::is_needed(dir) {
        return Vec::new();
    }
    let plain = crate::encryption::plain_exports(config);
    let mut findings = Vec::new();
    if !plain.is_empty() {
        findings.push(Finding::warn(WHAT, format!("these exports write files in plain: {}", plain.join(", "))));
    }
    if !envelope::is_needed(dir) {
        findings.push(Finding::ok(WHAT, "the next start makes the keyring".to_owned()));
        return findings;
    }
    findings.push(match envelope::Keyring::read(&config.encryption, dir) {
        Ok(keys) => {
            let status = keys.status();
            let destroyed = status.tenants.iter().filter(|held| held.destroyed.is_some()).count();
            let tenants = status.tenants.len() - destroyed;
            let text = format!("the key-encryption key {} opens the keys of {tenants} tenants", status.kek);
            Finding::ok(WHAT, format!("{text}; those of {destroyed} are destroyed"))
        }
        Err(error) => Finding::fail(WHAT, error.to_string()),
    });
    findings
}

/// The process that uses the data folder.
pub(super) fn process(config: &Config, user: Option<&User>) -> Finding {
    const WHAT: &str = "process";
    match user {
        Some(User::Running(addresses)) => {
            let listens = [addresses.mqtt, addresses.mqtts, addresses.grpc, Some(addresses.http)].into_iter().flatten();
            let further = addresses.listeners.iter().map(|(name, address)| format!("{address} ({name})"));
            let listens: Vec<String> = listens.map(|address| address.to_string()).chain(further).collect();
            Finding::ok(WHAT, format!("a weir process uses the data folder and listens on {}", listens.join(", ")))
        }
        Some(User::Starting(http)) => starting(config, WHAT, *http),
        None => Finding::warn(WHAT, "no weir process uses the data folder: start one with `weir run`"),
    }
}

fn starting(config: &Config, what: &'static str, http: Option<std::net::SocketAddr>) -> Finding {
    let Some(http) = http else {
        return Finding::warn(what, "a weir process uses the data folder and is starting: ask again in a moment");
    };
    match crate::health::at(config, http) {
        Ok(readiness) => {
            let reasons: Vec<String> = readiness.reasons.iter().map(ToString::to_string).collect();
            let text = format!("a weir process uses the data folder and is {}: ", readiness.word());
            Finding::fail(what, text + &reasons.join("; "))
        }
        Err(error) => Finding::fail(what, format!("a weir process uses the data folder, but {error:#}")),
    }
}

pub(super) fn ports(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "port";
    let finding = |(key, address): (&str, &str)| match TcpListener::bind(address) {
        Ok(_) => Finding::ok(WHAT, format!("{address} ({key}) is free")),
        Err(error) => {
            let flag = key.trim_end_matches(".address");
            Finding::fail(
                WHAT,
                format!(
                    "cannot listen on {address} ({key}): {error}: stop the program that uses it, or set another address with --{flag}"
                ),
            )
        }
    };
    let listeners = config.mqtt.listener.iter().map(listener);
    config.addresses().into_iter().map(finding).chain(listeners).collect()
}

/// Whether a listener for devices could be opened.
fn listener(listener: &Listener) -> Finding {
    const WHAT: &str = "port";
    let Listener { name, address, .. } = listener;
    let failed = |why: &dyn std::fmt::Display| {
        let cure = "stop the program that uses it, or change its `address`";
        Finding::fail(WHAT, format!("cannot listen on {address} ([[mqtt.listener]] {name}): {why}: {cure}"))
    };
    match listener.site() {
        Err(error) => Finding::fail(WHAT, format!("[[mqtt.listener]] {name}: {error:#}")),
        Ok(Site::Tcp(at)) => match TcpListener::bind(at) {
            Ok(_) => Finding::ok(WHAT, format!("{address} ({name}) is free")),
            Err(error) => failed(&error),
        },
        Ok(Site::Unix(path, _)) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            if UnixStream::connect(&path).is_ok() {
                failed(&"a process listens there")
            } else if let Err(error) = writable(folder) {
                let cure = format!("create {}, or give this user the right to write there", folder.display());
                Finding::fail(WHAT, format!("cannot make {address} ([[mqtt.listener]] {name}): {error}: {cure}"))
            } else {
                Finding::ok(WHAT, format!("{address} ({name}) is free"))
            }
        }
        Ok(Site::Systemd(socket)) => Finding::ok(WHAT, format!("systemd opens the socket {socket} ({name})")),
    }
}
