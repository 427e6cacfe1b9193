//! `cargo xtask terraform`: checks that the module for Kubernetes is formatted, valid and tested,
//! and that a cluster accepts the objects that the provider sends.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{cargo, clients, run};

/// Folder of the module.
const MODULE: &str = "terraform";
/// Folders with their own plan.
const ROOTS: [&str; 5] = ["", "monitoring", "certificates", "examples/local", "examples/managed"];
/// Release 3.2.1 of the provider and a few later commits.
const PROVIDER: &str = "github.com/hashicorp/terraform-provider-kubernetes@v1.13.4-0.20260821094251-3a33fb6cc605";
/// A package with the schemas of Kubernetes.
const PYTHON_PACKAGES: &str = "kubernetes-validate==1.37.0";
const PEPPERS: &str = concat!("peppers=1 ", "00000000000000000000000000000000", "00000000000000000000000000000000");
/// Variables of the module for the check of created objects.
const VARIABLES: [&str; 11] = [
    "image_tag=0.1.0",
    "redis_url=redis://redis:6379",
    "database_url=mongodb://mongo/?replicaSet=rs0",
    "registry=postgresql",
    "registry_url=postgresql://weir:password@db/weir",
    PEPPERS,
    "tls_secret=weir-tls",
    "fleet_tls_secret=weir-fleet-tls",
    r#"grpc_ingress={"host"="weir.example.com"}"#,
    "influxdb_token=token",
    r#"influxdb={"url"="http://influxdb:8086","org"="weir","bucket"="weir"}"#,
];

/// The same for a trusted network.
const INSECURE: [&str; 5] = [
    "image_tag=0.1.0",
    "redis_url=redis://redis:6379",
    "database_url=mongodb://mongo/?replicaSet=rs0",
    "insecure=true",
    "fleet_secret=a long random text",
];

/// Programs for the checks.
struct Tools {
    /// Configuration of terraform: the provider comes from the cache, not from a registry.
    settings: PathBuf,
    python: PathBuf,
    /// Path of the recording API server.
    api: PathBuf,
}

/// Runs all checks. Without terraform they are skipped with a message, or fail if CI is set.
pub(crate) fn check() -> anyhow::Result<()> {
    if !clients::there("terraform") {
        ensure!(std::env::var_os("CI").is_none(), "terraform must be in PATH when CI is set");
        println!("terraform: SKIPPED: it is not in PATH");
        return Ok(());
    }
    let tools = install()?;
    run(Command::new("terraform").args(["fmt", "-check", "-recursive", MODULE])).context("run `terraform fmt`")?;
    documented()?;
    // Files of terraform stay out of the checkout.
    let scratch = tempfile::tempdir().context("a temporary folder")?;
    let copy = scratch.path().join(MODULE);
    run(Command::new("cp").args(["-r", MODULE]).arg(&copy))?;
    for root in ROOTS {
        tools.terraform(&copy.join(root), &["get"])?;
        tools.terraform(&copy.join(root), &["validate", "-no-color"]).with_context(|| format!("terraform/{root}"))?;
    }
    tools.terraform(&copy, &["test", "-no-color"])?;

    let keys = keys()?;
    tools.rendered(&copy, &keys, &VARIABLES, None)?;
    tools.rendered(&copy, &keys, &INSECURE, None)?;
    tools.rendered(&copy.join("examples/local"), &keys, &[PEPPERS], None)?;
    // The check can fail: it finds pods that may run as root, and a pod that differs from the
    // others.
    let role = copy.join("role/main.tf");
    let text = std::fs::read_to_string(&role)?;
    for (good, faulty, fault) in [
        ("run_as_non_root            = true", "run_as_non_root            = false", "runAsNonRoot is not true"),
        ("period_seconds    = 5\n", "period_seconds    = 6\n", "containers is not as in"),
        (r#"default_mode = "0440""#, r#"default_mode = "0444""#, "have the mode"),
    ] {
        ensure!(text.contains(good), "{} does not contain {good:?}", role.display());
        // One of the two kinds of workloads.
        std::fs::write(&role, text.replacen(good, faulty, 1))?;
        tools.rendered(&copy, &keys, &VARIABLES, Some(fault))?;
    }
    println!("terraform: all checks passed");
    Ok(())
}

fn install() -> anyhow::Result<Tools> {
    let cache = clients::cache()?.join("weir/terraform");
    let programs = cache.join("bin");
    clients::marked(&programs, PROVIDER, || {
        std::fs::create_dir_all(&programs)?;
        println!("building the Kubernetes provider into {}", programs.display());
        // One package at a time, because some need much memory.
        run(Command::new("go").args(["install", "-p", "1", PROVIDER]).env("GOBIN", &programs))
            .context("the Kubernetes provider is missing: install Go, which builds it")
    })?;
    let settings = cache.join("terraformrc");
    let text = format!("provider_installation {{\n  dev_overrides {{ \"hashicorp/kubernetes\" = {programs:?} }}\n}}\n");
    std::fs::write(&settings, text).with_context(|| format!("write {}", settings.display()))?;
    let venv = cache.join("python");
    let python = venv.join("bin/python");
    clients::marked(&venv, PYTHON_PACKAGES, || {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).context("python3 with venv is needed")?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_PACKAGES]))
    })?;
    let api = cache.join("remembering-api");
    // Go caches the build.
    let mut build = Command::new("go");
    build.args(["build", "-p", "1", "-o"]).arg(&api).arg(".").current_dir(Path::new(MODULE).join("tests/api"));
    run(&mut build).context("the recording API server is missing: install Go, which builds it")?;
    Ok(Tools { settings, python, api })
}

