//! The programs that check and run what is in deploy/: from PATH, else from Debian's packages, unpacked into the cache
//! folder. Alertmanager is built from its Go module: Debian's looks for a file of its own outside of that folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::run;

/// Each with the package that has it.
const PROGRAMS: [(&str, &str); 4] = [
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("amtool", "prometheus-alertmanager"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
];

/// The version that the compose file runs.
const ALERTMANAGER: &str = "github.com/prometheus/alertmanager/cmd/alertmanager@v0.28.1";

/// Where the programs are.
pub(super) struct Tools {
    cache: PathBuf,
}

impl Tools {
    /// A command of one of [`PROGRAMS`], or `alertmanager`.
    pub(super) fn command(&self, program: &str) -> Command {
        Command::new(in_path(program).unwrap_or_else(|| self.cache.join("usr/bin").join(program)))
    }
}

/// Puts into the cache what PATH lacks; what is there already is kept.
pub(super) fn install() -> anyhow::Result<Tools> {
    let cache = cache()?.join("weir/observability");
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

/// A server that the tests use too, from PATH or their folder.
pub(super) fn server(program: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    in_path(program)
        .or_else(|| Some(folder.join(program)).filter(|path| path.is_file()))
        .with_context(|| format!("{program} is neither in PATH nor in {}", folder.display()))
}

fn cache() -> anyhow::Result<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place for what is installed")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Needs no rights: the package is not installed, only its files are laid out.
fn unpack(package: &str, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    let scratch = tempfile::tempdir_in(to)?;
    run(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(scratch.path()))
        .context("if the package is not known, `apt-get update` comes first")?;
    for entry in std::fs::read_dir(scratch.path())? {
        run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(to))?;
    }
    Ok(())
}
