//! `AuthorityService`.

use identity::{Credential, CredentialKind, NewAuthority, RevokedCertificate};
use proto::v1::authority_service_server::AuthorityService;
use proto::v1::{
    Authority, CertificateIdentity, CreateAuthorityRequest, DeleteAuthorityRequest, ListAuthoritiesRequest,
    ListAuthoritiesResponse, RevokeCertificateRequest,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by, id_of};
use crate::auth::Caller;
use crate::convert::{nanos, timestamp};
use crate::{errors, names};

/// Implementation of `AuthorityService`.
pub(crate) struct AuthorityApi(pub(crate) Shared);

fn authority(credential: &Credential) -> Authority {
    let mut authority = Authority {
        name: names::child(&credential.tenant, "authorities", credential.id.as_str()),
        expire_time: credential.expires.map(timestamp),
        create_time: Some(timestamp(credential.created)),
        ..Default::default()
    };
    if let CredentialKind::Authority(kept) = &credential.kind {
        authority.display_name.clone_from(&kept.display_name);
        authority.certificate.clone_from(&kept.certificate);
        authority.identity = match kept.identity {
            identity::CertificateIdentity::SanUri => CertificateIdentity::SanUri,
            identity::CertificateIdentity::SanDns => CertificateIdentity::SanDns,
            identity::CertificateIdentity::CommonName => CertificateIdentity::CommonName,
        }
        .into();
    }
    authority
}

fn identity_of(given: i32) -> Result<identity::CertificateIdentity, Status> {
    match CertificateIdentity::try_from(given) {
        Ok(CertificateIdentity::SanUri) => Ok(identity::CertificateIdentity::SanUri),
        Ok(CertificateIdentity::SanDns) => Ok(identity::CertificateIdentity::SanDns),
        Ok(CertificateIdentity::CommonName) => Ok(identity::CertificateIdentity::CommonName),
        Ok(CertificateIdentity::Unspecified) => Err(errors::invalid("authority.identity", "is required")),
        Err(_) => Err(errors::invalid("authority.identity", "is not one of CertificateIdentity")),
    }
}

#[tonic::async_trait]
impl AuthorityService for AuthorityApi {
    async fn create_authority(&self, request: Request<CreateAuthorityRequest>) -> Result<Response<Authority>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let given = request.authority.ok_or_else(|| errors::invalid("authority", "is required"))?;
        let expires = given.expire_time.as_ref().map(|time| nanos("authority.expire_time", time)).transpose()?;
        let new = NewAuthority {
            identity: identity_of(given.identity)?,
            display_name: given.display_name,
            certificate: given.certificate,
            proof: request.proof,
            expires,
        };
        let created = admin.create_authority(&tenant, &new, &by(&caller, &request.request_id)).await;
        let created = created.map_err(|error| {
            let name = match error {
                identity::Error::Exists(_) => request.parent.clone(),
                _ => String::new(),
            };
            Resource::Authority.refused(&request.parent, &name, error)
        })?;
        Ok(Response::new(authority(&created.row)))
    }

    async fn list_authorities(
        &self,
        request: Request<ListAuthoritiesRequest>,
    ) -> Result<Response<ListAuthoritiesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let listed = admin.list_authorities(&tenant, page.from, page.size).await;
        let listed = listed.map_err(|error| Resource::Authority.refused(&request.parent, "", error))?;
        Ok(Response::new(ListAuthoritiesResponse {
            next_page_token: page.next_after(&listed, |one| one.credential.id),
            authorities: listed.iter().map(|one| authority(&one.credential)).collect(),
        }))
    }

    async fn delete_authority(&self, request: Request<DeleteAuthorityRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let form = "must be `tenants/{tenant}/authorities/{authority}`";
        let (tenant, id) = caller.child("name", &name, "authorities", form)?;
        let admin = self.0.admin()?;
        let id = id_of(&name, id, &Resource::Authority)?;
        let deleted = admin.delete_authority(&tenant, id, &by(&caller, "")).await;
        deleted.map_err(|error| Resource::Authority.refused("", &name, error))?;
        Ok(Response::new(()))
    }

    async fn revoke_certificate(&self, request: Request<RevokeCertificateRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let revoked = RevokedCertificate { certificate: request.certificate };
        let made = admin.revoke_certificate(&tenant, &revoked, &by(&caller, "")).await;
        made.map_err(|error| {
            let name = match error {
                identity::Error::Exists(_) => request.parent.clone(),
                _ => String::new(),
            };
            Resource::RevokedCertificate.refused(&request.parent, &name, error)
        })?;
        Ok(Response::new(()))
    }
}
