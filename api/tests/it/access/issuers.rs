//! Issuers of access tokens and role bindings, on the embedded registry.

use identity::Role;
use proto::v1::issuer::ClaimRole;
use proto::v1::issuer_service_client::IssuerServiceClient;
use proto::v1::{
    self, CreateIssuerRequest, CreateRoleBindingRequest, CreateTenantRequest, DeleteIssuerRequest,
    DeleteRoleBindingRequest, Issuer, ListIssuersRequest, ListRoleBindingsRequest, RoleBinding, UpdateIssuerRequest,
};
use tonic::{Code, Status};

use super::registry::{Installation, Sent};
use crate::world::assert_status;

const URL: &str = "https://login.example";

type Client = IssuerServiceClient<Sent>;

fn client(installation: &Installation, role: Role, scopes: Option<&[&str]>) -> Client {
    IssuerServiceClient::new(installation.send(&installation.keys.add(role, scopes)))
}

fn issuer() -> Issuer {
    Issuer { url: URL.into(), audience: "weir:acme".into(), ..Issuer::default() }
}

fn create(issuer: Issuer) -> CreateIssuerRequest {
    CreateIssuerRequest { parent: "tenants/-".into(), issuer: Some(issuer), request_id: String::new() }
}

fn bind(principal: &str, role: v1::Role) -> CreateRoleBindingRequest {
    let binding = RoleBinding { principal: principal.into(), role: role.into(), ..RoleBinding::default() };
    CreateRoleBindingRequest { parent: "tenants/-".into(), role_binding: Some(binding), request_id: String::new() }
}

async fn issuers(client: &mut Client) -> Vec<Issuer> {
    let request = ListIssuersRequest { parent: "tenants/-".into(), ..Default::default() };
    client.list_issuers(request).await.unwrap().into_inner().issuers
}

fn invalid(status: &Status, field: &str) {
    assert_status(status, Code::InvalidArgument, "FIELD_INVALID");
    assert!(status.message().starts_with(&format!("{field}: ")), "{status:?}");
}

#[tokio::test]
async fn an_issuer_is_created_listed_and_deleted_and_audited() {
    let installation = Installation::start().await;
    let mut client = client(&installation, Role::TenantAdmin, None);
    let claim_roles = vec![ClaimRole { value: "ops".into(), role: v1::Role::Operator.into() }];
    let of = Issuer {
        display_name: "login".into(),
        algorithms: vec!["RS256".into(), "ES256".into()],
        any_type: true,
        ignore_scopes: true,
        role_claim: "groups".into(),
        claim_roles,
        max_role: v1::Role::Admin.into(),
        max_lifetime: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..issuer()
    };
    let made = client.create_issuer(create(of.clone())).await.unwrap().into_inner();
    assert!(made.name.starts_with("tenants/acme/issuers/"), "{}", made.name);
    assert!(made.create_time.is_some() && !made.operated);
    let (name, create_time, etag) = (made.name.clone(), made.create_time, made.etag.clone());
    let algorithms = vec!["ES256".into(), "RS256".into()];
    assert_eq!(made, Issuer { name: name.clone(), create_time, etag, algorithms, ..of });
    assert_eq!(issuers(&mut client).await, [made]);
    client.delete_issuer(DeleteIssuerRequest { name: name.clone() }).await.unwrap();
    assert_eq!(issuers(&mut client).await, []);
    let status = client.delete_issuer(DeleteIssuerRequest { name }).await.expect_err("it is gone");
    assert_status(&status, Code::NotFound, "ISSUER_NOT_FOUND");
    let methods: Vec<_> = installation.audit("acme").await.into_iter().map(|event| event.method).collect();
    assert_eq!(methods[..2], ["DeleteIssuer", "CreateIssuer"]);
}

#[tokio::test]
async fn defaults_are_those_of_the_caller() {
    let installation = Installation::start().await;
    let mut operator = client(&installation, Role::Installation, None);
    let made = operator.create_issuer(create(issuer())).await.unwrap().into_inner();
    assert_eq!((made.max_role(), made.operated), (v1::Role::TenantAdmin, true));
    assert_eq!(made.algorithms, ["ES256", "EdDSA", "RS256", "PS256"]);
    assert_eq!(made.max_lifetime.unwrap().seconds, 86_400);
}

