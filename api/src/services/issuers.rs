//! `IssuerService`.

mod convert;

use proto::v1::issuer_service_server::IssuerService;
use proto::v1::{
    CreateIssuerRequest, CreateRoleBindingRequest, DeleteIssuerRequest, DeleteRoleBindingRequest, Issuer,
    ListIssuersRequest, ListIssuersResponse, ListRoleBindingsRequest, ListRoleBindingsResponse, RoleBinding,
    UpdateIssuerRequest, UpdateRoleBindingRequest,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by, id_of};
use crate::auth::Caller;
use crate::{errors, names};

/// Tries to change an issuer or a role binding that is being changed.
const UPDATES: usize = 5;

/// The form of the name of a role binding.
const BINDING_NAME: &str = "must be `tenants/{tenant}/roleBindings/{role_binding}`";

/// Implementation of `IssuerService`.
pub(crate) struct IssuerApi(pub(crate) Shared);

/// Refuses a caller whose credential is limited: what it creates would not be.
fn check_unlimited(caller: &Caller, permission: &str, name: &str) -> Result<(), Status> {
    let principal = caller.principal();
    let is_limited = principal.scopes.is_some() || !principal.networks.is_empty();
    if is_limited { Err(errors::denied(permission, name)) } else { Ok(()) }
}

