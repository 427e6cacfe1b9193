//! `TenantService`.

use std::sync::Arc;

use identity::TenantState;
use proto::v1::tenant::State;
use proto::v1::tenant_service_server::TenantService;
use proto::v1::{
    CreateTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse, ResumeTenantRequest,
    SuspendTenantRequest, Tenant,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by};
use crate::auth::Caller;
use crate::convert::{page_size, timestamp};
use crate::token::{Kind, Query};
use crate::{errors, names};

/// Implementation of `TenantService`.
pub(crate) struct TenantApi(pub(crate) Shared);

/// The tenant of a name.
fn named(caller: &Caller, name: &str) -> Result<Arc<str>, Status> {
    let segment = names::split_tenant(name).ok_or_else(|| errors::invalid("name", "must be `tenants/{tenant}`"))?;
    caller.own("name", segment, name)
}

fn to_proto(tenant: &identity::Tenant) -> Tenant {
    let state = match tenant.state {
        TenantState::Active => State::Active,
        TenantState::Suspended => State::Suspended,
    };
    Tenant {
        name: names::tenant(&tenant.id),
        display_name: tenant.display_name.clone(),
        state: state.into(),
        create_time: Some(timestamp(tenant.created)),
    }
}

/// The answer about a tenant of this name.
fn answer(name: &str, tenant: Result<identity::Tenant, identity::Error>) -> Result<Response<Tenant>, Status> {
    match tenant {
        Ok(tenant) => Ok(Response::new(to_proto(&tenant))),
        Err(error) => Err(Resource::Tenant.refused("", name, error)),
    }
}

#[tonic::async_trait]
impl TenantService for TenantApi {
    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let admin = self.0.admin()?;
        let id = request.tenant_id;
        if id == names::OWN {
            return Err(errors::invalid("tenant_id", "must not be `-`, which stands for the caller's own tenant"));
        }
        let display_name = request.tenant.unwrap_or_default().display_name;
        let created = admin.create_tenant(&id, &display_name, &by(&caller, &request.request_id)).await;
        answer(&names::tenant(&id), created.map(|created| created.tenant))
    }

    async fn get_tenant(&self, request: Request<GetTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        answer(&name, admin.get_tenant(&tenant).await)
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        Caller::of(&request)?;
        let mut request = request.into_inner();
        let admin = self.0.admin()?;
        let size = page_size(std::mem::take(&mut request.page_size), 100, 1000)?;
        let page_token = std::mem::take(&mut request.page_token);
        let query = Query::new(&self.0.config.token_secret, Kind::Tenants, &request);
        let after = query.read_page(&page_token, |r| r.text()).map_err(|e| errors::token("page_token", e))?;
        let tenants = admin.list_tenants(&after.unwrap_or_default(), size).await;
        let tenants = tenants.map_err(|error| Resource::Tenant.refused("", "", error))?;
        let last = tenants.last().filter(|_| tenants.len() == size);
        Ok(Response::new(ListTenantsResponse {
            next_page_token: last.map(|tenant| query.page(|w| w.text(&tenant.id))).unwrap_or_default(),
            tenants: tenants.iter().map(to_proto).collect(),
        }))
    }

    async fn suspend_tenant(&self, request: Request<SuspendTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        // The operator would lock itself out, and could not resume it.
        if tenant == caller.principal().tenant {
            return Err(errors::invalid("name", "is the caller's own tenant, whose keys could not resume it"));
        }
        answer(&name, admin.suspend_tenant(&tenant, &by(&caller, "")).await)
    }

    async fn resume_tenant(&self, request: Request<ResumeTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        answer(&name, admin.resume_tenant(&tenant, &by(&caller, "")).await)
    }
}