#[tokio::test]
async fn no_caller_creates_an_issuer_or_a_binding_beyond_its_own_rights() {
    let installation = Installation::start().await;
    let mut admin = client(&installation, Role::TenantAdmin, None);
    let above = Issuer { max_role: v1::Role::Installation.into(), ..issuer() };
    invalid(&admin.create_issuer(create(above)).await.expect_err("above"), "issuer.max_role");
    let claim = Issuer { tenant_claim: "tenant".into(), ..issuer() };
    invalid(&admin.create_issuer(create(claim.clone())).await.expect_err("a claim"), "issuer.tenant_claim");
    let above = bind("oidc:https://login.example#a", v1::Role::Installation);
    invalid(&admin.create_role_binding(above.clone()).await.expect_err("above"), "role_binding.role");
    let scopes = ["issuers.create", "issuers.delete", "roleBindings.create", "roleBindings.delete"];
    let mut limited = client(&installation, Role::TenantAdmin, Some(&scopes));
    let status = limited.create_issuer(create(issuer())).await.expect_err("it is limited");
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    let viewer = || bind("oidc:https://login.example#a", v1::Role::Viewer);
    let status = limited.create_role_binding(viewer()).await.expect_err("it is limited");
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");

    let mut operator = client(&installation, Role::Installation, None);
    let above = operator.create_role_binding(above).await.unwrap().into_inner();
    let status = admin.delete_role_binding(DeleteRoleBindingRequest { name: above.name }).await.expect_err("above");
    assert_status(&status, Code::NotFound, "ROLE_BINDING_NOT_FOUND");
    let claimed = operator.create_issuer(create(claim)).await.unwrap().into_inner();
    let status = admin.delete_issuer(DeleteIssuerRequest { name: claimed.name }).await.expect_err("an operator's");
    assert_status(&status, Code::NotFound, "ISSUER_NOT_FOUND");
}

#[tokio::test]
async fn an_issuer_exists_once_in_the_installation() {
    let installation = Installation::start().await;
    let request = CreateTenantRequest { tenant_id: "other".into(), ..Default::default() };
    installation.tenants().create_tenant(request).await.unwrap();
    let mut acme = client(&installation, Role::TenantAdmin, None);
    let mut other = IssuerServiceClient::new(installation.send(&installation.keys.add_of("other", Role::TenantAdmin)));
    acme.create_issuer(create(issuer())).await.unwrap();
    let status = acme.create_issuer(create(issuer())).await.expect_err("it exists");
    assert_status(&status, Code::AlreadyExists, "ISSUER_EXISTS");
    for audience in ["weir:acme", "weir", "weir:other2", ""] {
        let taken = Issuer { audience: audience.into(), ..issuer() };
        invalid(&other.create_issuer(create(taken)).await.expect_err(audience), "issuer.audience");
    }
    other.create_issuer(create(Issuer { audience: "weir:other".into(), ..issuer() })).await.expect("its own audience");
    let request = CreateIssuerRequest { parent: "tenants/other".into(), ..create(issuer()) };
    let mut operator = client(&installation, Role::Installation, None);
    let status = operator.create_issuer(request.clone()).await.expect_err("it exists");
    assert!(status.message().contains("`tenants/acme/issuers/"), "an operator is told whose it is: {status:?}");
    let name = issuers(&mut acme).await.remove(0).name.replace("acme", "-");
    let status = other.delete_issuer(DeleteIssuerRequest { name: name.clone() }).await.expect_err("another tenant's");
    assert_status(&status, Code::NotFound, "ISSUER_NOT_FOUND");
    acme.delete_issuer(DeleteIssuerRequest { name }).await.unwrap();
    operator.create_issuer(request).await.expect("it is free again");
}

#[tokio::test]
async fn an_issuer_is_changed_field_by_field_in_the_form_that_was_read() {
    let installation = Installation::start().await;
    let mut client = client(&installation, Role::TenantAdmin, None);
    let made = client.create_issuer(create(issuer())).await.unwrap().into_inner();
    let change = |issuer: Issuer, paths: &[&str]| UpdateIssuerRequest {
        name: made.name.clone(),
        issuer: Some(issuer),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    };
    let given = Issuer { ignore_scopes: true, display_name: "not named".into(), ..Issuer::default() };
    let changed = client.update_issuer(change(given, &["ignore_scopes"])).await.unwrap().into_inner();
    assert_eq!(changed, Issuer { ignore_scopes: true, etag: changed.etag.clone(), ..made.clone() });
    assert_ne!(changed.etag, made.etag);
    assert_eq!(issuers(&mut client).await, std::slice::from_ref(&changed));
    let stale = Issuer { any_type: true, etag: made.etag.clone(), ..Issuer::default() };
    let status = client.update_issuer(change(stale.clone(), &["any_type"])).await.expect_err("another form");
    assert_status(&status, Code::Aborted, "CONFLICT");
    let current = Issuer { etag: changed.etag, ..stale };
    assert!(client.update_issuer(change(current, &["any_type"])).await.unwrap().into_inner().any_type);
    for paths in [&[][..], &["url"], &["audience"], &["tenant_claim"]] {
        let status = client.update_issuer(change(issuer(), paths)).await.expect_err("a field that stays");
        invalid(&status, "update_mask");
    }
    let above = Issuer { max_role: v1::Role::Installation.into(), ..Issuer::default() };
    invalid(&client.update_issuer(change(above, &["max_role"])).await.expect_err("above"), "issuer.max_role");
    let methods: Vec<_> = installation.audit("acme").await.into_iter().map(|event| event.method).collect();
    assert_eq!(methods[..2], ["UpdateIssuer", "UpdateIssuer"]);
}

