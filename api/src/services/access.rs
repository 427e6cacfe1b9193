//! `AccessService`.

mod convert;

use identity::{Admin, CredentialId, NewApiKey, NewDeviceCertificate, NewDevicePassword, Role};
use proto::v1::access_service_server::AccessService;
use proto::v1::device_credential::Proof;
use proto::v1::{
    ApiKey, CallerIdentity, CreateApiKeyRequest, CreateDeviceCredentialRequest, DeleteApiKeyRequest,
    DeleteDeviceCredentialRequest, DeviceCredential, GetCallerIdentityRequest, ListApiKeysRequest, ListApiKeysResponse,
    ListDeviceCredentialsRequest, ListDeviceCredentialsResponse,
};
use tonic::{Request, Response, Status};

use super::registry::{Resource, by, id_of};
use super::{Shared, groups};
use crate::auth::Caller;
use crate::{errors, names};

pub(super) use convert::{role, role_from};

/// Implementation of `AccessService`.
pub(crate) struct AccessApi(pub(crate) Shared);

/// Refuses scopes that the caller does not hold, and a key without scopes by a caller with some.
fn check_scopes(caller: &Caller, scopes: &[String]) -> Result<(), Status> {
    let principal = caller.principal();
    if principal.scopes.is_some() && scopes.is_empty() {
        let hint = "is required, since the credential of the caller is limited to scopes";
        return Err(errors::invalid("api_key.scopes", hint));
    }
    match scopes.iter().find(|scope| Role::is_permission(scope) && !principal.holds(scope)) {
        Some(scope) => Err(errors::invalid("api_key.scopes", format!("the caller does not hold `{scope}`"))),
        None => Ok(()),
    }
}

/// Refuses networks that the caller is not valid from, and a key without networks by a caller with
/// some.
fn check_networks(caller: &Caller, networks: &[String]) -> Result<(), Status> {
    const FIELD: &str = "api_key.allowed_networks";
    let principal = caller.principal();
    if !principal.networks.is_empty() && networks.is_empty() {
        return Err(errors::invalid(FIELD, "is required, since the credential of the caller is limited to networks"));
    }
    if networks.iter().all(|network| principal.is_valid_from(network)) {
        return Ok(());
    }
    Err(errors::invalid(FIELD, "is not within the networks that the credential of the caller is limited to"))
}

