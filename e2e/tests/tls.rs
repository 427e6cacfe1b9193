//! TLS on every port, with unmodified clients.

use std::future::ready;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::services::skipped;
use weir_e2e::site::Site as FleetSite;
use weir_e2e::{Weir, checked, program, tail_of_log, wait_until};

const BOUND: Duration = Duration::from_secs(30);

/// Weir with TLS on its ports, in the folder `dir`.
struct Site<'a> {
    dir: &'a Path,
    weir: Weir,
    mqtts: String,
}

fn create(dir: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program("weir")?);
    checked("weir tls", command.current_dir(dir).arg("tls").args(arguments).output()?)
}

fn start(dir: &Path) -> anyhow::Result<Site<'_>> {
    create(dir, &["create"])?;
    let pem = |name: &str| dir.join("tls").join(name).display().to_string();
    let config = dir.join("weir.toml");
    let (certificate, key) = (pem("server.pem"), pem("server.key"));
    std::fs::write(
        &config,
        format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n[mqtt]\ntls_address = \"127.0.0.1:0\"\n"),
    )?;
    let config = config.to_str().context("a path in UTF-8")?;
    let weir = Weir::start_with(dir, "127.0.0.1:0", &[("WEIR_CONFIG", config)])?;
    let addresses = std::fs::read_to_string(dir.join("data/addresses.json"))?;
    let addresses: serde_json::Value = serde_json::from_str(&addresses)?;
    let mqtts = addresses["mqtts"].as_str().and_then(|text| text.rsplit_once(':'));
    let mqtts = mqtts.context("a port for TLS")?.1.to_owned();
    Ok(Site { dir, weir, mqtts })
}

