//! `cargo xtask dist`: the release files. Static programs for x86-64 Linux, a bill of materials,
//! checksums, one archive.

mod bill;
mod elf;
mod zig;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use crate::{cargo, run};

const TARGET: &str = "x86_64-unknown-linux-musl";
const PROGRAMS: [&str; 2] = ["weir", "weir-sim"];
/// Files in the archive beside the programs.
const BESIDE: [&str; 4] = ["LICENSE", "README.md", "deploy/weir.toml", "deploy/systemd/weir.service"];

/// Options of the build.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo profile; profiles other than release-lto are for testing this chore.
    #[arg(long, default_value = "release-lto")]
    profile: String,
}

/// Builds and packs the release into `dist` in the target folder.
pub(crate) fn run_chore(options: &Options) -> anyhow::Result<()> {
    let metadata = bill::metadata(TARGET)?;
    let target = PathBuf::from(metadata["target_directory"].as_str().context("cargo has a target folder")?);
    let dist = target.join("dist");
    if dist.exists() {
        std::fs::remove_dir_all(&dist).with_context(|| format!("empty {}", dist.display()))?;
    }
    std::fs::create_dir_all(&dist)?;
    build(&options.profile, &target)?;
    // The folder of the profile `dev` has another name.
    let built = target.join(TARGET).join(if options.profile == "dev" { "debug" } else { &options.profile });
    for program in PROGRAMS {
        let path = dist.join(program);
        std::fs::copy(built.join(program), &path).with_context(|| format!("copy {program}"))?;
        elf::check_static(&path)?;
        let version = Command::new(&path).arg("--version").output()?;
        ensure!(version.status.success(), "{program} --version fails");
        println!("{}: static", String::from_utf8_lossy(&version.stdout).trim());
    }
    let bill = bill::of("weir-server", &metadata, &commit(&["--format=%cI"])?)?;
    std::fs::write(dist.join("weir.cdx.json"), serde_json::to_string_pretty(&bill)? + "\n")?;
    let version = bill["metadata"]["component"]["version"].as_str().context("weir has a version")?.to_owned();
    archive(&dist, &format!("weir-{version}-x86_64-linux"))?;
    checksums(&dist)?;
    println!("dist: {}", dist.display());
    Ok(())
}

fn build(profile: &str, target: &Path) -> anyhow::Result<()> {
    run(Command::new("rustup").args(["target", "add", TARGET])).context("the standard library for musl")?;
    let mut command = cargo();
    command.args(["build", "--locked", "--target", TARGET, "--profile", profile, "--bins"]);
    command.args(["--package", "weir-server", "--package", "weir-simulators"]);
    // Removes the folders of this machine from the programs.
    let here = std::env::current_dir()?;
    let mut flags = format!("--remap-path-prefix={}=weir", here.display());
    write!(flags, "\u{1f}--remap-path-prefix={}=target", target.display())?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))) {
        write!(flags, "\u{1f}--remap-path-prefix={}=cargo", home.display())?;
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    match zig::unless_there()? {
        Some(compiler) => {
            // The variables without a target are for librdkafka, whose `configure` knows no others.
            // It also links a shared library, with a list of symbols that Zig's linker takes at its
            // word.
            command.env("CC_x86_64_unknown_linux_musl", &compiler).env("CC", &compiler);
            command.env("LDFLAGS", "-Wl,--undefined-version");
        }
        None => {
            if let Some(compiler) = zig::known() {
                command.env("CC", compiler);
            }
        }
    }
    run(&mut command)
}

/// A field of the built commit, so that the same commit yields the same files.
fn commit(format: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git").args(["log", "-1"]).args(format).output().context("git")?;
    ensure!(output.status.success(), "git log fails: the build needs the time of the commit");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes one archive; the same contents yield the same bytes.
fn archive(dist: &Path, name: &str) -> anyhow::Result<()> {
    let folder = dist.join(name);
    std::fs::create_dir(&folder)?;
    let own = PROGRAMS.iter().copied().chain(["weir.cdx.json"]).map(|file| dist.join(file));
    for from in own.chain(BESIDE.iter().map(PathBuf::from)) {
        let to = folder.join(from.file_name().context("a file has a name")?);
        std::fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    let time = format!("--mtime=@{}", commit(&["--format=%ct"])?);
    run(Command::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX"])
        // Without the current time.
        .args([&time, "--use-compress-program=gzip -9 --no-name", "--file"])
        .arg(dist.join(format!("{name}.tar.gz")))
        .arg("--directory")
        .arg(dist)
        .arg(name))?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))
}

/// Writes `SHA256SUMS` for `sha256sum --check`.
fn checksums(dist: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dist)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let mut lines = Vec::new();
    for path in entries {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push(format!("{digest}  {name}\n"));
        println!("{:>12} bytes  {name}", bytes.len());
    }
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    std::fs::write(dist.join("SHA256SUMS"), lines.concat()).context("write SHA256SUMS")
}
