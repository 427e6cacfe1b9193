//! Devices with chosen passwords, and those that present the next token in an AUTH.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};
use weir_e2e::keyed::{Keyed, init, run};
use weir_e2e::{checked, node_folder, program, python};

const PASSWORD: &str = "correct horse battery";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Weir that accepts passwords.
fn start(dir: &Path) -> anyhow::Result<Keyed> {
    let key = init(dir)?;
    let file = dir.join("weir.toml");
    let text = std::fs::read_to_string(&file)?.replace("required = true", "required = true\npasswords = true");
    std::fs::write(&file, text)?;
    Ok(Keyed { weir: run(dir)?, key })
}

/// `weir devices add DEVICE --password-stdin`.
fn add(site: &Keyed, device: &str, input: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(program("weir")?);
    command.args(["devices", "add", device, "--password-stdin", "--format", "json", "--server", &site.weir.url()]);
    command.env("WEIR_API_KEY", &site.key).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

#[test]
fn a_device_connects_with_a_password_from_standard_input_until_it_is_revoked() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = start(dir.path())?;
    let answer = checked("weir devices add", add(&site, "pump-7", &format!("{PASSWORD}\n"))?)?;
    let answer: serde_json::Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
    ensure!(answer["user"] == "default/pump-7", "{answer}");
    let id = answer["id"].as_str().context("an id")?.to_owned();
    for (device, input, expected) in [
        ("pump-7", "another password\n", "already"),
        ("pump-8", "short\n", "8 to 128"),
        ("pump-8", "password1\n", "guessed"),
        ("pump-8", "one line\nand another\n", "several lines"),
    ] {
        let refused = add(&site, device, input)?;
        let error = String::from_utf8(refused.stderr)?;
        ensure!(!refused.status.success() && error.contains(expected), "{input:?}: {error}");
    }
    let topic = "devices/pump-7/telemetry";
    for user in ["default/pump-7", "pump-7"] {
        for version in ["mqttv311", "mqttv5"] {
            let own = site.publish(version, Some((user, PASSWORD)), "pump-7", topic)?;
            checked("the device publishes", own)?;
            let wrong = site.publish(version, Some((user, "wrong horse battery")), "pump-7", topic)?;
            ensure!(!wrong.status.success(), "{user} {version}: a wrong password was admitted");
        }
    }
    ensure!(!site.publish("mqttv5", Some(("other/pump-7", PASSWORD)), "pump-7", topic)?.status.success());
    site.weir.kill()?;
    site.weir = run(dir.path())?;
    checked("after a kill", site.publish("mqttv5", Some(("pump-7", PASSWORD)), "pump-7", topic)?)?;
    ensure!(site.cli(&site.key, &["devices", "secrets", "pump-7"])?.contains("password"));
    site.cli(&site.key, &["devices", "revoke", "pump-7", &id])?;
    ensure!(!site.publish("mqttv5", Some(("pump-7", PASSWORD)), "pump-7", topic)?.status.success(), "it was revoked");
    checked("another one", add(&site, "pump-7", "another password")?)?;
    checked("it is valid", site.publish("mqttv5", Some(("pump-7", "another password")), "pump-7", topic)?)?;
    let log = std::fs::read_to_string(dir.path().join("weir.log"))?;
    ensure!(!log.contains(PASSWORD) && !log.contains("another password"), "a password is in the log");
    site.weir.stop()
}

#[test]
fn a_password_is_typed_twice_at_the_terminal_and_not_shown() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = start(dir.path())?;
    let typed = |second: &str| {
        let mut command = Command::new(python()?);
        command.arg(script("type_password.py")).args([PASSWORD, second]).arg(program("weir")?);
        command.args(["devices", "add", "pump-7", "--password", "--server", &site.weir.url()]);
        anyhow::Ok(command.env("WEIR_API_KEY", &site.key).output()?)
    };
    let other = typed("another password")?;
    let shown = String::from_utf8_lossy(&other.stdout).into_owned();
    ensure!(!other.status.success() && shown.contains("not the same"), "{shown}");
    let shown = checked("weir devices add", typed(PASSWORD)?)?;
    ensure!(shown.contains("default/pump-7") && !shown.contains(PASSWORD), "{shown}");
    let own = site.publish("mqttv5", Some(("pump-7", PASSWORD)), "pump-7", "devices/pump-7/telemetry")?;
    checked("the device publishes", own)?;
    // Off, the same password is refused as any other.
    let (key, file) = (site.key, dir.path().join("weir.toml"));
    site.weir.stop()?;
    std::fs::write(&file, std::fs::read_to_string(&file)?.replace("passwords = true", "passwords = false"))?;
    let site = Keyed { weir: run(dir.path())?, key };
    let off = site.publish("mqttv5", Some(("pump-7", PASSWORD)), "pump-7", "devices/pump-7/telemetry")?;
    ensure!(!off.status.success(), "passwords are off");
    let refused = String::from_utf8(add(&site, "pump-8", PASSWORD)?.stderr)?;
    ensure!(refused.contains("auth.passwords"), "{refused}");
    site.weir.stop()
}

/// Runs openssl.
fn openssl(dir: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    checked(&format!("openssl {arguments:?}"), Command::new("openssl").current_dir(dir).args(arguments).output()?)
        .map(drop)
}

#[test]
fn mqttjs_presents_its_next_token_and_stays_connected() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = init(dir.path())?;
    let site = Keyed { weir: run(dir.path())?, key };
    openssl(dir.path(), &["genpkey", "-algorithm", "ed25519", "-out", "key.pem"])?;
    openssl(dir.path(), &["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"])?;
    let public = dir.path().join("public.pem");
    let answer = site.json(&site.key, &["devices", "add", "pump-7", "--key", public.to_str().context("UTF-8")?])?;
    let mut command = Command::new("node");
    command.env("NODE_PATH", node_folder()?.join("node_modules")).arg(script("mqttjs_auth.js"));
    command.args(["127.0.0.1", &site.weir.mqtt.port().to_string()]).arg(dir.path().join("key.pem"));
    let shown = checked("mqttjs_auth.js", command.arg(answer["id"].as_str().context("an id")?).output()?)?;
    ensure!(shown.trim() == "done", "{shown}");
    let metrics = site.weir.get("/metrics")?;
    ensure!(metrics.contains("token_refused"), "{metrics}");
    site.weir.stop()
}
