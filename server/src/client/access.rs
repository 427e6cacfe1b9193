//! `weir keys` and `weir tenants`.

mod deletion;
mod limits;

use model::Nanos;
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::tenant_service_client::TenantServiceClient;
use proto::v1::{
    ApiKey, CreateApiKeyRequest, CreateTenantRequest, DeleteApiKeyRequest, ListApiKeysRequest, ListTenantsRequest,
    ResumeTenantRequest, Role, SuspendTenantRequest, Tenant, tenant,
};

use super::access_cli::{
    KeyAdd, KeyId, Keys, KeysCommand, KeysList, RoleName, TenantAdd, TenantId, Tenants, TenantsCommand, TenantsList,
};
use super::cli::Server;
use super::output::{self, Cell, Format, Table};
use super::{Connection, client, connect, groups, names, refused, time};

/// Validity of a key without `--expires`.
const YEAR: &str = "365d";
/// Entries of one page.
pub(super) const PAGE: i32 = 1000;

pub(crate) async fn keys(options: &Keys) -> anyhow::Result<()> {
    match &options.command {
        KeysCommand::List(options) => list_keys(options).await,
        KeysCommand::Add(options) => add_key(options).await,
        KeysCommand::Delete(options) => delete_key(options).await,
    }
}

pub(super) async fn access(server: &Server) -> anyhow::Result<AccessServiceClient<Connection>> {
    Ok(client!(AccessServiceClient<_>, connect(server).await?))
}

