use std::net::IpAddr;

use model::SystemClock;

use super::*;
use crate::EmbeddedRegistry;

fn admin() -> (tempfile::TempDir, Admin) {
    let dir = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::open(dir.path().join("registry.redb")).unwrap();
    let peppers = Arc::new(Peppers::generate().unwrap());
    (dir, Admin::new(Arc::new(registry), peppers, Arc::new(SystemClock)))
}

fn viewer() -> NewApiKey {
    NewApiKey {
        display_name: "dashboard".into(),
        role: Role::Viewer,
        scopes: Vec::new(),
        allowed_networks: Vec::new(),
        groups: Vec::new(),
        expires: None,
    }
}

#[tokio::test]
async fn a_repeated_request_returns_the_credential_without_its_secret() {
    let (_dir, admin) = admin();
    let by = By { request_id: Some("7b2c".into()), ..By::local() };
    admin.create_tenant("t", "", &By::local()).await.unwrap();
    let first = admin.create_api_key("t", viewer(), &by).await.unwrap();
    let repeat = admin.create_api_key("t", viewer(), &by).await.unwrap();
    assert_eq!(repeat.credential, first.credential);
    assert!(first.secret.is_some() && repeat.secret.is_none());
    let device = By { request_id: Some("7b2d".into()), ..By::local() };
    let first = admin.create_device_secret("t", "d1", None, &device).await.unwrap();
    let repeat = admin.create_device_secret("t", "d1", None, &device).await.unwrap();
    assert_eq!(repeat.credential.id, first.credential.id);
    assert!(repeat.secret.is_none());
}

#[tokio::test]
async fn a_caller_creates_and_deletes_no_key_above_its_own_role() {
    let (_dir, admin) = admin();
    admin.create_tenant("t", "", &By::local()).await.unwrap();
    let by = By { role: Role::TenantAdmin, ..By::local() };
    let refused = admin.create_api_key("t", NewApiKey { role: Role::Installation, ..viewer() }, &by).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "role", .. })), "{refused:?}");
    admin.create_api_key("t", NewApiKey { role: Role::TenantAdmin, ..viewer() }, &by).await.unwrap();
    let higher = NewApiKey { role: Role::Installation, ..viewer() };
    let id = admin.create_api_key("t", higher, &By::local()).await.unwrap().credential.id;
    let refused = admin.delete_api_key("t", id, &by).await;
    assert_eq!(refused, Err(Error::NotFound(format!("credential {id}"))));
    assert_eq!(admin.get_api_key("t", id).await.unwrap().credential.id, id);
    admin.delete_api_key("t", id, &By::local()).await.unwrap();
    assert!(matches!(admin.get_api_key("t", id).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn fields_are_checked_and_named() {
    let (_dir, admin) = admin();
    admin.create_tenant("t", "", &By::local()).await.unwrap();
    let key = |scopes: &[&str], networks: &[&str]| NewApiKey {
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        allowed_networks: networks.iter().map(|network| (*network).to_owned()).collect(),
        ..viewer()
    };
    let too_many = ["telemetry.read"; 65];
    let networks = ["10.0.0.0/8"; 65];
    let keys = [
        (key(&["telemetry.write"], &[]), "scopes"),
        (key(&["apiKeys.create"], &[]), "scopes"),
        (key(&too_many, &[]), "scopes"),
        (key(&[], &["10.0.0.1/8"]), "allowed_networks"),
        (key(&[], &["ten"]), "allowed_networks"),
        (key(&[], &["10.0.0.0/33"]), "allowed_networks"),
        (key(&[], &networks), "allowed_networks"),
        (NewApiKey { display_name: "x".repeat(257), ..viewer() }, "display_name"),
        (NewApiKey { display_name: "a\nb".into(), ..viewer() }, "display_name"),
        (NewApiKey { expires: Some(1), ..viewer() }, "expire_time"),
    ];
    for (key, expected) in keys {
        let refused = admin.create_api_key("t", key, &By::local()).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { field, .. } if field == expected), "{expected}: {refused:?}");
    }
    for device in ["", "a+b", "#", "a/b", "$SYS", "a\0", &"x".repeat(257)] {
        let refused = admin.create_device_secret("t", device, None, &By::local()).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { field: "device", .. }), "{device:?}: {refused:?}");
    }
    let refused = admin.create_tenant(crate::INSTALLATION, "", &By::local()).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { field: "tenant", .. }), "{refused:?}");
    for request_id in ["", "a b", "\u{e9}", &"x".repeat(65)] {
        let by = By { request_id: Some(request_id.to_owned()), ..By::local() };
        let refused = admin.create_tenant("u", "", &by).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { field: "request_id", .. }), "{request_id:?}: {refused:?}");
    }
    assert_eq!(admin.list_audit("t", None, 9).await.unwrap().len(), 1, "nothing was changed");
}

#[tokio::test]
async fn scopes_and_networks_are_kept_in_their_usual_form() {
    let (_dir, admin) = admin();
    admin.create_tenant("t", "", &By::local()).await.unwrap();
    let scopes = ["telemetry.subscribe", "telemetry.read", "telemetry.read"].map(str::to_owned).to_vec();
    let allowed_networks = ["10.0.0.1", "2001:DB8::/32"].map(str::to_owned).to_vec();
    let created = admin.create_api_key("t", NewApiKey { scopes, allowed_networks, ..viewer() }, &By::local()).await;
    let credential = created.unwrap().credential;
    let rights = credential.rights().unwrap();
    assert_eq!(rights.scopes, ["telemetry.read", "telemetry.subscribe"]);
    assert_eq!(rights.allowed_networks, ["10.0.0.1/32", "2001:db8::/32"]);
}

#[tokio::test]
async fn the_audit_names_the_caller_of_a_change_and_never_a_secret() {
    let (_dir, admin) = admin();
    let address: IpAddr = [10, 0, 0, 9].into();
    let by = By { principal: "apiKeys/x".into(), address: Some(address), ..By::local() };
    admin.create_tenant("t", "", &By::local()).await.unwrap();
    let created = admin.create_device_secret("t", "d1", None, &by).await.unwrap();
    admin.delete_device_credential("t", "d1", created.credential.id, &by).await.unwrap();
    admin.suspend_tenant("t", &by).await.unwrap();
    admin.resume_tenant("t", &by).await.unwrap();
    let events = admin.list_audit("t", None, 9).await.unwrap();
    let methods: Vec<_> = events.iter().map(|event| event.method.as_str()).collect();
    let expected =
        ["ResumeTenant", "SuspendTenant", "DeleteDeviceCredential", "CreateDeviceCredential", "CreateTenant"];
    assert_eq!(methods, expected);
    assert!(events[..4].iter().all(|event| event.principal == "apiKeys/x"));
    assert!(events[..4].iter().all(|event| event.address.as_deref() == Some("10.0.0.9")));
    let secret = created.secret.unwrap();
    assert!(!format!("{events:?}").contains(&secret.expose()[16..59]));
    assert!(!format!("{:?}", created.credential).contains("hmac"));
    assert_eq!(admin.check_audit("t", &crate::AuditRange::default()).await.unwrap().fault, None);
}
