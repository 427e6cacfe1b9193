//! Secrets and keys of devices: `weir devices add`, `secrets` and `revoke`.

use std::path::Path;

use anyhow::Context;
use proto::v1::device_credential::Proof;
use proto::v1::{
    ClientCertificate, CreateDeviceCredentialRequest, DeleteDeviceCredentialRequest, DeviceCredential,
    ListDeviceCredentialsRequest, PublicKey, SignatureAlgorithm,
};

use super::access::{access, expiry};
use super::access_cli::{DeviceAdd, DeviceName, DeviceRevoke};
use super::cli::Server;
use super::output::{self, Format, Table};
use super::{names, password, refused, time};

/// Entries of one page: more than a device has.
const PAGE: i32 = 1000;

pub(crate) async fn add_device(options: &DeviceAdd) -> anyhow::Result<()> {
    let DeviceName { common, device } = &options.name;
    let expire_time = options.expires.as_deref().map(expiry).transpose()?.map(time::to_proto);
    let key = options.key.as_deref().map(|file| read(file, "the public key")).transpose()?;
    let certificate = options.certificate.as_deref().map(|file| read(file, "the certificate")).transpose()?;
    let key = key.map(|pem| Proof::PublicKey(PublicKey { pem, ..Default::default() }));
    let request = options.proof.as_deref().map(|file| read(file, "the certification request")).transpose()?;
    let of = |pem| ClientCertificate { pem, proof: request.unwrap_or_default(), ..Default::default() };
    let proof = certificate.map(|pem| Proof::Certificate(of(pem))).or(key);
    let proof = match (options.password, options.password_stdin) {
        (false, false) => proof,
        (_, from_stdin) => Some(Proof::Password(password::read(from_stdin)?)),
    };
    let credential = DeviceCredential { expire_time, proof, ..Default::default() };
    let parent = names::device(&common.tenant, device);
    let request = CreateDeviceCredentialRequest { parent, device_credential: Some(credential), ..Default::default() };
    let mut client = access(&common.server).await?;
    let made = client.create_device_credential(request).await.map_err(|s| refused(&s))?.into_inner();
    let id = names::last(&made.name);
    if let Some(Proof::Certificate(certificate)) = &made.proof {
        let mut table = Table::new(["id", "user", "fingerprint"]);
        table.row([id.to_owned().into(), device.clone().into(), certificate.fingerprint.clone().into()]);
        return table.print(common.format);
    }
    if matches!(made.proof, Some(Proof::Password(_))) {
        let mut table = Table::new(["id", "user"]);
        table.row([id.to_owned().into(), user_of(&made.name).into()]);
        return table.print(common.format);
    }
    if made.proof.is_some() {
        return print_key(&made, id, device, common.format);
    }
    if common.format == Format::Table {
        println!("user      {device}\npassword  {}", made.secret);
        output::remark(&format!(
            "The password is shown once (`weir devices revoke {device} {id}` deletes it). To try it, at the usual port:\n  {}",
            publish(&common.server, device, &made.secret)
        ));
        return Ok(());
    }
    let mut table = Table::new(["id", "user", "password"]);
    table.row([id.to_owned().into(), device.clone().into(), made.secret.clone().into()]);
    table.print(common.format)
}

