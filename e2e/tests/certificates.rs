//! Devices with certificates, from registration to revocation.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use weir_e2e::keyed::Encrypted;
use weir_e2e::{checked, program};

struct Site<'a> {
    dir: &'a Path,
    weir: Encrypted,
}

fn run(dir: &Path, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
    checked(&format!("{command} {arguments:?}"), Command::new(command).current_dir(dir).args(arguments).output()?)
}

/// Weir with authentication and TLS; the authority `plant` is made with openssl.
fn start(dir: &Path) -> anyhow::Result<Site<'_>> {
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    run(dir, "openssl", &[&new[..], &["-subj", "/CN=Plant", "-keyout", "plant.key", "-out", "plant.pem"]].concat())?;
    Ok(Site { dir, weir: Encrypted::start(dir)? })
}

impl Site<'_> {
    /// Makes a certificate `{name}.pem` from the authority.
    fn issue(&self, name: &str, common_name: &str, extension: &str) -> anyhow::Result<()> {
        let (key, csr, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let subject = format!("/CN={common_name}");
        run(self.dir, "openssl", &[&new[..], &["-subj", &subject, "-keyout", &key, "-out", &csr]].concat())?;
        std::fs::write(self.dir.join("ext"), format!("authorityKeyIdentifier=keyid\n{extension}\n"))?;
        let sign = ["x509", "-req", "-CA", "plant.pem", "-CAkey", "plant.key", "-days", "1", "-extfile", "ext"];
        run(self.dir, "openssl", &[&sign[..], &["-in", &csr, "-out", &pem]].concat()).map(|_| ())
    }

    fn weir(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.weir_as(&self.weir.keyed.key, arguments)
    }

    fn weir_as(&self, key: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir")?);
        command.current_dir(self.dir).env("WEIR_API_KEY", key).args(arguments);
        Ok(command.args(["--server", &self.weir.url(), "--ca", "tls/ca.pem"]).output()?)
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        checked(&format!("weir {arguments:?}"), self.weir(arguments)?)
    }

    fn publish(&self, device: &str, name: &str) -> anyhow::Result<bool> {
        let topic = format!("devices/{device}/telemetry");
        let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-h",
            "localhost",
            "-p",
            &self.weir.mqtts.to_string(),
            "--cafile",
            "tls/ca.pem",
            "--cert",
            &pem,
            "--key",
            &key,
        ]);
        command.args(["-V", "mqttv311", "-q", "1", "-i", device, "-u", device, "-t", &topic, "-m", "{\"n\":1}"]);
        Ok(command.current_dir(self.dir).output()?.status.success())
    }
}

#[test]
fn devices_connect_with_pinned_certificates_and_with_those_of_an_authority_until_they_are_revoked() -> anyhow::Result<()>
{
    let dir = tempfile::tempdir()?;
    let site = start(dir.path())?;
    site.issue("pump-7", "pump-7", "subjectAltName=URI:urn:weir:default:pump-7")?;
    site.issue("pump-8", "pump-8", "keyUsage=digitalSignature")?;
    ensure!(!site.publish("pump-7", "pump-7")?, "a certificate of an unknown authority was admitted");
    // An administrator of the tenant shows that he has the key.
    let key = site.cli(&["keys", "add", "admin", "--role", "admin", "--format", "json"])?;
    let key: serde_json::Value = serde_json::from_str(&key)?;
    let (key, add) =
        (key["key"].as_str().context("a key")?, ["devices", "add", "pump-8", "--certificate", "pump-8.pem"]);
    let error = String::from_utf8(site.weir_as(key, &add)?.stderr)?;
    let code = error.split("common name ").nth(1).and_then(|rest| rest.split(' ').next());
    let subject = format!("/CN={}", code.with_context(|| error.clone())?);
    run(site.dir, "openssl", &["req", "-new", "-key", "pump-8.key", "-subj", &subject, "-out", "pump-8.proof"])?;
    checked("the proof", site.weir_as(key, &[&add[..], &["--proof", "pump-8.proof"]].concat())?)?;
    ensure!(site.publish("pump-8", "pump-8")?, "a pinned certificate was refused");
    ensure!(!site.publish("pump-7", "pump-8")?, "it was admitted for another device");
    let error = String::from_utf8(site.weir(&["authorities", "add", "plant.pem"])?.stderr)?;
    let code = error.split("common name ").nth(1).and_then(|rest| rest.split(' ').next());
    site.issue("proof", code.with_context(|| error.clone())?, "keyUsage=digitalSignature")?;
    site.cli(&["authorities", "add", "plant.pem", "--proof", "proof.pem", "--name", "Plant"])?;
    ensure!(site.cli(&["authorities", "list"])?.contains("Plant"));
    ensure!(site.publish("pump-7", "pump-7")?, "a certificate of the authority was refused");
    site.cli(&["authorities", "revoke", "pump-7.pem"])?;
    ensure!(!site.publish("pump-7", "pump-7")?, "a revoked certificate was admitted");
    ensure!(site.publish("pump-8", "pump-8")?, "another certificate was refused");
    let audit = site.cli(&["audit", "--format", "json"])?;
    for method in ["CreateAuthority", "RevokeCertificate", "CreateDeviceCredential"] {
        ensure!(audit.contains(method), "{method} in {audit}");
    }
    site.weir.keyed.weir.stop()
}
