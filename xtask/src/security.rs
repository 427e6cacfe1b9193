//! `cargo xtask security`: the crates that Weir is built from, and secrets in the tree.

mod tools;

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use crate::clients::there;

/// One check.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Check {
    /// Licenses, sources and banned crates, by deny.toml.
    Crates,
    /// Published vulnerabilities of the crates, from the database of RustSec.
    Advisories,
    /// Passwords, keys and tokens in the files of the tree.
    Secrets,
    /// Published vulnerabilities in the image `weir:local`, with Trivy.
    Image,
}

enum Outcome {
    Passed,
    /// The check could not be made, for this reason.
    NotRun(String),
}

/// Exit status for findings, which differs from that of an error.
const FOUND: i32 = 3;
const RULES: &str = ".gitleaks.toml";
const IMAGE: &str = "weir:local";

/// Runs checks; all when none is named. One that cannot run is an error when it is named, else only
/// printed.
pub(crate) fn check(named: &[Check]) -> anyhow::Result<()> {
    let (mut failed, mut lacking) = (Vec::new(), Vec::new());
    for check in if named.is_empty() { Check::value_variants() } else { named } {
        let name = format!("{check:?}").to_lowercase();
        match check.run() {
            Ok(Outcome::Passed) => println!("security: {name}: passed"),
            Ok(Outcome::NotRun(reason)) => {
                println!("security: {name}: NOT RUN: {reason}");
                lacking.push(name);
            }
            Err(error) => {
                println!("security: {name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "security: {} failed", failed.join(", "));
    ensure!(named.is_empty() || lacking.is_empty(), "security: {} did not run", lacking.join(", "));
    Ok(())
}

impl Check {
    fn run(self) -> anyhow::Result<Outcome> {
        match self {
            Self::Crates => crates(),
            Self::Advisories => advisories(),
            Self::Secrets => secrets(),
            Self::Image => image(),
        }
    }
}

fn crates() -> anyhow::Result<Outcome> {
    let deny = match tools::cargo_deny() {
        Ok(deny) => deny,
        Err(error) => return Ok(Outcome::NotRun(format!("{error:#}"))),
    };
    let output = start(Command::new(deny).args(["--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    passed(&output, "see deny.toml")
}

fn advisories() -> anyhow::Result<Outcome> {
    let deny = match tools::cargo_deny() {
        Ok(deny) => deny,
        Err(error) => return Ok(Outcome::NotRun(format!("{error:#}"))),
    };
    let fetched = start(Command::new(&deny).args(["fetch", "db"]))?;
    if !fetched.status.success() {
        return Ok(Outcome::NotRun(format!("the database cannot be fetched: {}", last_line(&fetched))));
    }
    let output = start(Command::new(&deny).args(["--log-level", "error", "check", "advisories"]))?;
    passed(&output, "update the crate, or name the advisory with a reason in deny.toml")
}

/// Scans the files of the tree, after a folder with secrets of Weir that have to be found.
fn secrets() -> anyhow::Result<Outcome> {
    let gitleaks = match tools::gitleaks() {
        Ok(gitleaks) => gitleaks,
        Err(error) => return Ok(Outcome::NotRun(format!("{error:#}"))),
    };
    let scratch = tempfile::tempdir().context("a temporary folder")?;
    let body = format!("{}_{}", &LETTERS[..12], &LETTERS[..49]);
    std::fs::write(scratch.path().join("device.txt"), format!("password wd_{body}\n"))?;
    std::fs::write(scratch.path().join("caller.txt"), format!("Bearer weir_{body}\n"))?;
    let found = scan(&gitleaks, scratch.path())?;
    for rule in ["weir-device-secret", "weir-api-key"] {
        ensure!(found.iter().any(|finding| finding.contains(rule)), "{RULES}: rule {rule} finds no secret");
    }
    let found = scan(&gitleaks, Path::new("."))?;
    if found.is_empty() {
        return Ok(Outcome::Passed);
    }
    bail!("remove and revoke these secrets, or name keys of tests in {RULES}:\n  {}", found.join("\n  "))
}

const LETTERS: &str = "q7Rk2ZpX9vLm4TbN8cWd1HsJ6yGf3QaUe5KxVo0PrSiBtMnCwD";

/// The place and rule of each secret that gitleaks finds.
fn scan(gitleaks: &Path, folder: &Path) -> anyhow::Result<Vec<String>> {
    let report = tempfile::NamedTempFile::new().context("a temporary file")?;
    let mut command = Command::new(gitleaks);
    command.arg("dir").arg(folder).args(["--no-banner", "--no-color", "--redact", "--log-level", "error"]);
    command.args(["--config", RULES, "--exit-code", &FOUND.to_string()]);
    let output = start(command.args(["--report-format", "json", "--report-path"]).arg(report.path()))?;
    ensure!([Some(0), Some(FOUND)].contains(&output.status.code()), "gitleaks: {}", all_of(&output));
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(report.path())?)?;
    ensure!(findings.is_empty() == output.status.success(), "gitleaks: the report and {} differ", output.status);
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    Ok(findings.iter().map(|f| format!("{}:{}: {}", text(f, "File"), f["StartLine"], text(f, "RuleID"))).collect())
}

fn image() -> anyhow::Result<Outcome> {
    for program in ["docker", "trivy"] {
        if !there(program) {
            return Ok(Outcome::NotRun(format!("{program} is not in PATH; .github/workflows/ci.yml runs it")));
        }
    }
    let inspected = start(Command::new("docker").args(["image", "inspect", "--format", "{{.Id}}", IMAGE]))?;
    if !inspected.status.success() {
        return Ok(Outcome::NotRun(format!("docker has no image {IMAGE}: {}", last_line(&inspected))));
    }
    let mut command = Command::new("trivy");
    command.args(["image", "--quiet", "--severity", "HIGH,CRITICAL", "--ignore-unfixed"]);
    let output = start(command.args(["--exit-code", &FOUND.to_string(), IMAGE]))?;
    if ![Some(0), Some(FOUND)].contains(&output.status.code()) {
        return Ok(Outcome::NotRun(format!("trivy: {}", last_line(&output))));
    }
    passed(&output, "build the image with newer packages")
}

fn start(command: &mut Command) -> anyhow::Result<Output> {
    command.output().with_context(|| format!("start {command:?}"))
}

fn passed(output: &Output, cure: &str) -> anyhow::Result<Outcome> {
    ensure!(output.status.success(), "{cure}\n{}", all_of(output));
    Ok(Outcome::Passed)
}

fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn last_line(output: &Output) -> String {
    all_of(output).lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output").trim().to_owned()
}