async fn list_keys(options: &KeysList) -> anyhow::Result<()> {
    let mut client = access(&options.common.server).await?;
    let mut table =
        Table::new(["id", "name", "role", "groups", "scopes", "networks", "created", "expires", "last_use"]);
    let mut page_token = String::new();
    loop {
        let request = ListApiKeysRequest { parent: names::tenant(&options.common.tenant), page_size: PAGE, page_token };
        let page = client.list_api_keys(request).await.map_err(|s| refused(&s))?.into_inner();
        page.api_keys.iter().for_each(|key| table.row(key_row(key)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(options.common.format);
        }
    }
}

fn key_row(key: &ApiKey) -> [Cell; 9] {
    [
        names::last(&key.name).to_owned().into(),
        key.display_name.clone().into(),
        role_name(key.role()).to_owned().into(),
        groups::ids_of(&key.groups).into(),
        key.scopes.join(" ").into(),
        key.allowed_networks.join(" ").into(),
        time::show_proto(key.create_time.as_ref()).into(),
        time::show_proto(key.expire_time.as_ref()).into(),
        time::show_proto(key.last_use_time.as_ref()).into(),
    ]
}

async fn add_key(options: &KeyAdd) -> anyhow::Result<()> {
    let expires = options.expires.as_deref().unwrap_or(YEAR);
    let api_key = ApiKey {
        display_name: options.name.clone(),
        role: role(options.role).into(),
        scopes: options.scopes.clone(),
        allowed_networks: options.networks.clone(),
        groups: groups::names_of(&options.common.tenant, &options.groups),
        expire_time: Some(time::to_proto(expiry(expires)?)),
        ..Default::default()
    };
    let parent = names::tenant(&options.common.tenant);
    let request = CreateApiKeyRequest { parent, api_key: Some(api_key), ..Default::default() };
    let mut client = access(&options.common.server).await?;
    let key = client.create_api_key(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = Table::new(["id", "role", "expires", "key"]);
    table.row([
        names::last(&key.name).to_owned().into(),
        role_name(key.role()).to_owned().into(),
        time::show_proto(key.expire_time.as_ref()).into(),
        key.secret.clone().into(),
    ]);
    table.print(options.common.format)?;
    output::remark("The key is shown once; send it with each call as `authorization: Bearer KEY`.");
    Ok(())
}

async fn delete_key(options: &KeyId) -> anyhow::Result<()> {
    let name = names::child(&options.common.tenant, "apiKeys", &options.id);
    let mut client = access(&options.common.server).await?;
    client.delete_api_key(DeleteApiKeyRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} is deleted; its streams end.", options.id));
    Ok(())
}

pub(crate) async fn tenants(options: &Tenants) -> anyhow::Result<()> {
    match &options.command {
        TenantsCommand::List(options) => list_tenants(options).await,
        TenantsCommand::Add(options) => add_tenant(options).await,
        TenantsCommand::Set(options) => limits::set(options).await,
        TenantsCommand::Usage(options) => limits::usage(options).await,
        TenantsCommand::Suspend(options) => suspend(options).await,
        TenantsCommand::Resume(options) => resume(options).await,
        TenantsCommand::Delete(options) => deletion::delete(options).await,
        TenantsCommand::Undelete(options) => deletion::undelete(options).await,
        TenantsCommand::Deletion(options) => deletion::show(options).await,
    }
}

async fn open_tenants(server: &Server) -> anyhow::Result<TenantServiceClient<Connection>> {
    Ok(client!(TenantServiceClient<_>, connect(server).await?))
}

async fn list_tenants(TenantsList { common, deleted }: &TenantsList) -> anyhow::Result<()> {
    let mut client = open_tenants(&common.server).await?;
    let mut table = tenant_table();
    let mut page_token = String::new();
    loop {
        let request = ListTenantsRequest { page_size: PAGE, page_token, show_deleted: *deleted };
        let page = client.list_tenants(request).await.map_err(|s| refused(&s))?.into_inner();
        page.tenants.iter().for_each(|tenant| table.row(tenant_row(tenant)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(common.format);
        }
    }
}

async fn add_tenant(options: &TenantAdd) -> anyhow::Result<()> {
    let TenantId { common, id } = &options.tenant;
    let (display_name, pool) = (options.name.clone(), options.pool.clone());
    let tenant = Tenant { display_name, pool, ..Default::default() };
    let request = CreateTenantRequest { tenant_id: id.clone(), tenant: Some(tenant), ..Default::default() };
    let made = open_tenants(&common.server).await?.create_tenant(request).await.map_err(|s| refused(&s))?;
    print_tenant(&made.into_inner(), common.format)
}

async fn suspend(options: &TenantId) -> anyhow::Result<()> {
    let request = SuspendTenantRequest { name: names::tenant(&options.id) };
    let mut client = open_tenants(&options.common.server).await?;
    let tenant = client.suspend_tenant(request).await.map_err(|s| refused(&s))?.into_inner();
    print_tenant(&tenant, options.common.format)
}

async fn resume(options: &TenantId) -> anyhow::Result<()> {
    let request = ResumeTenantRequest { name: names::tenant(&options.id) };
    let mut client = open_tenants(&options.common.server).await?;
    let tenant = client.resume_tenant(request).await.map_err(|s| refused(&s))?.into_inner();
    print_tenant(&tenant, options.common.format)
}

fn state_name(state: tenant::State) -> &'static str {
    match state {
        tenant::State::Unspecified => "",
        tenant::State::Active => "active",
        tenant::State::Suspended => "suspended",
        tenant::State::Deleting => "deleting",
        tenant::State::Purging => "purging",
        tenant::State::Deleted => "deleted",
    }
}

fn tenant_table() -> Table {
    Table::new(["tenant", "name", "state", "pool", "created"])
}

fn tenant_row(tenant: &Tenant) -> [Cell; 5] {
    let state = state_name(tenant.state());
    [
        names::last(&tenant.name).to_owned().into(),
        tenant.display_name.clone().into(),
        state.to_owned().into(),
        if tenant.pool.is_empty() { "shared" } else { &*tenant.pool }.to_owned().into(),
        time::show_proto(tenant.create_time.as_ref()).into(),
    ]
}

fn print_tenant(tenant: &Tenant, format: Format) -> anyhow::Result<()> {
    let mut table = tenant_table();
    table.row(tenant_row(tenant));
    table.print(format)
}

/// The time in so long, as 90d.
pub(super) fn expiry(validity: &str) -> anyhow::Result<Nanos> {
    let span = time::span(validity).and_then(|span| Nanos::try_from(span).ok()).filter(|span| *span > 0);
    let span =
        span.ok_or_else(|| anyhow::anyhow!("cannot use --expires {validity:?}: give a duration, as 12h, 90d"))?;
    Ok(time::now().saturating_add(span))
}

pub(super) fn role(name: RoleName) -> Role {
    match name {
        RoleName::Viewer => Role::Viewer,
        RoleName::Operator => Role::Operator,
        RoleName::Admin => Role::Admin,
        RoleName::TenantAdmin => Role::TenantAdmin,
        RoleName::Installation => Role::Installation,
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
        Role::TenantAdmin => "tenant-admin",
        Role::Installation => "installation",
    }
}