/// Refuses the deletion of a key whose role is above that of the caller.
async fn check_role(admin: &Admin, caller: &Caller, tenant: &str, id: CredentialId, name: &str) -> Result<(), Status> {
    let own = caller.principal().role;
    if own == Role::Installation {
        return Ok(());
    }
    let key = admin.get_api_key(tenant, id).await;
    let key = key.map_err(|error| Resource::ApiKey.refused("", name, error))?;
    let above = key.credential.rights().is_some_and(|rights| rights.role > own);
    if above { Err(errors::denied("apiKeys.delete", name)) } else { Ok(()) }
}

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn get_caller_identity(
        &self,
        request: Request<GetCallerIdentityRequest>,
    ) -> Result<Response<CallerIdentity>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(convert::caller(caller.principal())))
    }

    async fn create_api_key(&self, request: Request<CreateApiKeyRequest>) -> Result<Response<ApiKey>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let key = request.api_key.ok_or_else(|| errors::invalid("api_key", "is required"))?;
        check_scopes(&caller, &key.scopes)?;
        check_networks(&caller, &key.allowed_networks)?;
        let key = NewApiKey {
            groups: groups::ids(&caller, "api_key.groups", &tenant, &key.groups)?,
            role: convert::role_from("api_key.role", key.role)?,
            expires: convert::expires("api_key.expire_time", key.expire_time.as_ref())?,
            display_name: key.display_name,
            scopes: key.scopes,
            allowed_networks: key.allowed_networks,
        };
        let created = admin.create_api_key(&tenant, key, &by(&caller, &request.request_id)).await;
        let created = created.map_err(|error| Resource::ApiKey.refused(&request.parent, "", error))?;
        let mut key = convert::api_key(&created.credential, None);
        key.secret = created.secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
        Ok(Response::new(key))
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let keys = admin.list_api_keys(&tenant, page.from, page.size).await;
        let keys = keys.map_err(|error| Resource::ApiKey.refused(&request.parent, "", error))?;
        Ok(Response::new(ListApiKeysResponse {
            next_page_token: page.next_after(&keys, |key| key.credential.id),
            api_keys: keys.iter().map(|key| convert::api_key(&key.credential, key.last_use)).collect(),
        }))
    }

    async fn delete_api_key(&self, request: Request<DeleteApiKeyRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let form = "must be `tenants/{tenant}/apiKeys/{api_key}`";
        let (tenant, id) = caller.child("name", &name, "apiKeys", form)?;
        let admin = self.0.admin()?;
        let id = id_of(&name, id, &Resource::ApiKey)?;
        check_role(admin, &caller, &tenant, id, &name).await?;
        let deleted = admin.delete_api_key(&tenant, id, &by(&caller, "")).await;
        deleted.map_err(|error| Resource::ApiKey.refused("", &name, error))?;
        Ok(Response::new(()))
    }

    async fn create_device_credential(
        &self,
        request: Request<CreateDeviceCredentialRequest>,
    ) -> Result<Response<DeviceCredential>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let device = caller.device("parent", &mut request.parent)?;
        let admin = self.0.admin()?;
        let wanted = request.device_credential.unwrap_or_default();
        let expires = convert::expires("device_credential.expire_time", wanted.expire_time.as_ref())?;
        let by = by(&caller, &request.request_id);
        let refused = |error| {
            let (name, error) = match error {
                identity::Error::Exists(_) => (&*request.parent, error),
                // The reason names another device.
                identity::Error::Invalid { field: "device", .. } if !caller.visible().is_everything() => {
                    let reason = "a device that connects cannot have this id, or its client ids would clash with \
                                  those of another one";
                    ("", identity::Error::Invalid { field: "device", reason: reason.into() })
                }
                error => ("", error),
            };
            Resource::DeviceCredential.refused(&request.parent, name, error)
        };
        let created = match wanted.proof {
            Some(Proof::PublicKey(key)) => {
                let key = convert::public_key(key, expires)?;
                Some(admin.create_device_key(&device.tenant, &device.id, &key, &by).await)
            }
            Some(Proof::Certificate(certificate)) => {
                let new = NewDeviceCertificate { certificate: certificate.pem, proof: certificate.proof, expires };
                Some(admin.create_device_certificate(&device.tenant, &device.id, &new, &by).await)
            }
            Some(Proof::Password(password)) => {
                let new = NewDevicePassword { password: password.into(), expires };
                Some(admin.create_device_password(&device.tenant, &device.id, &new, &by).await)
            }
            None => None,
        };
        if let Some(created) = created {
            return Ok(Response::new(convert::device_credential(&created.map_err(refused)?, None)));
        }
        let created = admin.create_device_secret(&device.tenant, &device.id, expires, &by).await.map_err(refused)?;
        let mut credential = convert::device_credential(&created.credential, None);
        credential.secret = created.secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
        Ok(Response::new(credential))
    }

    async fn list_device_credentials(
        &self,
        request: Request<ListDeviceCredentialsRequest>,
    ) -> Result<Response<ListDeviceCredentialsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let device = caller.device("parent", &mut request.parent)?;
        let admin = self.0.admin()?;
        let page = self.0.page(&mut request)?;
        let after = page.from.map(|id| (&*device.id, id));
        let listed = admin.list_device_credentials(&device.tenant, Some(&device.id), after, page.size).await;
        let listed = listed.map_err(|error| Resource::DeviceCredential.refused(&request.parent, "", error))?;
        Ok(Response::new(ListDeviceCredentialsResponse {
            next_page_token: page.next_after(&listed, |of| of.credential.id),
            device_credentials: listed
                .iter()
                .map(|of| convert::device_credential(&of.credential, of.last_use))
                .collect(),
        }))
    }

    async fn delete_device_credential(
        &self,
        request: Request<DeleteDeviceCredentialRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request)?;
        let name = request.into_inner().name;
        let form = "must be `tenants/{tenant}/devices/{device}/credentials/{credential}`, percent-encoded";
        let shape = || errors::invalid("name", form);
        let (tenant, device, id) = names::split_credential(&name).ok_or_else(shape)?;
        let tenant = caller.own("name", tenant, &name)?;
        let device = names::decode(device).ok_or_else(shape)?;
        let visible = caller.visible();
        if !visible.has(&device) {
            return Err(visible.denied(&name));
        }
        let admin = self.0.admin()?;
        let resource = Resource::DeviceCredential;
        let id = id_of(&name, id, &resource)?;
        let deleted = admin.delete_device_credential(&tenant, &device, id, &by(&caller, "")).await;
        deleted.map_err(|error| match error {
            identity::Error::Invalid { field: "device", reason } => errors::invalid("name", reason),
            other => resource.refused("", &name, other),
        })?;
        Ok(Response::new(()))
    }
}
