//! Programs for checking deploy/: from PATH, else from Debian's packages, unpacked into the cache
//! folder. Alertmanager is built from its Go module, because Debian's needs a file outside of that
//! folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{clients, run};

/// Programs and their packages.
const PROGRAMS: [(&str, &str); 4] = [
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("amtool", "prometheus-alertmanager"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
];

/// The version that the compose file runs.
const ALERTMANAGER: &str = "github.com/prometheus/alertmanager/cmd/alertmanager@v0.28.1";

/// Docker Compose.
const COMPOSE: &str = "github.com/docker/compose/v2@v2.40.3";

/// Folders of the programs.
pub(super) struct Tools {
    cache: PathBuf,
}

impl Tools {
    /// A command of one of [`PROGRAMS`], or `alertmanager`.
    pub(super) fn command(&self, program: &str) -> Command {
        Command::new(in_path(program).unwrap_or_else(|| self.cache.join("usr/bin").join(program)))
    }

    /// Docker Compose as a standalone program.
    pub(super) fn built_compose(&self) -> anyhow::Result<PathBuf> {
        let program = self.cache.join("usr/bin/docker-compose");
        if program.is_file() {
            return Ok(program);
        }
        println!("building {COMPOSE} into {}", self.cache.display());
        let why = "docker compose is missing: install it, or Go, which builds it";
        let download = ["mod", "download", "-json", COMPOSE];
        let output = Command::new("go").args(download).current_dir(&self.cache).output().context(why)?;
        let module: serde_json::Value = serde_json::from_slice(&output.stdout).context(why)?;
        let source = module["Dir"].as_str().with_context(|| format!("{why}: {module}"))?;
        let mut build = Command::new("go");
        build.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(&program).arg("./cmd");
        run(build.current_dir(source).env("CGO_ENABLED", "0")).context(why)?;
        Ok(program)
    }
}

/// Installs programs that are neither in PATH nor in the cache.
pub(super) fn install() -> anyhow::Result<Tools> {
    let cache = clients::cache()?.join("weir/observability");
    for (program, package) in PROGRAMS {
        if in_path(program).is_some() || cache.join("usr/bin").join(program).is_file() {
            continue;
        }
        println!("installing {package} into {}", cache.display());
        unpack(package, &cache).with_context(|| format!("{program} is missing: install the package {package}"))?;
    }
    let programs = cache.join("usr/bin");
    if in_path("alertmanager").is_none() && !programs.join("alertmanager").is_file() {
        println!("building {ALERTMANAGER} into {}", programs.display());
        run(Command::new("go").args(["install", ALERTMANAGER]).env("GOBIN", &programs).env("CGO_ENABLED", "0"))
            .context("alertmanager is missing: put it into PATH, or install Go, which builds it")?;
    }
    Ok(Tools { cache })
}

/// A server of the tests, from PATH or their folder.
pub(super) fn server(program: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    in_path(program)
        .or_else(|| Some(folder.join(program)).filter(|path| path.is_file()))
        .with_context(|| format!("{program} is neither in PATH nor in {}", folder.display()))
}

/// Finds a program in PATH.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Needs no privileges: the package is unpacked, not installed.
fn unpack(package: &str, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    let scratch = tempfile::tempdir_in(to)?;
    run(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(scratch.path()))
        .context("if the package is unknown, run `apt-get update` first")?;
    for entry in std::fs::read_dir(scratch.path())? {
        run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(to))?;
    }
    Ok(())
}
