//! Runs the fuzz targets of `fuzz/`.
//!
//! Their programs are built as libFuzzer wants them, with the address sanitizer, by a nightly
//! toolchain. Inputs that were found are in `fuzz/corpus`, the ones that ended a target in
//! `fuzz/artifacts`; neither is committed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::run;

/// Options of the chore.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Targets to run, as `packets`; all by default.
    targets: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    secs: u32,
}

/// Counters at every edge and traces of comparisons, by which libFuzzer finds its way.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
                     -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// The words of targets, in files of `fuzz/dictionaries`.
const DICTIONARIES: [(&[&str], &str); 4] = [
    (&["packets", "sessions", "websocket"], "mqtt"),
    (&["grants", "subscriptions"], "topics"),
    (&["payloads", "records", "routes"], "json"),
    (&["upgrade"], "http"),
];
/// Targets that kill a broker where it is: what it holds at that moment is not freed.
const KILLERS: [&str; 2] = ["records", "sessions"];
/// Memory of a target: an input that takes more is a finding.
const MEMORY_MB: u32 = 2048;
/// Seconds for one input: one that takes longer is a finding.
const INPUT_SECS: u32 = 10;

pub(crate) fn run_targets(options: &Options) -> anyhow::Result<()> {
    let folder = Path::new("fuzz");
    let known = targets(folder)?;
    let unknown = options.targets.iter().find(|target| !known.contains(target));
    if let Some(unknown) = unknown {
        anyhow::bail!("there is no fuzz target {unknown:?}: use one of {}", known.join(", "));
    }
    let programs = build(folder)?;
    let corpus = folder.join("corpus");
    run(Command::new(programs.join("seeds")).arg(&corpus))?;
    for target in if options.targets.is_empty() { &known } else { &options.targets } {
        let artifacts = folder.join("artifacts").join(target);
        std::fs::create_dir_all(&artifacts).with_context(|| format!("create {artifacts:?}"))?;
        println!("fuzzing {target} for {} s", options.secs);
        let mut program = Command::new(programs.join(target));
        program.arg(corpus.join(target)).arg(format!("-artifact_prefix={}/", artifacts.display()));
        program.arg(format!("-max_total_time={}", options.secs)).arg(format!("-rss_limit_mb={MEMORY_MB}"));
        program.arg(format!("-timeout={INPUT_SECS}")).arg("-print_final_stats=1").arg("-verbosity=0");
        if KILLERS.contains(&&**target) {
            program.env("ASAN_OPTIONS", "detect_leaks=0");
        }
        if let Some((_, dictionary)) = DICTIONARIES.iter().find(|(targets, _)| targets.contains(&&**target)) {
            let dictionary = folder.join("dictionaries").join(dictionary).with_extension("dict");
            program.arg(format!("-dict={}", dictionary.display()));
        }
        run(&mut program).with_context(|| format!("the input is in {}", artifacts.display()))?;
    }
    Ok(())
}

/// The names of the targets, which are files.
fn targets(folder: &Path) -> anyhow::Result<Vec<String>> {
    let files = std::fs::read_dir(folder.join("fuzz_targets")).context("run it at the top of the repository")?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds the targets, and returns the folder of their programs.
fn build(folder: &Path) -> anyhow::Result<PathBuf> {
    let rustc = Command::new("rustc").args(["+nightly", "-vV"]).output().context("start rustc")?;
    ensure!(rustc.status.success(), "fuzzing needs a nightly toolchain: rustup toolchain install nightly");
    let text = String::from_utf8(rustc.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("the host of rustc")?;
    // A folder of its own: its flags are those of no other build.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from).join("fuzz");
    let target = std::path::absolute(target)?;
    let mut cargo = Command::new("cargo");
    // `cargo xtask` sets the toolchain that it runs in.
    cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &target);
    cargo.args(["+nightly", "build", "--release", "--target", host, "--manifest-path"]).arg(folder.join("Cargo.toml"));
    run(&mut cargo)?;
    Ok(target.join(host).join("release"))
}
