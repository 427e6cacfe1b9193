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
use super::output::{self, Format, Table};
use super::{names, refused, time};

/// Entries of one page: more than a device has.
const PAGE: i32 = 1000;

pub(crate) async fn add_device(options: &DeviceAdd) -> anyhow::Result<()> {
    let DeviceName { common, device } = &options.name;
    let expire_time = options.expires.as_deref().map(expiry).transpose()?.map(time::to_proto);
    let key = options.key.as_deref().map(|file| read(file, "the public key")).transpose()?;
    let certificate = options.certificate.as_deref().map(|file| read(file, "the certificate")).transpose()?;
    let key = key.map(|pem| Proof::PublicKey(PublicKey { pem, ..Default::default() }));
    let proof = certificate.map(|pem| Proof::Certificate(ClientCertificate { pem, ..Default::default() })).or(key);
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
    if made.proof.is_some() {
        return print_key(&made, id, device, common.format);
    }
    if common.format == Format::Table {
        println!("user      {device}\npassword  {}", made.secret);
        output::remark(&format!(
            "The password is shown once (`weir devices revoke {device} {id}` deletes it). To try it:\n  mosquitto_pub -h \
             HOST -i {device} -u {device} -P {} -q 1 -t devices/{device}/telemetry -m '{{\"temperature\":21.5}}'",
            made.secret
        ));
        return Ok(());
    }
    let mut table = Table::new(["id", "user", "password"]);
    table.row([id.to_owned().into(), device.clone().into(), made.secret.clone().into()]);
    table.print(common.format)
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
    let name = format!("{}/credentials/{}", names::device(&common.tenant, device), options.id);
    let mut client = access(&common.server).await?;
    client.delete_device_credential(DeleteDeviceCredentialRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} of {device} is deleted; its session ends.", options.id));
    Ok(())
}
