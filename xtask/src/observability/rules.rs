//! Checks with the tools of Prometheus and Alertmanager.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::dashboards::Dashboard;
use super::tools::Tools;
use super::{DEPLOY, none};
use crate::run;

/// Checks rules, their tests, routes, and the expressions of dashboards.
pub(super) fn check(tools: &Tools, boards: &[Dashboard], scratch: &Path) -> anyhow::Result<()> {
    let prometheus = Path::new(DEPLOY).join("prometheus");
    run(tools.command("promtool").args(["check", "config"]).arg(prometheus.join("prometheus.yml")))?;
    let rules = files(&prometheus.join("rules"))?;
    run(tools.command("promtool").args(["check", "rules", "--lint-fatal"]).args(&rules))?;
    let tests = files(&prometheus.join("tests"))?;
    run(tools.command("promtool").args(["test", "rules"]).args(&tests))?;
    none("alerts and their tests", untested(&read(&rules)?, &read(&tests)?))?;
    let file = scratch.join("panels.yml");
    std::fs::write(&file, as_rules(boards).to_string())?;
    run(tools.command("promtool").args(["check", "rules"]).arg(&file)).context("an expression of a dashboard")?;
    routes(tools)
}

/// The files of a folder, in order.
pub(super) fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn read(files: &[PathBuf]) -> anyhow::Result<String> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    Ok(files.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?.join("\n"))
}

/// Checks that every alert is tested firing and not firing.
fn untested(rules: &str, tests: &str) -> Vec<String> {
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for case in tests.split("alertname: ").skip(1) {
        let name = case.split([',', '\n', ' ']).next().unwrap_or_default();
        if case.contains("exp_alerts: []") && !case.contains("exp_labels") {
            silent.insert(name);
        } else {
            firing.insert(name);
        }
    }
    let lacks = |set: &BTreeSet<&str>, what: &str| -> Vec<String> {
        alerts.difference(set).map(|alert| format!("no test sees {alert} {what}")).collect()
    };
    let unknown = firing.union(&silent).filter(|name| !alerts.contains(*name));
    let mut faults: Vec<String> = unknown.map(|name| format!("a test names {name}, which is no alert")).collect();
    faults.extend(lacks(&firing, "firing"));
    faults.extend(lacks(&silent, "silent"));
    faults
}

/// Writes expressions as recording rules for promtool; JSON is valid YAML.
fn as_rules(boards: &[Dashboard]) -> serde_json::Value {
    let queries = boards.iter().flat_map(Dashboard::queries).filter(|query| query.source == "prometheus");
    let expressions = queries.map(|query| filled(&query.text)).filter(|text| !text.starts_with("label_values("));
    let rules =
        expressions.enumerate().map(|(n, expr)| serde_json::json!({ "record": format!("panel:{n}"), "expr": expr }));
    serde_json::json!({ "groups": [{ "name": "panels", "rules": rules.collect::<Vec<_>>() }] })
}

/// The expression as Grafana sends it, with all variables set to everything and a range of half a
/// minute.
pub(super) fn filled(expression: &str) -> String {
    expression.replace("$__rate_interval", "30s").replace("$instance", ".+")
}

/// Checks that only `critical` is sent to PagerDuty.
fn routes(tools: &Tools) -> anyhow::Result<()> {
    let file = Path::new(DEPLOY).join("alertmanager/alertmanager.yml");
    for config in files(&Path::new(DEPLOY).join("alertmanager"))? {
        run(tools.command("amtool").arg("check-config").arg(config))?;
    }
    for (severity, receiver) in [("critical", "pagerduty"), ("warning", "tickets"), ("info", "tickets")] {
        let mut command = tools.command("amtool");
        command.args(["config", "routes", "test", "--config.file"]).arg(&file);
        command.arg(format!("--verify.receivers={receiver}")).arg(format!("severity={severity}"));
        let output = command.output().context("amtool")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "alerts of severity {severity} do not go to {receiver}: {said}");
    }
    println!("observability: routes of alerts: passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::untested;

    #[test]
    fn an_alert_must_be_seen_firing_and_silent() {
        let rules = "- alert: A\n- alert: B\n";
        let silent = "- { alertname: A, exp_alerts: [] }\n";
        let firing = "- alertname: A\n  exp_alerts:\n    - exp_labels: {}\n";
        let both_of_b = "- alertname: B\n  exp_alerts: []\n- alertname: B\n  exp_alerts:\n    - exp_labels: {}\n";
        assert_eq!(untested(rules, &[silent, firing, both_of_b].concat()), Vec::<String>::new());
        assert_eq!(untested(rules, &[firing, both_of_b].concat()), ["no test sees A silent"]);
        assert_eq!(untested(rules, &[silent, both_of_b].concat()), ["no test sees A firing"]);
        assert_eq!(
            untested("- alert: A", &[silent, firing, both_of_b].concat()),
            ["a test names B, which is no alert"]
        );
    }
}
