//! `TenantService`.

mod deletion;
mod limits;

use std::sync::Arc;

use identity::{Error, TenantState};
use proto::v1::tenant::{DeviceAdmission, State};
use proto::v1::tenant_service_server::TenantService;
use proto::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantDeletionRequest, GetTenantRequest, GetTenantUsageRequest,
    ListTenantsRequest, ListTenantsResponse, ResumeTenantRequest, SuspendTenantRequest, Tenant, TenantDeletion,
    TenantUsage, UndeleteTenantRequest, UpdateTenantRequest,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by, version};
use crate::auth::Caller;
use crate::convert::timestamp;
use crate::{errors, names};
use limits::Change;

/// Tries to change one limit of a tenant whose others are being changed.
const UPDATES: usize = 5;

/// Implementation of `TenantService`.
pub(crate) struct TenantApi(pub(crate) Shared);

/// The tenant of a name.
fn named(caller: &Caller, name: &str) -> Result<Arc<str>, Status> {
    let segment = names::split_tenant(name).ok_or_else(|| errors::invalid("name", "must be `tenants/{tenant}`"))?;
    caller.own("name", segment, name)
}

fn state_of(tenant: &identity::Tenant) -> State {
    match tenant.state {
        TenantState::Active => State::Active,
        TenantState::Suspended => State::Suspended,
        TenantState::Deleting => State::Deleting,
        TenantState::Purging => State::Purging,
        TenantState::Deleted => State::Deleted,
    }
}

fn to_proto(tenant: &identity::Tenant) -> Tenant {
    let state = state_of(tenant);
    let deletion = tenant.deletion.as_deref();
    Tenant {
        name: names::tenant(&tenant.id),
        display_name: tenant.display_name.clone(),
        state: state.into(),
        create_time: Some(timestamp(tenant.created)),
        limits: Some(crate::limits::to_proto(&tenant.limits)),
        etag: tenant.version.to_string(),
        features: tenant.features.clone().into_iter().collect(),
        delete_time: deletion.map(|deletion| timestamp(deletion.requested)),
        purge_time: deletion.map(|deletion| timestamp(deletion.purge)),
        pool: tenant.pool.clone().unwrap_or_default(),
        device_admission: match tenant.device_admission {
            identity::DeviceAdmission::Auto => DeviceAdmission::Auto,
            identity::DeviceAdmission::Refuse => DeviceAdmission::Refuse,
            identity::DeviceAdmission::Quarantine => DeviceAdmission::Quarantine,
        }
        .into(),
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
        let Tenant { display_name, pool, .. } = request.tenant.unwrap_or_default();
        let (pool, by) = (Some(&*pool).filter(|pool| !pool.is_empty()), by(&caller, &request.request_id));
        let created = admin.create_tenant_in(&id, &display_name, pool, &by).await;
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
        let page = self.0.page(&mut request)?;
        let tenants = admin.list_tenants(page.from.as_deref().unwrap_or_default(), page.size).await;
        let tenants = tenants.map_err(|error| Resource::Tenant.refused("", "", error))?;
        let is_shown = |tenant: &&identity::Tenant| request.show_deleted || tenant.state != TenantState::Deleted;
        Ok(Response::new(ListTenantsResponse {
            next_page_token: page.next_after(&tenants, |tenant| tenant.id.clone()),
            tenants: tenants.iter().filter(is_shown).map(to_proto).collect(),
        }))
    }

    async fn update_tenant(&self, request: Request<UpdateTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let admin = self.0.admin()?;
        let given = request.tenant.unwrap_or_default();
        let tenant = named(&caller, &given.name)?;
        let change = Change::read(&given, &request.update_mask.unwrap_or_default().paths)?;
        let by = by(&caller, "");
        let update = async || {
            let present = if change.needs_present() { Some(admin.get_tenant(&tenant).await?) } else { None };
            admin.update_tenant(&tenant, &change.update(present.as_ref()), &by).await
        };
        let mut updated = update().await;
        for _ in 1..UPDATES {
            if !(matches!(updated, Err(Error::Conflict(_))) && change.is_repeatable()) {
                break;
            }
            // Another limit was changed meanwhile.
            updated = update().await;
        }
        answer(&given.name, updated)
    }

    async fn get_tenant_usage(&self, request: Request<GetTenantUsageRequest>) -> Result<Response<TenantUsage>, Status> {
        let caller = Caller::of(&request)?;
        let mut name = request.into_inner().name;
        let tenant = caller.tenant(&mut name)?;
        match self.0.admin()?.tenant_usage(&tenant).await {
            Ok((tenant, usage)) => Ok(Response::new(limits::usage(&tenant, usage))),
            Err(error) => Err(Resource::Tenant.refused("", &name, error)),
        }
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

    async fn delete_tenant(&self, request: Request<DeleteTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let DeleteTenantRequest { name, etag, reason, purge_time } = request.into_inner();
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        if tenant == caller.principal().tenant {
            return Err(errors::invalid("name", "is the caller's own tenant, whose keys could not restore it"));
        }
        let version = version("a tenant", "etag", &etag)?;
        let purge = purge_time.map(|time| deletion::time("purge_time", &time)).transpose()?;
        answer(&name, admin.delete_tenant(&tenant, &reason, purge, version, &by(&caller, "")).await)
    }

    async fn undelete_tenant(&self, request: Request<UndeleteTenantRequest>) -> Result<Response<Tenant>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        answer(&name, admin.undelete_tenant(&tenant, &by(&caller, "")).await)
    }

    async fn get_tenant_deletion(
        &self,
        request: Request<GetTenantDeletionRequest>,
    ) -> Result<Response<TenantDeletion>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let admin = self.0.admin()?;
        let tenant = named(&caller, &name)?;
        match admin.tenant_deletion(&tenant).await {
            Ok((tenant, found)) => Ok(Response::new(deletion::to_proto(&tenant, found))),
            Err(error) => Err(Resource::Tenant.refused("", &name, error)),
        }
    }
}
