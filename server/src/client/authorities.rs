//! `weir authorities`.

use proto::v1::authority_service_client::AuthorityServiceClient;
use proto::v1::{
    Authority, CertificateIdentity, CreateAuthorityRequest, DeleteAuthorityRequest, ListAuthoritiesRequest,
    RevokeCertificateRequest,
};

use super::access::{PAGE, expiry};
use super::authorities_cli::{
    Authorities, AuthoritiesCommand, AuthoritiesList, AuthorityAdd, AuthorityId, CertificateFile, IdentityPart,
};
use super::cli::Server;
use super::device_access::read;
use super::output::{self, Table};
use super::{Connection, client, connect, names, refused, time};

pub(crate) async fn authorities(options: &Authorities) -> anyhow::Result<()> {
    match &options.command {
        AuthoritiesCommand::List(options) => list(options).await,
        AuthoritiesCommand::Add(options) => add(options).await,
        AuthoritiesCommand::Delete(options) => delete(options).await,
        AuthoritiesCommand::Revoke(options) => revoke(options).await,
    }
}

async fn open(server: &Server) -> anyhow::Result<AuthorityServiceClient<Connection>> {
    Ok(client!(AuthorityServiceClient<_>, connect(server).await?))
}

fn table() -> Table {
    Table::new(["id", "name", "identity", "created", "expires"])
}

fn row(table: &mut Table, authority: &Authority) {
    let identity = match authority.identity() {
        CertificateIdentity::Unspecified => "",
        CertificateIdentity::SanUri => "san-uri",
        CertificateIdentity::SanDns => "san-dns",
        CertificateIdentity::CommonName => "common-name",
    };
    table.row([
        names::last(&authority.name).to_owned().into(),
        authority.display_name.clone().into(),
        identity.to_owned().into(),
        time::show_proto(authority.create_time.as_ref()).into(),
        time::show_proto(authority.expire_time.as_ref()).into(),
    ]);
}

async fn list(options: &AuthoritiesList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let (mut table, mut page_token) = (table(), String::new());
    loop {
        let parent = names::tenant(&options.common.tenant);
        let request = ListAuthoritiesRequest { parent, page_size: PAGE, page_token };
        let page = client.list_authorities(request).await.map_err(|s| refused(&s))?.into_inner();
        page.authorities.iter().for_each(|authority| row(&mut table, authority));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(options.common.format);
        }
    }
}

async fn add(options: &AuthorityAdd) -> anyhow::Result<()> {
    let identity = match options.identity {
        IdentityPart::SanUri => CertificateIdentity::SanUri,
        IdentityPart::SanDns => CertificateIdentity::SanDns,
        IdentityPart::CommonName => CertificateIdentity::CommonName,
    };
    let authority = Authority {
        display_name: options.name.clone(),
        certificate: read(&options.certificate, "the certificate")?,
        identity: identity.into(),
        expire_time: options.expires.as_deref().map(expiry).transpose()?.map(time::to_proto),
        ..Default::default()
    };
    let proof = options.proof.as_deref().map(|file| read(file, "the certificate")).transpose()?;
    let request = CreateAuthorityRequest {
        parent: names::tenant(&options.common.tenant),
        authority: Some(authority),
        proof: proof.unwrap_or_default(),
        ..Default::default()
    };
    let mut client = open(&options.common.server).await?;
    let made = client.create_authority(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = table();
    row(&mut table, &made);
    table.print(options.common.format)
}

async fn delete(options: &AuthorityId) -> anyhow::Result<()> {
    let name = names::child(&options.common.tenant, "authorities", &options.id);
    let mut client = open(&options.common.server).await?;
    client.delete_authority(DeleteAuthorityRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} is deleted; the sessions of its certificates end.", options.id));
    Ok(())
}

async fn revoke(options: &CertificateFile) -> anyhow::Result<()> {
    let certificate = read(&options.certificate, "the certificate")?;
    let parent = names::tenant(&options.common.tenant);
    let mut client = open(&options.common.server).await?;
    client.revoke_certificate(RevokeCertificateRequest { parent, certificate }).await.map_err(|s| refused(&s))?;
    output::remark("The certificate is revoked; its sessions end.");
    Ok(())
}