#[tokio::test]
async fn bindings_are_paged_repeated_and_deleted() {
    let installation = Installation::start().await;
    let mut client = client(&installation, Role::TenantAdmin, None);
    let principal = |n: usize| format!("client:{URL}#app{n}");
    for n in 0..5 {
        client.create_role_binding(bind(&principal(n), v1::Role::Viewer)).await.unwrap();
    }
    let status = client.create_role_binding(bind(&principal(0), v1::Role::Admin)).await.expect_err("it has one");
    assert_status(&status, Code::AlreadyExists, "ROLE_BINDING_EXISTS");
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRoleBindingsRequest { parent: "tenants/-".into(), page_size: 2, page_token };
        let page = client.list_role_bindings(request).await.unwrap().into_inner();
        assert!(page.role_bindings.len() <= 2);
        found.extend(page.role_bindings);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut principals: Vec<_> = found.iter().map(|binding| binding.principal.clone()).collect();
    principals.sort_unstable();
    assert_eq!(principals, (0..5).map(principal).collect::<Vec<_>>());
    let request = CreateRoleBindingRequest { request_id: "r1".into(), ..bind(&principal(9), v1::Role::Viewer) };
    let first = client.create_role_binding(request.clone()).await.unwrap().into_inner();
    let again = client.create_role_binding(request).await.unwrap().into_inner();
    assert_eq!(again, first);
    client.delete_role_binding(DeleteRoleBindingRequest { name: first.name }).await.unwrap();
    client.create_role_binding(bind(&principal(9), v1::Role::Operator)).await.expect("it has none now");
}

#[tokio::test]
async fn each_field_that_is_not_valid_is_named() {
    let installation = Installation::start().await;
    let mut client = client(&installation, Role::TenantAdmin, None);
    let ops = ClaimRole { value: "ops".into(), role: v1::Role::Operator.into() };
    let cases = [
        ("issuer.url", Issuer { url: "http://login.example".into(), ..issuer() }),
        ("issuer.url", Issuer { url: format!("{URL}/?x"), ..issuer() }),
        ("issuer.audience", Issuer { audience: String::new(), ..issuer() }),
        ("issuer.algorithms", Issuer { algorithms: vec!["HS256".into()], ..issuer() }),
        ("issuer.display_name", Issuer { display_name: "\n".into(), ..issuer() }),
        ("issuer.max_role", Issuer { max_role: 99, ..issuer() }),
        ("issuer.claim_roles", Issuer { claim_roles: vec![ops.clone()], ..issuer() }),
        ("issuer.claim_roles", Issuer { role_claim: "groups".into(), ..issuer() }),
        ("issuer.claim_roles.role", Issuer { claim_roles: vec![ClaimRole { role: 0, ..ops }], ..issuer() }),
        (
            "issuer.max_lifetime",
            Issuer { max_lifetime: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..issuer() },
        ),
        (
            "issuer.max_lifetime",
            Issuer { max_lifetime: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..issuer() },
        ),
    ];
    for (field, issuer) in cases {
        invalid(&client.create_issuer(create(issuer)).await.expect_err(field), field);
    }
    let request = CreateIssuerRequest { parent: "tenants/-".into(), ..Default::default() };
    invalid(&client.create_issuer(request).await.expect_err("no issuer"), "issuer");
    for principal in
        ["", "alice", "oidc:", "oidc:#", "oidc:https://a.example#", "apiKeys/x", "oidc:a#\n", &"x".repeat(300)]
    {
        let status = client.create_role_binding(bind(principal, v1::Role::Viewer)).await.expect_err(principal);
        invalid(&status, "role_binding.principal");
    }
    let status = client.create_role_binding(bind("oidc:a#b", v1::Role::Unspecified)).await.expect_err("no role");
    invalid(&status, "role_binding.role");
}