impl Tools {
    fn terraform(&self, folder: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("terraform");
        command.args(arguments).current_dir(folder).env("TF_CLI_CONFIG_FILE", &self.settings);
        let output = command.output().with_context(|| format!("start {command:?}"))?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{command:?}:\n{}{}", said(&output.stdout), said(&output.stderr));
        if arguments[0] == "test" {
            println!("{}", said(&output.stdout).lines().last().unwrap_or_default());
        }
        Ok(())
    }

    /// Applies a folder to the recording API server and checks the objects it received.
    fn rendered(&self, folder: &Path, keys: &str, variables: &[&str], fault: Option<&str>) -> anyhow::Result<()> {
        let mut command = Command::new(&self.python);
        command.arg(Path::new(MODULE).join("tests/rendered.py")).arg(folder);
        if let Some(fault) = fault {
            command.args(["--expect-fault", fault]);
        }
        run(command
            .args(variables)
            .env("TF_CLI_CONFIG_FILE", &self.settings)
            .env("WEIR_KEYS", keys)
            .env("REMEMBERING_API", &self.api))
    }
}

/// The environment variables in the output of `weir config`.
fn keys() -> anyhow::Result<String> {
    let output = cargo().args(["run", "--quiet", "--package", "weir-server", "--", "config"]).output()?;
    ensure!(output.status.success(), "weir config: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let keys: Vec<&str> = text.lines().filter_map(|line| Some(line.rsplit_once("# WEIR_")?.1)).collect();
    ensure!(keys.len() > 50, "weir config has only {} variables", keys.len());
    Ok(keys.iter().map(|key| format!("WEIR_{key}")).collect::<Vec<_>>().join(" "))
}

/// Checks that every variable and output is in the README of its folder.
fn documented() -> anyhow::Result<()> {
    let mut lacking = Vec::new();
    for root in ["", "monitoring", "certificates"] {
        let folder = Path::new(MODULE).join(root);
        let readme = std::fs::read_to_string(folder.join("README.md"))?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "tf") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let names = text.lines().filter_map(|line| {
                let rest = line.strip_prefix("variable ").or_else(|| line.strip_prefix("output "))?;
                rest.split('"').nth(1)
            });
            let missing = names.filter(|name| !readme.contains(&format!("| `{name}` |")));
            lacking.extend(missing.map(|name| format!("{}: {name}", folder.join("README.md").display())));
        }
    }
    ensure!(lacking.is_empty(), "not documented:\n  {}", lacking.join("\n  "));
    Ok(())
}
