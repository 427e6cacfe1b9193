//! The compose file, parsed by Docker Compose.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::tools::Tools;
use super::{DEPLOY, none};

/// Checks the file beyond Compose: existing paths, ports on loopback, a health check of every
/// service, and existing services as targets of Prometheus.
pub(super) fn check(tools: &Tools) -> anyhow::Result<()> {
    let file = Path::new(DEPLOY).join("compose.yaml");
    let mut command = tools.compose()?;
    let output = command.arg("--file").arg(&file).args(["config", "--format", "json"]).output().context("compose")?;
    ensure!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let stack: Value = serde_json::from_slice(&output.stdout).context("output of compose")?;
    let services = stack["services"].as_object().context("a stack has services")?;
    let mut faults = Vec::new();
    for (name, service) in services {
        faults.extend(service_faults(service).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    let prometheus = std::fs::read_to_string(Path::new(DEPLOY).join("prometheus/prometheus.yml"))?;
    for target in targets(&prometheus).into_iter().filter(|target| *target != "localhost") {
        if !services.contains_key(target) {
            faults.push(format!("prometheus looks for {target}, which is no service"));
        }
    }
    none(&format!("the {} services of the compose file", services.len()), faults)
}

fn service_faults(service: &Value) -> Vec<String> {
    let list = |key: &str| service[key].as_array().cloned().unwrap_or_default();
    let mut faults = Vec::new();
    for port in list("ports").iter().filter(|port| port["host_ip"] != "127.0.0.1") {
        faults.push(format!("the port {} is not on loopback", port["target"]));
    }
    for volume in list("volumes").iter().filter(|volume| volume["type"] == "bind") {
        let source = PathBuf::from(volume["source"].as_str().unwrap_or_default());
        if !source.exists() {
            faults.push(format!("{} is not there", source.display()));
        }
    }
    if service["healthcheck"].is_null() {
        faults.push("it has no health check".to_owned());
    }
    if let Some(build) = service["build"].as_object() {
        let file = Path::new(build["context"].as_str().unwrap_or_default());
        let file = file.join(build["dockerfile"].as_str().unwrap_or("Dockerfile"));
        let target = format!(" AS {}", build["target"].as_str().unwrap_or_default());
        if !std::fs::read_to_string(&file).is_ok_and(|text| text.lines().any(|line| line.ends_with(&target))) {
            faults.push(format!("{} has no stage{target}", file.display()));
        }
    } else if service["image"].as_str().is_none_or(|image| !image.contains(':') || image.ends_with(":latest")) {
        faults.push("its image has no version".to_owned());
    }
    faults
}

/// The hosts in `targets: ["host:port"]`.
fn targets(config: &str) -> Vec<&str> {
    let lists = config.lines().filter_map(|line| line.trim().strip_prefix("- targets: "));
    lists.flat_map(|list| list.split('"').skip(1).step_by(2)).filter_map(|target| target.split(':').next()).collect()
}

impl Tools {
    /// `docker compose` if it is installed, else the same program from its Go module.
    fn compose(&self) -> anyhow::Result<Command> {
        let mut plugin = Command::new("docker");
        plugin.arg("compose");
        let works = Command::new("docker").args(["compose", "version"]).output().is_ok_and(|o| o.status.success());
        Ok(if works { plugin } else { Command::new(self.built_compose()?) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{service_faults, targets};

    #[test]
    fn ports_paths_health_and_versions_are_looked_at() {
        let good = json!({
            "image": "redis:7.4", "healthcheck": {}, "ports": [{ "host_ip": "127.0.0.1", "target": 1 }],
            "volumes": [{ "type": "volume", "source": "data" }],
        });
        assert_eq!(service_faults(&good), Vec::<String>::new());
        let bad = json!({
            "image": "redis", "ports": [{ "host_ip": "0.0.0.0", "target": 1 }],
            "volumes": [{ "type": "bind", "source": "/not/there" }],
        });
        assert_eq!(service_faults(&bad).len(), 4);
    }

    #[test]
    fn targets_are_hosts() {
        assert_eq!(targets("  - targets: [\"a:1\", \"b:2\"]\n"), ["a", "b"]);
    }
}
