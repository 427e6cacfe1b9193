//! `weir issuers` and `weir roles`.

use clap::ValueEnum;
use proto::v1::issuer::ClaimRole;
use proto::v1::issuer_service_client::IssuerServiceClient;
use proto::v1::{
    CreateIssuerRequest, CreateRoleBindingRequest, DeleteIssuerRequest, DeleteRoleBindingRequest, Issuer,
    ListIssuersRequest, ListRoleBindingsRequest, RoleBinding, UpdateIssuerRequest, UpdateRoleBindingRequest,
};

use super::access::{PAGE, role, role_name};
use super::access_cli::RoleName;
use super::cli::Server;
use super::issuers_cli::{
    IssuerAdd, IssuerId, IssuerSet, Issuers, IssuersCommand, IssuersList, RoleGrant, RoleRevoke, RoleSet, Roles,
    RolesCommand, RolesList,
};
use super::output::{self, Cell, Format, Table};
use super::{Connection, client, connect, groups, names, refused, time};

pub(crate) async fn issuers(options: &Issuers) -> anyhow::Result<()> {
    match &options.command {
        IssuersCommand::List(options) => list_issuers(options).await,
        IssuersCommand::Add(options) => add_issuer(options).await,
        IssuersCommand::Set(options) => set_issuer(options).await,
        IssuersCommand::Delete(options) => delete_issuer(options).await,
    }
}

pub(crate) async fn roles(options: &Roles) -> anyhow::Result<()> {
    match &options.command {
        RolesCommand::List(options) => list_roles(options).await,
        RolesCommand::Grant(options) => grant(options).await,
        RolesCommand::Set(options) => set_role(options).await,
        RolesCommand::Revoke(options) => revoke(options).await,
    }
}

async fn open(server: &Server) -> anyhow::Result<IssuerServiceClient<Connection>> {
    Ok(client!(IssuerServiceClient<_>, connect(server).await?))
}