/// A command that publishes as the device, to the host that the commands of the operator call.
fn publish(Server { server, ca }: &Server, device: &str, password: &str) -> String {
    let (scheme, rest) = server.split_once("://").unwrap_or(("http", server));
    let (host, _) = stores::tls::host_and_port(rest.trim_end_matches('/'), 0);
    let mut words = ["mosquitto_pub", "-h", host.trim_matches(['[', ']'])].map(str::to_owned).to_vec();
    if scheme == "https" {
        words.extend(["-p", "8883"].map(str::to_owned));
        match ca {
            Some(ca) => words.extend(["--cafile".to_owned(), ca.display().to_string()]),
            None => words.push("--tls-use-os-certs".to_owned()),
        }
    }
    let topic = format!("devices/{device}/telemetry");
    let message = r#"{"temperature":21.5}"#;
    words.extend(
        ["-i", device, "-u", device, "-P", password, "-q", "1", "-t", &topic, "-m", message].map(str::to_owned),
    );
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns the user name of a device with a password: tenant and device, percent-encoded as in the
/// name of the credential.
fn user_of(name: &str) -> String {
    let mut parts = name.split('/').skip(1).step_by(2);
    format!("{}/{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Reads a file that has to have no private key.
pub(super) fn read(file: &Path, wanted: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    // A private key by mistake does not leave this machine.
    anyhow::ensure!(
        !text.contains("PRIVATE KEY"),
        "{} has a private key: give a file with {wanted} alone (openssl pkey -pubout writes a public key)",
        file.display()
    );
    Ok(text)
}

/// Prints what the device needs for its tokens.
fn print_key(made: &DeviceCredential, id: &str, device: &str, format: Format) -> anyhow::Result<()> {
    let tenant = made.name.split('/').nth(1).and_then(api::names::decode);
    let audience = format!("weir:{}", tenant.context("the answer names no tenant")?);
    let algorithm = kind(made);
    if format == Format::Table {
        println!("user      {device}\nalg       {algorithm}\nkid       {id}\naud       {audience}");
        output::remark(&format!(
            "The password is a JWT with these values, `iat` and an `exp` at most 24 hours later, signed with the \
             private key (`weir devices revoke {device} {id}` deletes the key)."
        ));
        return Ok(());
    }
    let mut table = Table::new(["id", "user", "algorithm", "audience"]);
    table.row([id.to_owned().into(), device.to_owned().into(), algorithm.to_owned().into(), audience.into()]);
    table.print(format)
}

/// The kind of a credential in a list: `secret`, or the algorithm of its key.
fn kind(credential: &DeviceCredential) -> &'static str {
    match &credential.proof {
        None => "secret",
        Some(Proof::Certificate(_)) => "certificate",
        Some(Proof::Password(_)) => "password",
        Some(Proof::PublicKey(key)) => match key.algorithm() {
            SignatureAlgorithm::Unspecified => "key",
            SignatureAlgorithm::Es256 => "ES256",
            SignatureAlgorithm::Eddsa => "EdDSA",
            SignatureAlgorithm::Rs256 => "RS256",
        },
    }
}

pub(crate) async fn secrets(options: &DeviceName) -> anyhow::Result<()> {
    let mut client = access(&options.common.server).await?;
    let request = ListDeviceCredentialsRequest {
        parent: names::device(&options.common.tenant, &options.device),
        page_size: PAGE,
        ..Default::default()
    };
    let page = client.list_device_credentials(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = Table::new(["id", "kind", "created", "expires", "last_use"]);
    for credential in &page.device_credentials {
        table.row([
            names::last(&credential.name).to_owned().into(),
            kind(credential).to_owned().into(),
            time::show_proto(credential.create_time.as_ref()).into(),
            time::show_proto(credential.expire_time.as_ref()).into(),
            time::show_proto(credential.last_use_time.as_ref()).into(),
        ]);
    }
    table.print(options.common.format)
}

pub(crate) async fn revoke(options: &DeviceRevoke) -> anyhow::Result<()> {
    let DeviceName { common, device } = &options.name;
    let name = names::credential(&common.tenant, device, &options.id);
    let mut client = access(&common.server).await?;
    client.delete_device_credential(DeleteDeviceCredentialRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} of {device} is deleted; its session ends.", options.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_command_reaches_the_server_that_was_called() {
        let line = |server: &str, ca: Option<&str>, device: &str| {
            publish(&Server { server: server.to_owned(), ca: ca.map(Into::into) }, device, "wd_1")
        };
        let rest = r#"-i d1 -u d1 -P wd_1 -q 1 -t devices/d1/telemetry -m '{"temperature":21.5}'"#;
        assert_eq!(line("http://127.0.0.1:50051", None, "d1"), format!("mosquitto_pub -h 127.0.0.1 {rest}"));
        let tls = format!("mosquitto_pub -h weir.example.com -p 8883 --cafile 'my ca.pem' {rest}");
        assert_eq!(line("https://weir.example.com:50051/", Some("my ca.pem"), "d1"), tls);
        let public = format!("mosquitto_pub -h ::1 -p 8883 --tls-use-os-certs {rest}");
        assert_eq!(line("https://[::1]", None, "d1"), public);
        assert!(line("localhost:50051", None, "d'1").contains(r"-u 'd'\''1' "));
    }
}
