//! Tests and fuzzing.

use std::path::Path;

use anyhow::Context;

use crate::{cargo, clients, run, services};

/// Runs every test of the workspace, with real processes and unmodified clients.
pub(crate) fn workspace(arguments: &[String]) -> anyhow::Result<()> {
    let clients = clients::install()?;
    let services = services::install()?;
    // The whole-path tests start these programs.
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    run(cargo()
        .args(["test", "--workspace"])
        .args(arguments)
        .env("WEIR_SERVICES", services)
        .env("WEIR_TEST_PYTHON", clients.python)
        .env("WEIR_TEST_NODE", clients.node)
        .env("WEIR_TEST_JAVA", clients.java))
}

/// Runs each fuzz target for some time.
pub(crate) fn fuzz(secs: u32) -> anyhow::Result<()> {
    if !cargo().args(["fuzz", "--version"]).output().is_ok_and(|o| o.status.success()) {
        run(cargo().args(["install", "cargo-fuzz", "--locked"])).context("install cargo-fuzz")?;
    }
    for krate in ["broker", "buffer", "ingest"] {
        let dir = Path::new(krate).join("fuzz");
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).with_context(|| format!("read {dir:?}"))?;
        let targets = manifest.lines().skip_while(|l| *l != "[[bin]]").filter_map(|l| l.strip_prefix("name = "));
        for target in targets {
            let target = target.trim_matches('"');
            println!("fuzzing {krate}: {target} for {secs} s");
            run(std::process::Command::new("cargo").args(["+nightly", "fuzz", "run", "--fuzz-dir"]).arg(&dir).args([
                target,
                "--",
                &format!("-max_total_time={secs}"),
                "-print_final_stats=1",
            ]))?;
        }
    }
    Ok(())
}
