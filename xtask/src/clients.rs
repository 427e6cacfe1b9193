//! Unmodified clients for the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::run;

/// Pinned, so that only changes of Weir break tests.
const PYTHON_PACKAGES: [&str; 7] = [
    "paho-mqtt==2.1.0",
    "aiomqtt==2.5.1",
    "grpcio",
    "grpcio-reflection",
    "pyarrow",
    "kafka-python[lz4,zstd]==3.0.12",
    "duckdb==2.0.1",
];
const JAVA_PACKAGES: [&str; 2] =
    ["org.eclipse.paho:org.eclipse.paho.client.mqttv3:1.2.5", "org.eclipse.paho:org.eclipse.paho.mqttv5.client:1.2.5"];
const NODE_PACKAGES: [&str; 2] = ["mqtt@5", "oidc-provider@9.13.3"];

/// Locations of the clients.
pub(crate) struct Clients {
    /// Folder with the jars of Eclipse Paho.
    pub(crate) java: PathBuf,
    /// Python with Eclipse Paho, aiomqtt, gRPC with reflection, a Parquet reader, kafka-python, and
    /// DuckDB.
    pub(crate) python: PathBuf,
    /// Folder with MQTT.js and oidc-provider in `node_modules`.
    pub(crate) node: PathBuf,
}

/// Installs missing clients into the user's cache folder.
pub(crate) fn install() -> anyhow::Result<Clients> {
    let cache = cache()?.join("weir/clients");
    debian("mosquitto_pub", "mosquitto-clients")?;
    debian("mosquitto", "mosquitto")?;
    debian("chromium", "chromium")?;
    debian("haproxy", "haproxy")?;
    debian("systemd-socket-activate", "systemd")?;
    debian("cc", "gcc")?;
    debian("java", "default-jdk-headless")?;
    debian("mvn", "maven")?;
    paho_c()?;
    paho_go()?;
    let java = java(&cache.join("java"))?;
    Ok(Clients { java, python: python(&cache.join("python"))?, node: node(&cache.join("node"))? })
}

/// The user's cache folder.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: set one of them for the cache folder")
}

pub(crate) fn debian(program: &str, package: &str) -> anyhow::Result<()> {
    if there(program) { Ok(()) } else { self::package(package).with_context(|| format!("{program} is missing")) }
}

/// Installs a package of Debian.
fn package(name: &str) -> anyhow::Result<()> {
    let how = || format!("install the package {name}");
    run(Command::new("apt-get").args(["update", "-qq"]).stdout(Stdio::null())).with_context(how)?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", name])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null()))
    .with_context(how)
}

pub(crate) fn there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Debian installs servers into folders that only root's PATH has.
    std::env::split_paths(&paths).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// Installs the library and the headers of Eclipse Paho C.
fn paho_c() -> anyhow::Result<()> {
    if Path::new("/usr/include/MQTTClient.h").is_file() { Ok(()) } else { package("libpaho-mqtt-dev") }
}

/// Downloads Eclipse Paho Go into Go's own cache.
fn paho_go() -> anyhow::Result<()> {
    run(Command::new("go").args(["mod", "download"]).current_dir("e2e/clients/paho_go"))
        .context("the tests need Go 1.24 or later, and the modules of e2e/clients/paho_go")
}

fn java(dir: &Path) -> anyhow::Result<PathBuf> {
    marked(dir, &JAVA_PACKAGES.join(" "), || {
        std::fs::create_dir_all(dir)?;
        for package in JAVA_PACKAGES {
            run(Command::new("mvn")
                .args(["--quiet", "--batch-mode", "dependency:copy"])
                .arg(format!("-Dartifact={package}"))
                .arg(format!("-DoutputDirectory={}", dir.display())))
            .with_context(|| format!("download {package} from Maven Central"))?;
        }
        Ok(())
    })?;
    Ok(dir.to_owned())
}

fn python(dir: &Path) -> anyhow::Result<PathBuf> {
    let python = dir.join("bin/python");
    marked(dir, &PYTHON_PACKAGES.join(" "), || {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir)).context("the tests need python3 with venv")?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))
    })?;
    Ok(python)
}

fn node(dir: &Path) -> anyhow::Result<PathBuf> {
    marked(dir, &NODE_PACKAGES.join(" "), || {
        std::fs::create_dir_all(dir)?;
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(dir)
            .args(NODE_PACKAGES))
        .context("the tests need node with npm")
    })?;
    Ok(dir.to_owned())
}

/// Runs `install` unless it was done before for the same `wanted`.
pub(crate) fn marked(dir: &Path, wanted: &str, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mark = dir.join("installed.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    install()?;
    std::fs::write(&mark, wanted).with_context(|| format!("write {}", mark.display()))
}
