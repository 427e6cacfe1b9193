//! New credentials of a fleet, which Weir accepts.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::authority_service_client::AuthorityServiceClient;
use proto::v1::{
    Authority, CertificateIdentity, CreateAuthorityRequest, CreateDeviceCredentialRequest, DeviceCredential,
    ListAuthoritiesRequest, PublicKey, device_credential,
};
use tonic::Code;

use super::file::Writer;
use super::{Credential, Kind};
use crate::oracle::{self, Weir};

/// Calls at one time.
const PARALLEL: usize = 64;

/// The new credentials: their kind, and where they come from.
#[derive(Debug)]
pub struct Created<'a> {
    /// Their kind.
    pub kind: Kind,
    /// Tenant of the devices.
    pub tenant: &'a str,
    /// Folder with `ca.pem` and `ca.key` of the authority of certificates; made when they are
    /// missing.
    pub authority: &'a Path,
}

/// Creates a credential of each device, and writes it to `out` as a line of CSV. Secrets and keys
/// are created in Weir one by one; of certificates, Weir has to know the authority only.
///
/// # Errors
/// When a call fails: credentials that were written before are valid.
pub async fn create(
    weir: &Weir,
    created: &Created<'_>,
    devices: impl IntoIterator<Item = String>,
    out: impl Write,
) -> anyhow::Result<()> {
    let mut out = Writer::new(created.kind, out)?;
    if created.kind == Kind::Certificate {
        let authority = tls::Authority::open_or_create(created.authority)?;
        register(weir, created.tenant, &authority).await.context("register the authority")?;
        for device in devices {
            let identity = authority.client(&device).with_context(|| format!("the device {device}"))?;
            out.write(&device, &Credential::Certificate(identity))?;
        }
        return out.end();
    }
    let made = stream::iter(devices).map(async |device| {
        let credential = one(weir, created, &device).await;
        let credential = credential.with_context(|| format!("create a credential of the device {device}"))?;
        anyhow::Ok((device, credential))
    });
    let mut made = std::pin::pin!(made.buffered(PARALLEL));
    while let Some((device, credential)) = made.try_next().await? {
        out.write(&device, &credential)?;
    }
    out.end()
}

async fn one(weir: &Weir, created: &Created<'_>, device: &str) -> anyhow::Result<Credential> {
    let Created { kind, tenant, .. } = created;
    let parent = oracle::device_name(tenant, device);
    let keys = (*kind == Kind::Jwt).then(tls::create_keys).transpose()?;
    let (key, proof) = keys.map_or((None, None), |keys| {
        let proof = device_credential::Proof::PublicKey(PublicKey { pem: keys.public, ..Default::default() });
        (Some(keys.private), Some(proof))
    });
    let device_credential = Some(DeviceCredential { proof, ..Default::default() });
    let request = CreateDeviceCredentialRequest { parent, device_credential, ..Default::default() };
    let mut client = AccessServiceClient::new(weir.channel());
    let made = client.create_device_credential(weir.request(request)).await?.into_inner();
    Ok(match key {
        None => Credential::Password(made.secret.into()),
        Some(key) => {
            let id = made.name.rsplit('/').next().unwrap_or_default();
            Credential::Key { tenant: (*tenant).into(), id: id.into(), key: key.into() }
        }
    })
}

/// Registers the authority in Weir unless it is known, with a proof of its key.
async fn register(weir: &Weir, tenant: &str, authority: &tls::Authority) -> anyhow::Result<()> {
    let mut client = AuthorityServiceClient::new(weir.channel());
    let request = |proof: String| CreateAuthorityRequest {
        parent: format!("tenants/{tenant}"),
        authority: Some(Authority {
            display_name: "weir-sim".to_owned(),
            certificate: authority.certificate().to_owned(),
            identity: CertificateIdentity::CommonName.into(),
            ..Default::default()
        }),
        proof,
        ..Default::default()
    };
    let status = match client.create_authority(weir.request(request(String::new()))).await {
        Ok(_) => return Ok(()),
        Err(status) => status,
    };
    // The message has the common name that the proof needs.
    let code = status.message().split("common name ").nth(1).and_then(|rest| rest.split(' ').next());
    let status = match code.filter(|_| status.code() == Code::InvalidArgument) {
        None => status,
        Some(code) => match client.create_authority(weir.request(request(authority.proof(code)?))).await {
            Ok(_) => return Ok(()),
            Err(status) => status,
        },
    };
    if status.code() != Code::AlreadyExists {
        bail!(status);
    }
    // A second fleet has the authority of the first.
    let request = ListAuthoritiesRequest { parent: format!("tenants/{tenant}"), page_size: 1000, ..Default::default() };
    let known = client.list_authorities(weir.request(request)).await?.into_inner().authorities;
    let own = authority.certificate().trim();
    ensure!(
        known.iter().any(|known| known.certificate.trim() == own),
        "another tenant has this authority: name another folder with --authority"
    );
    Ok(())
}