impl Site<'_> {
    fn pem(&self, name: &str) -> String {
        self.dir.join("tls").join(name).display().to_string()
    }

    fn publisher(&self, ca: Option<&str>, device: &str) -> Command {
        let mut command = Command::new("mosquitto_pub");
        let topic = format!("devices/{device}/telemetry");
        command.args(["-h", "localhost", "-p", &self.mqtts, "-q", "1", "-i", device, "-t", &topic]);
        if let Some(ca) = ca {
            command.args(["--cafile", ca]);
        }
        command
    }

    fn publish(&self, ca: Option<&str>, device: &str) -> anyhow::Result<Output> {
        Ok(self.publisher(ca, device).args(["-m", r#"{"n":1}"#]).output()?)
    }

    fn output(&self, server: &str, ca: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir")?);
        Ok(command.args(arguments).args(["--server", server, "--ca", ca]).output()?)
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let server = format!("https://localhost:{}", self.weir.grpc.port());
        checked(&format!("weir {arguments:?}"), self.output(&server, &self.pem("ca.pem"), arguments)?)
    }

    /// Asks over HTTP, with any certificate.
    fn health(&self) -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir")?);
        command.env("WEIR_CONFIG", self.dir.join("weir.toml"));
        Ok(command.args(["health", "--http", &self.weir.http.to_string()]).output()?)
    }

    fn readings(&self, device: &str) -> anyhow::Result<usize> {
        let text = self.cli(&["query", device, "--since", "1h", "--limit", "100000", "--format", "json"])?;
        Ok(text.lines().count())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_publish_and_commands_read_over_tls_and_each_fault_is_named() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = start(dir.path())?;
    let ca = site.pem("ca.pem");
    checked("mosquitto_pub", site.publish(Some(&ca), "d1")?)?;
    let read = || ready(site.cli(&["latest", "d1"]).and_then(|text| is(text.contains("d1"), &text)));
    wait_until("the reading", BOUND, read).await?;
    checked("weir health", site.health()?)?;
    // Another authority, at both sides.
    let other = tempfile::tempdir()?;
    create(other.path(), &["create"])?;
    let wrong = other.path().join("tls/ca.pem").display().to_string();
    ensure!(!site.publish(Some(&wrong), "d1")?.status.success(), "a client accepted a wrong certificate");
    let server = format!("https://localhost:{}", site.weir.grpc.port());
    let refused = site.output(&server, &wrong, &["latest", "d1"])?;
    let error = String::from_utf8(refused.stderr)?;
    ensure!(error.contains("not from a known authority") && error.contains("--ca"), "{error}");
    // Plain clients at ports for TLS.
    ensure!(!site.publish(None, "d2")?.status.success(), "a plain client was served");
    let plain = format!("http://localhost:{}", site.weir.grpc.port());
    let error = String::from_utf8(site.output(&plain, &ca, &["latest", "d1"])?.stderr)?;
    ensure!(error.contains("https://"), "{error}");
    for named in ["speaks MQTT without TLS", "speaks HTTP/2 without TLS", "refuses the certificate of this server"] {
        let log = || std::fs::read_to_string(dir.path().join("weir.log")).map_err(anyhow::Error::from);
        wait_until(named, BOUND, || ready(log().and_then(|log| is(log.contains(named), &log)))).await?;
    }
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_under_load_without_a_lost_reading() -> anyhow::Result<()> {
    const LINES: usize = 2_000;
    let dir = tempfile::tempdir()?;
    let site = start(dir.path())?;
    let ca = site.pem("ca.pem");
    let mut publisher = site.publisher(Some(&ca), "steady").arg("-l").stdin(Stdio::piped()).spawn()?;
    let mut lines = publisher.stdin.take().context("a pipe")?;
    let mut more = |from: usize, to: usize| -> anyhow::Result<()> {
        (from..to).try_for_each(|n| Ok(writeln!(lines, "{{\"n\":{n}}}")?))
    };
    more(0, LINES / 2)?;
    let before = std::fs::read(site.pem("server.pem"))?;
    create(dir.path(), &["create", "--renew", "--host", "renewed.example"])?;
    ensure!(std::fs::read(site.pem("server.pem"))? != before, "the same certificate");
    site.weir.hang_up()?;
    // It is healthy, whether it uses the new certificate already or not.
    checked("weir health", site.health()?)?;
    let whole = || std::fs::read_to_string(dir.path().join("weir.log")).unwrap_or_default();
    let renewed = || ready(is(whole().contains("the certificate files are in use"), &whole()));
    wait_until("the new certificate", BOUND, renewed).await?;
    checked("weir health", site.health()?)?;
    // The connection of before goes on, and new ones are served.
    more(LINES / 2, LINES)?;
    drop(lines);
    checked("mosquitto_pub", site.publish(Some(&ca), "new")?)?;
    ensure!(ends(&mut publisher)?, "the publisher failed");
    let all = || ready(site.readings("steady").and_then(|count| is(count == LINES, &count.to_string())));
    wait_until("every reading", BOUND, all).await?;
    // A faulty file is named, and the certificate stays in use.
    std::fs::write(site.pem("server.pem"), "no certificate")?;
    site.weir.hang_up()?;
    let log = || tail_of_log(dir.path());
    let named = || ready(is(log().contains("holds no certificate"), &log()));
    wait_until("the fault in the log", BOUND, named).await?;
    checked("weir health", site.health()?)?;
    checked("mosquitto_pub", site.publish(Some(&ca), "new")?)?;
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_fleet_call_each_other_with_certificates_only() -> anyhow::Result<()> {
    if skipped("fleet with certificates", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    create(dir.path(), &["create"])?;
    let pem = |dir: &Path, name: &str| dir.join("tls").join(name).display().to_string();
    let (certificate, key, ca) =
        (pem(dir.path(), "server.pem"), pem(dir.path(), "server.key"), pem(dir.path(), "ca.pem"));
    let settings = [
        ("WEIR_FLEET_CERTIFICATE", &*certificate),
        ("WEIR_FLEET_KEY", &key),
        ("WEIR_FLEET_CA", &ca),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "600000"),
    ];
    let site = FleetSite::new(false, &settings).await?;
    let flusher = site.start("flusher", "ingest,flusher", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    let port = flusher.mqtt.port().to_string();
    let mut publish = Command::new("mosquitto_pub");
    publish.args(["-p", &port, "-q", "1", "-t", "devices/d1/telemetry", "-m", r#"{"n":1}"#]);
    checked("mosquitto_pub", publish.output()?)?;
    let metric = |name: &str| -> anyhow::Result<bool> {
        let line = format!("weir_tls_handshakes_total{{port=\"fleet\",outcome=\"{name}\"}}");
        Ok(flusher.get("/metrics")?.contains(&line))
    };
    let read = || ready(api.cli(&["latest", "d1"]).and_then(|text| is(text.contains("d1"), &text)));
    wait_until("the reading", BOUND, read).await?;
    let called = || ready(api.cli(&["latest", "d1"]).and_then(|_| is(metric("full")?, "no handshake")));
    wait_until("a call over TLS", BOUND, called).await?;
    ensure!(!metric("client_certificate")?, "a certificate of the fleet is refused");
    // A process with certificates of another authority is refused, and says so.
    let stranger = tempfile::tempdir()?;
    create(stranger.path(), &["create"])?;
    let (certificate, key) = (pem(stranger.path(), "server.pem"), pem(stranger.path(), "server.key"));
    let wrong = [("WEIR_FLEET_CERTIFICATE", &*certificate), ("WEIR_FLEET_KEY", &*key)];
    let other = site.start_with("other", "api", &wrong)?;
    let refused = || ready(other.cli(&["latest", "d1"]).and_then(|_| is(metric("client_certificate")?, "not refused")));
    wait_until("a refusal", BOUND, refused).await?;
    other.stop()?;
    api.stop()?;
    flusher.stop()
}

fn ends(child: &mut Child) -> anyhow::Result<bool> {
    Ok(child.wait()?.success())
}

/// An error with the state when the condition does not hold.
fn is(holds: bool, state: &str) -> anyhow::Result<()> {
    ensure!(holds, "{state}");
    Ok(())
}