async fn list_issuers(options: &IssuersList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let mut table = issuer_table();
    let mut page_token = String::new();
    loop {
        let request = ListIssuersRequest { parent: names::tenant(&options.common.tenant), page_size: PAGE, page_token };
        let page = client.list_issuers(request).await.map_err(|s| refused(&s))?.into_inner();
        page.issuers.iter().for_each(|issuer| table.row(issuer_row(issuer)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return table.print(options.common.format);
        }
    }
}

fn issuer_table() -> Table {
    Table::new(["id", "url", "audience", "name", "max_role", "role_claim", "algorithms", "created"])
}

fn issuer_row(issuer: &Issuer) -> [Cell; 8] {
    [
        names::last(&issuer.name).to_owned().into(),
        issuer.url.clone().into(),
        issuer.audience.clone().into(),
        issuer.display_name.clone().into(),
        role_name(issuer.max_role()).to_owned().into(),
        issuer.role_claim.clone().into(),
        issuer.algorithms.join(" ").into(),
        time::show_proto(issuer.create_time.as_ref()).into(),
    ]
}

/// Parses `VALUE=ROLE`.
fn claim_role(text: &str) -> anyhow::Result<ClaimRole> {
    let parsed = text.rsplit_once('=').filter(|(value, _)| !value.is_empty());
    let parsed = parsed.and_then(|(value, named)| Some((value, RoleName::from_str(named, true).ok()?)));
    let (value, named) = parsed
        .ok_or_else(|| anyhow::anyhow!("cannot parse --roles {text:?}: give VALUE=ROLE, as operators=operator"))?;
    Ok(ClaimRole { value: value.to_owned(), role: role(named).into() })
}

fn lifetime(text: &str) -> anyhow::Result<prost_types::Duration> {
    let seconds = time::span(text).and_then(|span| i64::try_from(span / 1_000_000_000).ok());
    let seconds =
        seconds.ok_or_else(|| anyhow::anyhow!("cannot use --max-lifetime {text:?}: give a duration, as 15m, 12h"))?;
    Ok(prost_types::Duration { seconds, nanos: 0 })
}

async fn add_issuer(options: &IssuerAdd) -> anyhow::Result<()> {
    let issuer = Issuer {
        display_name: options.name.clone(),
        url: options.url.clone(),
        audience: options.audience.clone(),
        algorithms: options.algorithms.clone(),
        any_type: options.any_type,
        ignore_scopes: options.ignore_scopes,
        role_claim: options.role_claim.clone().unwrap_or_default(),
        claim_roles: options.roles.iter().map(|text| claim_role(text)).collect::<Result<_, _>>()?,
        max_role: options.max_role.map_or(0, |max| role(max).into()),
        tenant_claim: options.tenant_claim.clone().unwrap_or_default(),
        max_lifetime: options.max_lifetime.as_deref().map(lifetime).transpose()?,
        ..Default::default()
    };
    let parent = names::tenant(&options.common.tenant);
    let request = CreateIssuerRequest { parent, issuer: Some(issuer), ..Default::default() };
    let made = open(&options.common.server).await?.create_issuer(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = issuer_table();
    table.row(issuer_row(&made));
    table.print(options.common.format)?;
    output::remark(&format!(
        "Give its principals roles: `weir roles grant 'client:{}#CLIENT' --role viewer`.",
        options.url
    ));
    Ok(())
}

async fn set_issuer(options: &IssuerSet) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    let mut name = |path: &str, is_given: bool| {
        if is_given {
            paths.push(path.to_owned());
        }
    };
    name("display_name", options.name.is_some());
    name("algorithms", options.algorithms.is_some());
    name("any_type", options.any_type.is_some());
    name("ignore_scopes", options.ignore_scopes.is_some());
    name("role_claim", options.role_claim.is_some());
    name("claim_roles", options.roles.is_some());
    name("max_role", options.max_role.is_some());
    name("max_lifetime", options.max_lifetime.is_some());
    anyhow::ensure!(!paths.is_empty(), "nothing is to be changed: `weir issuers set --help` lists what can be");
    let roles = options.roles.iter().flatten().filter(|text| !text.is_empty());
    let issuer = Issuer {
        display_name: options.name.clone().unwrap_or_default(),
        algorithms: options.algorithms.clone().unwrap_or_default(),
        any_type: options.any_type.unwrap_or_default(),
        ignore_scopes: options.ignore_scopes.unwrap_or_default(),
        role_claim: options.role_claim.clone().unwrap_or_default(),
        claim_roles: roles.map(|text| claim_role(text)).collect::<Result<_, _>>()?,
        max_role: options.max_role.map_or(0, |max| role(max).into()),
        max_lifetime: options.max_lifetime.as_deref().map(lifetime).transpose()?,
        ..Default::default()
    };
    let IssuerId { common, id } = &options.issuer;
    let (name, update_mask) = (names::child(&common.tenant, "issuers", id), Some(prost_types::FieldMask { paths }));
    let request = UpdateIssuerRequest { name, issuer: Some(issuer), update_mask };
    let made = open(&common.server).await?.update_issuer(request).await.map_err(|s| refused(&s))?.into_inner();
    let mut table = issuer_table();
    table.row(issuer_row(&made));
    table.print(common.format)
}

async fn delete_issuer(options: &IssuerId) -> anyhow::Result<()> {
    let name = names::child(&options.common.tenant, "issuers", &options.id);
    let mut client = open(&options.common.server).await?;
    client.delete_issuer(DeleteIssuerRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{} is deleted; the streams of its tokens end.", options.id));
    Ok(())
}

/// Returns all role bindings of a tenant.
async fn bindings(client: &mut IssuerServiceClient<Connection>, tenant: &str) -> anyhow::Result<Vec<RoleBinding>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRoleBindingsRequest { parent: names::tenant(tenant), page_size: PAGE, page_token };
        let page = client.list_role_bindings(request).await.map_err(|s| refused(&s))?.into_inner();
        all.extend(page.role_bindings);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

fn print_bindings(bindings: &[RoleBinding], format: Format) -> anyhow::Result<()> {
    let mut table = Table::new(["id", "principal", "role", "groups", "created"]);
    for binding in bindings {
        table.row([
            names::last(&binding.name).to_owned().into(),
            binding.principal.clone().into(),
            role_name(binding.role()).to_owned().into(),
            groups::ids_of(&binding.groups).into(),
            time::show_proto(binding.create_time.as_ref()).into(),
        ]);
    }
    table.print(format)
}

async fn list_roles(options: &RolesList) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    print_bindings(&bindings(&mut client, &options.common.tenant).await?, options.common.format)
}

async fn grant(options: &RoleGrant) -> anyhow::Result<()> {
    let binding = RoleBinding {
        principal: options.principal.clone(),
        role: role(options.role).into(),
        groups: groups::names_of(&options.common.tenant, &options.groups),
        ..Default::default()
    };
    let parent = names::tenant(&options.common.tenant);
    let request = CreateRoleBindingRequest { parent, role_binding: Some(binding), ..Default::default() };
    let mut client = open(&options.common.server).await?;
    let made = client.create_role_binding(request).await.map_err(|s| refused(&s))?.into_inner();
    print_bindings(&[made], options.common.format)
}

async fn set_role(options: &RoleSet) -> anyhow::Result<()> {
    let mut paths = Vec::new();
    if options.role.is_some() {
        paths.push("role".to_owned());
    }
    if options.whole_tenant || !options.groups.is_empty() {
        paths.push("groups".to_owned());
    }
    anyhow::ensure!(!paths.is_empty(), "nothing is to be changed: give --role, --group or --whole-tenant");
    let mut client = open(&options.common.server).await?;
    let binding = RoleBinding {
        role: options.role.map_or(0, |named| role(named).into()),
        groups: groups::names_of(&options.common.tenant, &options.groups),
        ..Default::default()
    };
    let name = binding_name(&mut client, &options.common.tenant, &options.principal).await?;
    let update_mask = Some(prost_types::FieldMask { paths });
    let request = UpdateRoleBindingRequest { name, role_binding: Some(binding), update_mask };
    let changed = client.update_role_binding(request).await.map_err(|s| refused(&s))?.into_inner();
    print_bindings(&[changed], options.common.format)
}

/// Returns the name of the role binding of a principal, or of that with an id.
async fn binding_name(
    client: &mut IssuerServiceClient<Connection>,
    tenant: &str,
    named: &str,
) -> anyhow::Result<String> {
    if !named.contains('#') {
        return Ok(names::child(tenant, "roleBindings", named));
    }
    let found = bindings(client, tenant).await?.into_iter().find(|binding| binding.principal == named);
    let found = found.ok_or_else(|| anyhow::anyhow!("{named} has no role: `weir roles list` shows those that have"))?;
    Ok(found.name)
}

async fn revoke(options: &RoleRevoke) -> anyhow::Result<()> {
    let mut client = open(&options.common.server).await?;
    let named = &options.principal;
    let name = binding_name(&mut client, &options.common.tenant, named).await?;
    client.delete_role_binding(DeleteRoleBindingRequest { name }).await.map_err(|s| refused(&s))?;
    output::remark(&format!("{named} has no role any longer; its streams end."));
    Ok(())
}
