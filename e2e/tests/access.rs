//! Devices with secrets or keys, and callers with keys, from the first command on.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use base64::Engine;
use serde_json::Value;
use weir_e2e::keyed::{Keyed, init, run};
use weir_e2e::{Weir, checked, program, wait_until};

const BOUND: Duration = Duration::from_secs(10);

fn has_ended(child: &mut Child) -> anyhow::Result<ExitStatus> {
    child.try_wait()?.context("it runs")
}

fn text(answer: &Value, name: &str) -> anyhow::Result<String> {
    Ok(answer[name].as_str().with_context(|| format!("{name} in {answer}"))?.to_owned())
}

#[test]
fn a_device_with_a_secret_publishes_its_own_readings_and_a_caller_with_a_key_reads_them() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let (_, password) = site.add_device("pump-7")?;
    let pump = Some(("pump-7", &*password));
    for version in ["mqttv311", "mqttv5"] {
        let own = site.publish(version, pump, "pump-7", "devices/pump-7/telemetry")?;
        checked("the device publishes", own)?;
        for (what, output) in [
            ("without credentials", site.publish(version, None, "pump-7", "devices/pump-7/telemetry")?),
            ("a wrong secret", site.publish(version, Some(("pump-7", "wrong")), "pump-7", "devices/pump-7/telemetry")?),
            ("another client id", site.publish(version, pump, "pump-8", "devices/pump-7/telemetry")?),
        ] {
            ensure!(!output.status.success(), "{version}: {what} was admitted");
        }
        // MQTT 5 answers 0x87, which this client reports and does not fail for; 3.1.1 closes.
        let other = site.publish(version, pump, "pump-7", "devices/pump-8/telemetry")?;
        ensure!(!other.stderr.is_empty(), "{version}: {other:?}");
    }
    let (_, viewer) = site.add_key("dashboard", "viewer")?;
    let rows = site.cli(&viewer, &["query", "pump-7", "--format", "csv"])?;
    ensure!(rows.lines().count() == 3, "a header and two readings: {rows}");
    let devices = site.cli(&viewer, &["devices", "--format", "csv"])?;
    ensure!(!devices.contains("pump-8"), "{devices}");
    for (key, arguments, expected) in [
        ("", &["query", "pump-7"][..], "API key"),
        ("weir_AAAAAAAAAAAA_wrong", &["query", "pump-7"], "not valid"),
        (&viewer, &["exports"], "permission"),
        (&viewer, &["keys", "list"], "permission"),
        (&viewer, &["devices", "add", "pump-8"], "permission"),
        (&viewer, &["query", "pump-7", "--tenant", "other"], "permission"),
    ] {
        let error = site.refused(key, arguments)?;
        ensure!(error.contains(expected) && !error.contains("panicked"), "{arguments:?}: {error}");
        ensure!(error.lines().count() == 1, "{error}");
    }
    let log = std::fs::read_to_string(dir.path().join("weir.log"))?;
    for secret in [&password, &viewer, &site.key] {
        ensure!(!log.contains(secret.as_str()), "a secret is in the log");
        let part = secret.rsplit('_').next().context("a secret has parts")?;
        ensure!(!log.contains(part), "a secret is in the log");
    }
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_secret_and_a_deleted_key_end_what_they_opened() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let (id, password) = site.add_device("pump-7")?;
    let port = site.weir.mqtt.port().to_string();
    let subscriber = ["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-i", "pump-7", "-t", "devices/pump-7/#"];
    let mut subscribed = Command::new("mosquitto_sub")
        .args(subscriber)
        .args(["-u", "pump-7", "-P", &password])
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let (key_id, key) = site.add_key("reader", "viewer")?;
    let mut follower = Command::new(program("weir")?)
        .args(["tail", "pump-7", "--server", &site.weir.url()])
        .env("WEIR_API_KEY", &key)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    wait_until("the device is connected and the stream is open", BOUND, async || {
        let status = site.cli(&site.key, &["status", "--format", "json"])?;
        let status: Value = serde_json::from_str(&status)?;
        ensure!(status["connections"] == 1, "{status}");
        let metrics = site.weir.get("/metrics")?;
        ensure!(metrics.lines().any(|line| line == "weir_api_streams_open 1"), "no stream is open");
        Ok(())
    })
    .await?;
    site.cli(&site.key, &["devices", "revoke", "pump-7", &id])?;
    let ended = wait_until("the session ends", BOUND, || ready(has_ended(&mut subscribed))).await;
    // It connects again by itself and is refused.
    subscribed.kill().ok();
    subscribed.wait()?;
    ended?;
    let again = site.publish("mqttv5", Some(("pump-7", &password)), "pump-7", "devices/pump-7/telemetry")?;
    ensure!(!again.status.success(), "a revoked secret was admitted");
    site.cli(&site.key, &["keys", "delete", &key_id])?;
    let ended = wait_until("the stream ends", BOUND, || ready(has_ended(&mut follower))).await;
    follower.kill().ok();
    let output = follower.wait_with_output()?;
    let status = ended?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!status.success() && error.contains("revoked or has expired"), "{status} {error}");
    site.weir.stop()
}