#[tonic::async_trait]
impl IssuerService for IssuerApi {
    async fn create_issuer(&self, request: Request<CreateIssuerRequest>) -> Result<Response<Issuer>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        check_unlimited(&caller, "issuers.create", &request.parent)?;
        let issuer = request.issuer.ok_or_else(|| errors::invalid("issuer", "is required"))?;
        let issuer = convert::issuer_from(issuer, caller.principal().role)?;
        let id = identity::Issuer::id(&issuer.url, &issuer.audience);
        let created = admin.create_issuer(&tenant, issuer, &by(&caller, &request.request_id)).await;
        match created {
            Ok(created) => Ok(Response::new(convert::issuer(&created.row))),
            Err(identity::Error::Exists(_)) => {
                let name = names::child(&tenant, "issuers", id.as_str());
                let holder = admin.holder(id, &by(&caller, "")).await.ok().flatten();
                let place = holder.map_or("in this tenant or in another".to_owned(), |holder| {
                    format!("it is `{}`", names::child(&holder, "issuers", id.as_str()))
                });
                let message = format!(
                    "an issuer with this URL and audience exists already, {place}: let its tokens for this tenant have \
                     an audience of their own"
                );
                Err(errors::exists_as("ISSUER_EXISTS", &name, &message))
            }
            Err(error) => Err(Resource::Issuer.refused(&request.parent, "", error)),
        }
    }

    async fn update_issuer(&self, request: Request<UpdateIssuerRequest>) -> Result<Response<Issuer>, Status> {
        let caller = Caller::of(&request)?;
        let UpdateIssuerRequest { name, issuer, update_mask } = request.into_inner();
        let form = "must be `tenants/{tenant}/issuers/{issuer}`";
        let (tenant, id) = caller.child("name", &name, "issuers", form)?;
        let admin = self.0.admin()?;
        check_unlimited(&caller, "issuers.update", &name)?;
        let id = id_of(&name, id, &Resource::Issuer)?;
        let (given, by) = (issuer.unwrap_or_default(), by(&caller, ""));
        let paths = update_mask.unwrap_or_default().paths;
        let refused = |error| Resource::Issuer.refused("", &name, error);
        let mut tries = 0;
        loop {
            let present = admin.get_issuer(&tenant, id, &by).await.map_err(refused)?;
            let changed = convert::changed(convert::issuer(&present), &given, &paths)?;
            let changed = convert::issuer_from(changed, caller.principal().role)?;
            let etag = if given.etag.is_empty() { present.etag() } else { given.etag.clone() };
            match admin.update_issuer(&tenant, id, changed, &etag, &by).await {
                // Another field was changed meanwhile.
                Err(identity::Error::Conflict(_)) if given.etag.is_empty() && tries < UPDATES => tries += 1,
                updated => return Ok(Response::new(convert::issuer(&updated.map_err(refused)?))),
            }
        }
    }

    async fn list_issuers(
        &self,
        request: Request<ListIssuersRequest>,
    ) -> Result<Response<ListIssuersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let issuers = admin.list_issuers(&tenant, page.from, page.size).await;
        let issuers = issuers.map_err(|error| Resource::Issuer.refused(&request.parent, "", error))?;
        Ok(Response::new(ListIssuersResponse {
            next_page_token: page.next_after(&issuers, |issuer| issuer.credential.id),
            issuers: issuers.iter().map(|issuer| convert::issuer(&issuer.credential)).collect(),
        }))
    }

    async fn delete_issuer(&self, request: Request<DeleteIssuerRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let form = "must be `tenants/{tenant}/issuers/{issuer}`";
        let (tenant, id) = caller.child("name", &name, "issuers", form)?;
        let admin = self.0.admin()?;
        let id = id_of(&name, id, &Resource::Issuer)?;
        let deleted = admin.delete_issuer(&tenant, id, &by(&caller, "")).await;
        deleted.map_err(|error| Resource::Issuer.refused("", &name, error))?;
        Ok(Response::new(()))
    }

    async fn create_role_binding(
        &self,
        request: Request<CreateRoleBindingRequest>,
    ) -> Result<Response<RoleBinding>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        check_unlimited(&caller, "roleBindings.create", &request.parent)?;
        let binding = request.role_binding.ok_or_else(|| errors::invalid("role_binding", "is required"))?;
        let binding = convert::binding_from(&caller, &tenant, binding)?;
        let id = identity::RoleBinding::id(&tenant, &binding.principal);
        let created = admin.create_role_binding(&tenant, binding, &by(&caller, &request.request_id)).await;
        let created = created.map_err(|error| {
            let name = match error {
                identity::Error::Exists(_) => names::child(&tenant, "roleBindings", id.as_str()),
                _ => String::new(),
            };
            Resource::RoleBinding.refused(&request.parent, &name, error)
        })?;
        Ok(Response::new(convert::binding(&created.row)))
    }

    async fn list_role_bindings(
        &self,
        request: Request<ListRoleBindingsRequest>,
    ) -> Result<Response<ListRoleBindingsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let bindings = admin.list_role_bindings(&tenant, page.from, page.size).await;
        let bindings = bindings.map_err(|error| Resource::RoleBinding.refused(&request.parent, "", error))?;
        Ok(Response::new(ListRoleBindingsResponse {
            next_page_token: page.next_after(&bindings, |binding| binding.credential.id),
            role_bindings: bindings.iter().map(|binding| convert::binding(&binding.credential)).collect(),
        }))
    }

    async fn update_role_binding(
        &self,
        request: Request<UpdateRoleBindingRequest>,
    ) -> Result<Response<RoleBinding>, Status> {
        let caller = Caller::of(&request)?;
        let UpdateRoleBindingRequest { name, role_binding, update_mask } = request.into_inner();
        let (tenant, id) = caller.child("name", &name, "roleBindings", BINDING_NAME)?;
        let admin = self.0.admin()?;
        check_unlimited(&caller, "roleBindings.update", &name)?;
        let id = id_of(&name, id, &Resource::RoleBinding)?;
        let (given, by) = (role_binding.unwrap_or_default(), by(&caller, ""));
        let paths = update_mask.unwrap_or_default().paths;
        let refused = |error| Resource::RoleBinding.refused("", &name, error);
        let mut tries = 0;
        loop {
            let present = admin.get_role_binding(&tenant, id, &by).await.map_err(refused)?;
            let changed = convert::changed_binding(convert::binding(&present), &given, &paths)?;
            let changed = convert::binding_from(&caller, &tenant, changed)?;
            let etag = if given.etag.is_empty() { present.etag() } else { given.etag.clone() };
            match admin.update_role_binding(&tenant, id, changed, &etag, &by).await {
                // Another field was changed meanwhile.
                Err(identity::Error::Conflict(_)) if given.etag.is_empty() && tries < UPDATES => tries += 1,
                updated => return Ok(Response::new(convert::binding(&updated.map_err(refused)?))),
            }
        }
    }

    async fn delete_role_binding(&self, request: Request<DeleteRoleBindingRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let (tenant, id) = caller.child("name", &name, "roleBindings", BINDING_NAME)?;
        let admin = self.0.admin()?;
        let id = id_of(&name, id, &Resource::RoleBinding)?;
        let deleted = admin.delete_role_binding(&tenant, id, &by(&caller, "")).await;
        deleted.map_err(|error| Resource::RoleBinding.refused("", &name, error))?;
        Ok(Response::new(()))
    }
}
