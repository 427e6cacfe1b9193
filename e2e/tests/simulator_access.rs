//! The simulator with credentials of every kind, over TLS, against a Weir with authentication.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use serde_json::Value;
use weir_e2e::keyed::Encrypted;
use weir_e2e::{checked, program};

struct Site<'a> {
    dir: &'a Path,
    weir: Encrypted,
}

impl Site<'_> {
    fn sim(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir-sim")?);
        command.current_dir(self.dir).args(arguments).env("WEIR_CA", "tls/ca.pem");
        Ok(command.env("WEIR_API_KEY", &self.weir.keyed.key).output()?)
    }

    fn broker(&self) -> String {
        format!("mqtts://localhost:{}", self.weir.mqtts)
    }

    /// Creates credentials in a file, which stays as it is at a second time.
    fn credentials(&self, kind: &str, devices: &[&str]) -> anyhow::Result<String> {
        let file = format!("{kind}.csv");
        let url = self.weir.url();
        let fixed = ["credentials", "--kind", kind, "--server", &url, "--output", &file];
        let arguments = [&fixed[..], devices].concat();
        checked("weir-sim credentials", self.sim(&arguments)?)?;
        let first = std::fs::read_to_string(self.dir.join(&file))?;
        checked("weir-sim credentials", self.sim(&arguments)?)?;
        ensure!(first == std::fs::read_to_string(self.dir.join(&file))?, "a file was written twice");
        Ok(file)
    }
}

/// Sum of the handshakes at the port of devices with an outcome.
fn handshakes(dir: &Path, weir: &Encrypted, outcome: &str) -> anyhow::Result<u64> {
    let url = format!("https://localhost:{}/metrics", weir.keyed.weir.http.port());
    let mut command = Command::new("curl");
    let output =
        command.args(["--silent", "--show-error", "--cacert"]).arg(dir.join("tls/ca.pem")).arg(url).output()?;
    let metrics = checked("curl", output)?;
    let labels = [r#"port="mqtt""#.to_owned(), format!(r#"outcome="{outcome}""#)];
    let is_it = |line: &&str| line.starts_with("weir_tls_handshakes_total{") && labels.iter().all(|l| line.contains(l));
    let line = metrics.lines().find(is_it);
    line.map_or(Ok(0), |line| Ok(line.rsplit(' ').next().context("a value")?.parse()?))
}

#[test]
fn devices_connect_over_tls_with_secrets_tokens_and_certificates_and_resume_their_sessions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site { dir: dir.path(), weir: Encrypted::start(dir.path())? };
    // A tenth of the devices breaks its connections twice within six seconds.
    let scenario = ["reconnect-storm", "--devices", "0.04"];
    for kind in ["secret", "jwt", "certificate"] {
        let file = site.credentials(kind, &scenario)?;
        let (broker, url) = (site.broker(), site.weir.url());
        let run = ["--time", "0.1", "--quiet", "--json", "--credentials", &file, "--broker", &broker, "--server", &url];
        let (full, resumed) =
            (handshakes(dir.path(), &site.weir, "full")?, handshakes(dir.path(), &site.weir, "resumed")?);
        let summary = checked(kind, site.sim(&[&["run"][..], &scenario, &run].concat())?)?;
        let summary: Value = serde_json::from_str(&summary)?;
        ensure!(summary["devices"] == 20 && summary["total"]["failures"] == 0, "{kind}: {summary}");
        ensure!(summary["stores"][0]["findings"]["counts"] == serde_json::json!({}), "{kind}: {summary}");
        // Each device has a session of its own, which it takes up at its second connection.
        let now = handshakes(dir.path(), &site.weir, "full")?;
        ensure!(now - full == 20, "{kind}: {} full handshakes of 20 devices", now - full);
        let now = handshakes(dir.path(), &site.weir, "resumed")?;
        ensure!(now - resumed >= 20, "{kind}: {} resumed handshakes", now - resumed);
    }
    site.weir.keyed.weir.stop()
}

#[test]
fn the_load_generator_connects_with_certificates_and_measures_calls() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site { dir: dir.path(), weir: Encrypted::start(dir.path())? };
    let file = site.credentials("certificate", &["--bench", "5", "--first-device", "3"])?;
    let (broker, url) = (site.broker(), site.weir.url());
    let load = |devices: &str, broker: &str| {
        let load =
            ["bench", "--first-device", "3", "--secs", "1", "--warmup-secs", "0.2", "--json", "--conns", devices];
        let places = ["--credentials", &file, "--broker", broker, "--server", &url, "--calls", "20"];
        site.sim(&[&load[..], &places].concat())
    };
    let report: Value = serde_json::from_str(&checked("bench", load("5", &broker)?)?)?;
    ensure!(report["acknowledged"].as_u64() > Some(0) && report["calls"]["answered"] == 20, "{report}");
    // A device without a credential, and certificates without TLS.
    let refused = String::from_utf8(load("6", &broker)?.stderr)?;
    ensure!(refused.contains("sim-8"), "{refused}");
    let plain = site.weir.keyed.weir.mqtt.to_string();
    let refused = String::from_utf8(load("5", &plain)?.stderr)?;
    ensure!(refused.contains("mqtts://"), "{refused}");
    site.weir.keyed.weir.stop()
}