/// Runs openssl with some input, and returns its output.
fn openssl(dir: &Path, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("openssl").current_dir(dir).args(arguments).output()?;
    ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// A token that ends in so many seconds from now, besides the grace of 30 seconds.
fn sign(dir: &Path, kid: &str, ends: i64) -> anyhow::Result<String> {
    let part = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
    let header = serde_json::json!({ "alg": "EdDSA", "kid": kid });
    let claims = serde_json::json!({ "aud": "weir:default", "iat": now - 300, "exp": now + ends });
    let message = format!("{}.{}", part(header.to_string().as_bytes()), part(claims.to_string().as_bytes()));
    std::fs::write(dir.join("message"), &message)?;
    let signature = openssl(dir, &["pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "message"])?;
    Ok(format!("{message}.{}", part(&signature)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_signs_its_passwords_is_disconnected_when_they_expire() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    openssl(dir.path(), &["genpkey", "-algorithm", "ed25519", "-out", "key.pem"])?;
    let private = dir.path().join("key.pem");
    let private = private.to_str().context("a path in UTF-8")?;
    let error = site.refused(&site.key, &["devices", "add", "pump-7", "--key", private])?;
    ensure!(error.contains("private key") && error.contains("-pubout"), "{error}");
    openssl(dir.path(), &["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"])?;
    let public = dir.path().join("public.pem");
    let answer = site.json(&site.key, &["devices", "add", "pump-7", "--key", public.to_str().context("UTF-8")?])?;
    ensure!(answer["algorithm"] == "EdDSA" && answer["audience"] == "weir:default", "{answer}");
    let id = text(&answer, "id")?;
    ensure!(site.cli(&site.key, &["devices", "secrets", "pump-7"])?.contains("EdDSA"));
    let publish =
        |password: &str| site.publish("mqttv311", Some(("pump-7", password)), "pump-7", "devices/pump-7/telemetry");
    checked("the device publishes", publish(&sign(dir.path(), &id, 60)?)?)?;
    ensure!(!publish(&sign(dir.path(), &id, -31)?)?.status.success(), "an expired token was admitted");
    ensure!(!publish(&sign(dir.path(), "0123456789AB", 60)?)?.status.success(), "an unknown id was admitted");
    let port = site.weir.mqtt.port().to_string();
    let mut subscribed = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-V",
            "mqttv5",
            "-i",
            "pump-7",
            "-t",
            "devices/pump-7/#",
            "-u",
            "pump-7",
        ])
        .args(["-P", &sign(dir.path(), &id, -27)?])
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let ended = wait_until("the session ends", BOUND, || ready(has_ended(&mut subscribed))).await;
    // It connects again by itself and is refused.
    subscribed.kill().ok();
    subscribed.wait()?;
    ended?;
    let metrics = site.weir.get("/metrics")?;
    ensure!(metrics.contains("token_expired"), "{metrics}");
    site.cli(&site.key, &["devices", "revoke", "pump-7", &id])?;
    ensure!(!publish(&sign(dir.path(), &id, 60)?)?.status.success(), "a revoked key was admitted");
    site.weir.stop()
}

#[test]
fn secrets_keys_and_audit_outlast_a_kill() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Keyed::start(dir.path())?;
    let (_, password) = site.add_device("pump-7")?;
    let (viewer_id, viewer) = site.add_key("dashboard", "viewer")?;
    site.weir.kill()?;
    site.weir = run(dir.path())?;
    let own = site.publish("mqttv5", Some(("pump-7", &password)), "pump-7", "devices/pump-7/telemetry")?;
    checked("the device publishes", own)?;
    site.cli(&viewer, &["latest", "pump-7"])?;
    let audit = site.cli(&site.key, &["audit", "--format", "json"])?;
    for expected in ["CreateDeviceCredential", "CreateApiKey", &*viewer_id] {
        ensure!(audit.contains(expected), "{expected} in {audit}");
    }
    ensure!(!audit.contains(&viewer) && !audit.contains(&password), "a secret is in the audit");
    let whole = site.json(&site.key, &["audit", "verify"])?;
    let known = format!("{}:{}", whole["whole_up_to"], text(&whole, "hash")?);
    site.cli(&site.key, &["audit", "verify", "--known", &known])?;
    let other = format!("1:{}", text(&whole, "hash")?);
    let error = site.output(&site.key, &["audit", "verify", "--known", &other])?;
    ensure!(!error.status.success() && String::from_utf8(error.stdout)?.contains("written anew"));
    site.weir.stop()
}

/// The one file of checkpoints, once it has so many lines.
async fn checkpoints(dir: &Path, lines: usize) -> anyhow::Result<PathBuf> {
    let probe = || {
        let file = std::fs::read_dir(dir)?.next().transpose()?.context("a file")?.path();
        let found = std::fs::read_to_string(&file)?.lines().count();
        ensure!(found >= lines, "{found} lines");
        Ok(file)
    };
    wait_until("the checkpoints", BOUND, || ready(probe())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_checkpoints_outlast_a_kill_and_find_an_audit_that_was_put_back() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = init(dir.path())?;
    let (out, data, old) = (dir.path().join("out"), dir.path().join("data"), dir.path().join("old"));
    std::fs::create_dir(&out)?;
    std::fs::copy(data.join("registry.redb"), &old)?;
    let config = dir.path().join("weir.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{text}\n[audit]\nfolder = {out:?}\ninterval_secs = 1\n"))?;
    let mut site = Keyed { weir: run(dir.path())?, key };
    let file = checkpoints(&out, 1).await?;
    let keys = data.join("audit-key.pub");
    let verify = |file: &Path| -> anyhow::Result<Vec<String>> {
        let arguments = ["audit", "verify", "--checkpoints", path(file)?, "--public-key", path(&keys)?];
        Ok(arguments.map(str::to_owned).to_vec())
    };
    let verified = |site: &Keyed, file: &Path| -> anyhow::Result<(bool, String)> {
        let arguments = verify(file)?;
        let output = site.output(&site.key, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok((output.status.success(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
    };
    site.add_device("pump-7")?;
    site.weir.kill()?;
    site.weir = run(dir.path())?;
    // The change before the kill, which may have come after a checkpoint.
    checkpoints(&out, 2).await?;
    let (is_whole, said) = verified(&site, &file)?;
    ensure!(is_whole, "{said}");
    let (_, auditor) = site.add_key("auditor", "tenant-admin")?;
    let arguments = verify(&file)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--tenant", "default"]).collect();
    let own = site.cli(&auditor, &arguments)?;
    ensure!(own.contains("default"), "{own}");
    let lines = std::fs::read_to_string(&file)?;
    let (first, rest) = lines.split_once('\n').context("a line")?;
    let copy = dir.path().join("copy.ndjson");
    for (text, expected) in [
        (lines.replacen("\"sequence\":", "\"sequence\":1", 1), "signature is not valid"),
        ("nothing\n".to_owned(), "not a checkpoint"),
        (rest.to_owned(), "before it is missing"),
        (format!("{first}\n"), "was handed over"),
    ] {
        std::fs::write(&copy, text)?;
        let (is_whole, said) = verified(&site, &copy)?;
        ensure!(!is_whole && said.contains(expected), "{said}");
    }
    checked("weir audit key --rotate", {
        let rotate = ["audit", "key", "--rotate", "--data-dir", path(&data)?];
        Command::new(program("weir")?).args(rotate).output()?
    })?;
    let before = std::fs::read_to_string(&file)?.lines().count();
    site.add_device("pump-8")?;
    checkpoints(&out, before + 1).await?;
    let (is_whole, said) = verified(&site, &file)?;
    ensure!(is_whole, "after the rotation: {said}");
    // The audit as it was before the first checkpoint's events.
    site.weir.kill()?;
    std::fs::copy(&old, data.join("registry.redb"))?;
    site.weir = run(dir.path())?;
    let (is_whole, said) = verified(&site, &file)?;
    ensure!(!is_whole && said.contains("chain ends at event"), "{said}");
    let report = || {
        // The command fails while something is wrong.
        let status = String::from_utf8(site.output(&site.key, &["status"])?.stdout)?;
        ensure!(status.contains("altered"), "{status}");
        Ok(())
    };
    wait_until("the report", BOUND, || ready(report())).await?;
    site.weir.kill()
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[test]
fn a_second_init_makes_another_key_and_leaves_the_configuration() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let first = init(dir.path())?;
    let config = std::fs::read_to_string(dir.path().join("weir.toml"))?;
    let second = init(dir.path())?;
    ensure!(first != second && config == std::fs::read_to_string(dir.path().join("weir.toml"))?);
    let site = Keyed { weir: run(dir.path())?, key: second };
    site.cli(&first, &["status"])?;
    let mut command = Command::new(program("weir")?);
    let output = command.current_dir(dir.path()).args(["init", "--data-dir", "data"]).output()?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("in use"), "{error}");
    site.weir.stop()
}

#[test]
fn without_authentication_the_commands_name_what_to_do() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed { weir: Weir::start(dir.path())?, key: String::new() };
    for arguments in [&["keys", "list"][..], &["devices", "add", "d1"], &["tenants", "list"], &["audit"]] {
        let error = site.refused("", arguments)?;
        ensure!(error.contains("auth") && error.contains("weir init"), "{arguments:?}: {error}");
    }
    site.weir.stop()
}

#[test]
fn a_suspended_tenant_is_refused_and_others_are_not() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    site.cli(&site.key, &["tenants", "add", "acme"])?;
    let answer = site.json(&site.key, &["devices", "add", "d1", "--tenant", "acme"])?;
    let (acme, own) = (text(&answer, "password")?, site.add_device("d1")?.1);
    let publish = |password: &str| site.publish("mqttv5", Some(("d1", password)), "d1", "devices/d1/telemetry");
    checked("acme publishes", publish(&acme)?)?;
    let of = |tenant: &str| site.cli(&site.key, &["query", "d1", "--format", "csv", "--tenant", tenant]);
    ensure!(of("acme")?.lines().count() == 2 && !site.output(&site.key, &["query", "d1"])?.status.success());
    site.cli(&site.key, &["tenants", "suspend", "acme"])?;
    ensure!(!publish(&acme)?.status.success(), "a suspended tenant was admitted");
    checked("the other tenant publishes", publish(&own)?)?;
    site.cli(&site.key, &["tenants", "resume", "acme"])?;
    checked("acme publishes again", publish(&acme)?)?;
    site.weir.stop()
}

#[tokio::test]
async fn peppers_are_exchanged_while_devices_and_callers_use_their_secrets() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let (_, secret) = site.add_device("d1")?;
    let rotate = |arguments: &[&str]| -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir")?);
        command.current_dir(dir.path()).args(["peppers", "rotate", "--config", "weir.toml"]).args(arguments);
        Ok(command.output()?)
    };
    let last_use = || site.cli(&site.key, &["devices", "secrets", "d1", "--format", "csv"]);
    let mut newest = ("d1".to_owned(), secret.clone());
    for round in 1..=3 {
        if round == 2 {
            checked("prepare", rotate(&["--prepare"])?)?;
            ensure!(!rotate(&["--prepare"])?.status.success(), "one is prepared already");
        }
        checked("rotate", rotate(&[])?)?;
        let version = format!("\"weir.version\":{}", round + 1);
        wait_until("the new peppers", BOUND, async || {
            let log = std::fs::read_to_string(dir.path().join("weir.log"))?;
            let is_read = log.lines().any(|line| line.contains("peppers are read") && line.contains(&version));
            ensure!(is_read, "{log}");
            Ok(())
        })
        .await?;
        let before = last_use()?;
        // Secrets of before, each used between two rotations, and the newest one.
        for (device, secret) in [("d1", &secret), (&*newest.0, &newest.1)] {
            let topic = format!("devices/{device}/telemetry");
            let output = site.publish("5", Some((device, secret)), device, &topic)?;
            ensure!(output.status.success(), "round {round}: {device} is refused: {output:?}");
        }
        let device = format!("d{}", round + 1);
        newest.1 = site.add_device(&device)?.1;
        newest.0 = device;
        wait_until("the use is written", BOUND, async || {
            ensure!(last_use()? != before, "{before}");
            Ok(())
        })
        .await?;
    }
    site.weir.stop()
}
