//! Access tokens of a real issuer (oidc-provider, unmodified), from the first command on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{ListDevicesRequest, SeriesSelector, SubscribeRequest};
use serde_json::Value;
use tonic::{Code, Request};
use weir_e2e::keyed::{Keyed, init, run};
use weir_e2e::{node_folder, program, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const RESOURCE: &str = "https%3A%2F%2Fweir.example%2Fapi";
/// Calls of each task after the last rotation.
const CALLS: u64 = 50;

/// A running oidc-provider.
struct Issuer {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<std::process::ChildStdout>,
    url: String,
}

impl Issuer {
    /// `dir` gets a copy of the script, beside the modules that it imports.
    fn start(dir: &Path) -> anyhow::Result<Self> {
        std::os::unix::fs::symlink(node_folder()?.join("node_modules"), dir.join("node_modules"))?;
        let script = dir.join("issuer.mjs");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/oidc_issuer.mjs"), &script)?;
        let log = std::fs::File::create(dir.join("issuer.log"))?;
        let mut command = Command::new("node");
        command.arg("--preserve-symlinks").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("the test needs node")?;
        let orders = child.stdin.take().context("its input is a pipe")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut url = String::new();
        lines.read_line(&mut url)?;
        let url = url.trim().to_owned();
        ensure!(
            url.starts_with("http://"),
            "oidc-provider did not start: {}",
            std::fs::read_to_string(dir.join("issuer.log"))?
        );
        Ok(Self { child, orders, lines, url })
    }

    /// Gives it these keys; the first one signs.
    fn rotate(&mut self, keys: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{keys}")?;
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        ensure!(line.trim() == keys, "{line:?}");
        Ok(())
    }

    fn token(&self, client: &str, scope: &str, resource: &str) -> anyhow::Result<String> {
        token(&self.url, client, scope, resource)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks an issuer for a token of a client that acts for itself.
fn token(url: &str, client: &str, scope: &str, resource: &str) -> anyhow::Result<String> {
    let body = format!(
        "grant_type=client_credentials&client_id={client}&client_secret={client}-secret&scope={scope}&resource={resource}"
    );
    let body = body.replace("&scope=&", "&");
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "POST /token HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: \
         {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    Ok(body["access_token"].as_str().with_context(|| answer.clone())?.to_owned())
}

/// Starts Weir, which accepts issuers of this host.
fn start(dir: &Path) -> anyhow::Result<Keyed> {
    let key = init(dir)?;
    let config = dir.join("weir.toml");
    let text = std::fs::read_to_string(&config)?;
    let networks = "required = true\nissuer_networks = [\"127.0.0.0/8\"]";
    let changed = text.replacen("required = true", networks, 1);
    ensure!(changed != text, "{text}");
    std::fs::write(&config, changed)?;
    Ok(Keyed { weir: run(dir)?, key })
}

fn with<T>(token: &str, message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

#[test]
fn a_client_of_a_real_issuer_has_its_role_and_its_scopes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let issuer = Issuer::start(dir.path())?;
    let site = start(dir.path())?;
    let own = issuer.token("dashboard", "", RESOURCE)?;
    let error = site.refused(&own, &["devices"])?;
    ensure!(error.contains("not valid"), "no issuer yet: {error}");
    site.cli(&site.key, &["issuers", "add", &issuer.url, "--audience", "weir", "--max-role", "operator"])?;
    let principal = format!("client:{}#dashboard", issuer.url);
    let error = site.refused(&own, &["devices"])?;
    ensure!(error.contains(&format!("{principal} has no role")) && error.lines().count() == 1, "{error}");
    site.cli(&site.key, &["roles", "grant", &principal, "--role", "viewer"])?;
    site.cli(&own, &["devices"])?;
    let error = site.refused(&own, &["dead-letters"])?;
    ensure!(error.contains("deadLetters.list"), "a viewer: {error}");
    let narrow = issuer.token("dashboard", "telemetry.read", RESOURCE)?;
    let error = site.refused(&narrow, &["devices"])?;
    ensure!(error.contains("devices.list"), "its scopes do not name it: {error}");
    let other = issuer.token("stranger", "", RESOURCE)?;
    ensure!(site.refused(&other, &["devices"])?.contains("#stranger has no role"));
    let elsewhere = issuer.token("dashboard", "", "https%3A%2F%2Fother.example%2Fapi")?;
    ensure!(site.refused(&elsewhere, &["devices"])?.contains("not valid"), "another audience");
    let again = site.refused(&site.key, &["issuers", "add", &issuer.url, "--audience", "weir"])?;
    ensure!(again.contains("exists already"), "{again}");
    let above = site.refused(&own, &["roles", "grant", "oidc:https://a.example#a", "--role", "viewer"])?;
    ensure!(above.contains("roleBindings.create"), "{above}");
    let listed = site.cli(&site.key, &["issuers", "list", "--format", "csv"])?;
    ensure!(listed.contains(&issuer.url) && listed.lines().count() == 2, "{listed}");
    let listed = site.cli(&site.key, &["roles", "list", "--format", "csv"])?;
    ensure!(listed.contains(&principal) && listed.lines().count() == 2, "{listed}");
    site.cli(&site.key, &["roles", "revoke", &principal])?;
    ensure!(site.refused(&own, &["devices"])?.contains("has no role"));
    let audit = site.cli(&site.key, &["audit", "--format", "json"])?;
    for expected in ["CreateIssuer", "CreateRoleBinding", "DeleteRoleBinding", &issuer.url] {
        ensure!(audit.contains(expected), "{expected} in {audit}");
    }
    let log = std::fs::read_to_string(dir.path().join("weir.log"))?;
    for secret in [&own, &narrow, &other, &elsewhere] {
        let signature = secret.rsplit('.').next().context("a token has parts")?;
        ensure!(!log.contains(signature) && !audit.contains(signature), "a token is in the log or the audit");
    }
    site.weir.stop()
}

/// Calls Weir again and again with a token that was made for the call.
async fn caller(weir: String, issuer: String, counts: Arc<Counts>) -> anyhow::Result<()> {
    let channel = tonic::transport::Endpoint::from_shared(weir)?.connect().await?;
    let mut client = DeviceServiceClient::new(channel);
    let mut after = 0;
    let first = token(&issuer, "dashboard", "", RESOURCE)?;
    while after < CALLS {
        let url = issuer.clone();
        let fresh = tokio::task::spawn_blocking(move || token(&url, "dashboard", "", RESOURCE)).await??;
        for used in [&fresh, &first] {
            let request = ListDevicesRequest { parent: "tenants/-".into(), ..Default::default() };
            client.list_devices(with(used, request)?).await?;
            counts.calls.fetch_add(1, Ordering::Relaxed);
        }
        after += u64::from(counts.rotated.load(Ordering::Relaxed));
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    rotated: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_while_tokens_are_in_use_without_a_failed_call() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut issuer = Issuer::start(dir.path())?;
    let site = start(dir.path())?;
    site.cli(&site.key, &["issuers", "add", &issuer.url, "--audience", "weir"])?;
    let principal = format!("client:{}#dashboard", issuer.url);
    site.cli(&site.key, &["roles", "grant", &principal, "--role", "viewer"])?;
    let counts = Arc::new(Counts::default());
    let callers: Vec<_> =
        (0..4).map(|_| tokio::spawn(caller(site.weir.url(), issuer.url.clone(), Arc::clone(&counts)))).collect();
    let old = issuer.token("dashboard", "", RESOURCE)?;
    let selector = SeriesSelector { devices: vec!["tenants/-/devices/*".into()], ..Default::default() };
    let request = SubscribeRequest { parent: "tenants/-".into(), selector: Some(selector), ..Default::default() };
    let mut client = TelemetryServiceClient::new(site.weir.channel().await?);
    let mut stream = client.subscribe(with(&old, request)?).await?.into_inner();
    let calls = |least: u64| {
        let counts = Arc::clone(&counts);
        async move {
            wait_until("calls are made", BOUND, async || {
                ensure!(counts.calls.load(Ordering::Relaxed) >= least, "{}", counts.calls.load(Ordering::Relaxed));
                Ok(())
            })
            .await
        }
    };
    calls(40).await?;
    // The first key signs at once; the one after it is published ahead.
    issuer.rotate("k2 k1 e3")?;
    calls(counts.calls.load(Ordering::Relaxed) + 40).await?;
    issuer.rotate("e3 k2 k1")?;
    counts.rotated.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await?.context("a call failed during the rotation")?;
    }
    println!("{} calls during two rotations", counts.calls.load(Ordering::Relaxed));
    // The stream goes on with the token of the first key, until its issuer is deleted.
    let fresh = issuer.token("dashboard", "", RESOURCE)?;
    site.cli(&fresh, &["devices"])?;
    let listed: Value = serde_json::from_str(&site.cli(&site.key, &["issuers", "list", "--format", "json"])?)?;
    let id = listed["id"].as_str().with_context(|| listed.to_string())?;
    site.cli(&site.key, &["issuers", "delete", id])?;
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("the stream ended without a status"),
                Err(status) => return Ok(status),
            }
        }
    };
    let status = tokio::time::timeout(BOUND, ended).await.context("the stream goes on")??;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    ensure!(site.refused(&fresh, &["devices"])?.contains("not valid"));
    site.weir.stop()
}

#[test]
fn doctor_reports_an_issuer_whose_keys_cannot_be_read() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let issuer = Issuer::start(dir.path())?;
    let site = start(dir.path())?;
    site.cli(&site.key, &["issuers", "add", &issuer.url, "--audience", "weir"])?;
    let doctor = || -> anyhow::Result<String> {
        let mut command = Command::new(program("weir")?);
        command.arg("doctor").args(["--data-dir", "data", "--server", &site.weir.url()]).current_dir(dir.path());
        Ok(String::from_utf8(command.env("WEIR_API_KEY", &site.key).output()?.stdout)?)
    };
    let report = doctor()?;
    ensure!(report.contains(&format!("{} has 1 keys", issuer.url)), "{report}");
    let url = issuer.url.clone();
    drop(issuer);
    let report = doctor()?;
    ensure!(report.contains(&format!("cannot read {url}/.well-known/openid-configuration")), "{report}");
    site.weir.stop()
}
