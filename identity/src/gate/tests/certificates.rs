//! Devices with certificates.

use model::time::SECOND;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::registry::Error;
use crate::{CertificateIdentity, NewAuthority, NewDeviceCertificate, RevokedCertificate};

const DAY: i64 = 86_400;

/// A certificate: PEM and DER.
struct Issued {
    pem: String,
    der: Vec<u8>,
}

type Ca = CertifiedIssuer<'static, KeyPair>;

macro_rules! after {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((START / SECOND + $seconds).unsigned_abs())
    };
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (after!(-DAY), after!(10 * DAY));
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn authority(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn issue(ca: &Ca, params: &CertificateParams) -> Issued {
    let certificate = params.signed_by(&KeyPair::generate().unwrap(), ca).unwrap();
    Issued { pem: certificate.pem(), der: certificate.der().to_vec() }
}

fn device_params(tenant: &str, device: &str) -> CertificateParams {
    let mut params = params(device);
    params.subject_alt_names.push(SanType::URI(format!("urn:weir:{tenant}:{device}").try_into().unwrap()));
    params
}

impl World {
    async fn try_authority(
        &self,
        tenant: &str,
        ca: &Ca,
        signer: &Ca,
        identity: CertificateIdentity,
    ) -> Result<CredentialId, Error> {
        let mut new = NewAuthority {
            display_name: "Plant".into(),
            certificate: ca.pem(),
            identity,
            proof: String::new(),
            expires: None,
        };
        let reason = self.admin.create_authority(tenant, &new, &By::local()).await.unwrap_err().to_string();
        let code = reason.split("common name ").nth(1).and_then(|rest| rest.split(' ').next());
        let Some(code) = code else { panic!("{reason}") };
        new.proof = issue(signer, &params(code)).pem;
        self.admin.create_authority(tenant, &new, &By::local()).await.map(|created| created.row.id)
    }

    async fn authority(&self, tenant: &str, ca: &Ca, identity: CertificateIdentity) -> CredentialId {
        self.try_authority(tenant, ca, ca, identity).await.unwrap()
    }
}

async fn present(
    gate: &Gate,
    from: &str,
    client: &str,
    user: Option<&str>,
    chain: &[&[u8]],
) -> Result<Identity, Refusal> {
    let certificates: Vec<_> = chain.iter().map(|der| der.to_vec()).collect();
    gate.admit(&Credentials {
        client,
        user,
        password: None,
        token: None,
        certificates: &certificates,
        peer: peer(from),
    })
    .await
}

async fn enter(gate: &Gate, device: &str, chain: &[&[u8]]) -> Result<Identity, Refusal> {
    present(gate, PEER, device, Some(device), chain).await
}

#[tokio::test]
async fn a_certificate_that_is_pinned_identifies_its_device_until_it_expires_or_is_revoked() {
    let world = World::new().await;
    let ca = authority("unknown");
    let own = issue(&ca, &params("pump"));
    let other = issue(&ca, &params("pump"));
    let new = NewDeviceCertificate { certificate: own.pem.clone(), proof: String::new(), expires: None };
    let made = world.admin.create_device_certificate("t", "d1", &new, &By::local()).await.unwrap();
    assert_eq!(made.expires, Some((START / SECOND + 10 * DAY + 1) * SECOND));
    let again = world.admin.create_device_certificate("t", "d2", &new, &By::local()).await;
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    let identity = enter(&world.gate, "d1", &[&own.der]).await.unwrap();
    assert_eq!((&*identity.tenant, identity.device.as_deref()), ("t", Some("d1")));
    let before = world.registry.lookups();
    assert!(present(&world.gate, PEER, "d1:2", None, &[&own.der]).await.is_ok());
    assert_eq!(world.registry.lookups(), before, "a known certificate needs no lookup");
    for (number, (device, certificate)) in [("d2", &own), ("d1", &other)].into_iter().enumerate() {
        let refused =
            present(&world.gate, &format!("10.4.0.{number}:1"), device, Some(device), &[&certificate.der]).await;
        assert_eq!(refused.unwrap_err().kind, RefusalKind::BadCredentials, "{device}");
    }
    world.admin.delete_device_credential("t", "d1", made.id, &By::local()).await.unwrap();
    assert!(identity.ended.unwrap().is_cancelled());
    assert!(enter(&world.gate, "d1", &[&own.der]).await.is_err());
    world.pass(11 * DAY);
    let late = world.admin.create_device_certificate("t", "d1", &new, &By::local()).await.unwrap_err().to_string();
    assert!(late.contains("expired"), "{late}");
}

#[tokio::test]
async fn certificates_of_an_authority_identify_the_devices_of_its_tenant() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let (plant, site) = (authority("Plant"), authority("Plant"));
    world.authority("t", &plant, CertificateIdentity::SanUri).await;
    world.authority("u", &site, CertificateIdentity::CommonName).await;
    let own = issue(&plant, &device_params("t", "d1"));
    let before = world.registry.lookups();
    for lookups in [2, 0] {
        let identity = enter(&world.gate, "d1", &[&own.der]).await.unwrap();
        assert_eq!((&*identity.tenant, identity.device.as_deref()), ("t", Some("d1")));
        let Topics { publish, subscribe } = topics();
        assert_eq!(*identity.grants, Grants::of(&publish, &subscribe, "d1").unwrap());
        assert!(world.registry.lookups() - before <= lookups + 2);
    }
    let named = issue(&site, &params("d1"));
    assert_eq!(&*enter(&world.gate, "d1", &[&named.der]).await.unwrap().tenant, "u", "the tenant is the authority's");
    // An intermediate authority, with and without the root in the chain.
    let middle = CertifiedIssuer::signed_by(ca_params("Hall 1"), KeyPair::generate().unwrap(), &plant);
    let middle = middle.unwrap();
    let below = issue(&middle, &device_params("t", "d2"));
    let root = plant.der().to_vec();
    assert!(enter(&world.gate, "d2", &[&below.der, middle.der()]).await.is_ok());
    assert!(enter(&world.gate.clone().within(usize::MAX), "d2", &[&below.der, middle.der(), &root]).await.is_ok());

    let mut expired = device_params("t", "d1");
    expired.not_after = after!(-1);
    let mut early = device_params("t", "d1");
    early.not_before = after!(60);
    let mut server = device_params("t", "d1");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut twice = device_params("t", "d1");
    twice.subject_alt_names.push(SanType::URI("urn:weir:t:d2".to_owned().try_into().unwrap()));
    let forged = authority("Plant");
    let cases: Vec<(&str, &str, Vec<Vec<u8>>)> = vec![
        ("expired", "d1", vec![issue(&plant, &expired).der]),
        ("not yet valid", "d1", vec![issue(&plant, &early).der]),
        ("for servers", "d1", vec![issue(&plant, &server).der]),
        ("two devices", "d1", vec![issue(&plant, &twice).der]),
        ("another tenant in the name", "d1", vec![issue(&plant, &device_params("u", "d1")).der]),
        ("a tenant whose name goes on", "d1", vec![issue(&plant, &device_params("tt", "d1")).der]),
        ("only a common name", "d1", vec![issue(&plant, &params("d1")).der]),
        ("a device with a colon", "d1:2", vec![issue(&plant, &device_params("t", "d1:2")).der]),
        ("a device with a wildcard", "+", vec![issue(&site, &params("+")).der]),
        ("a device with a slash", "a/b", vec![issue(&site, &params("a/b")).der]),
        ("an unknown authority of this name", "d1", vec![issue(&forged, &device_params("t", "d1")).der]),
        (
            "an unknown authority with the root in the chain",
            "d1",
            vec![issue(&forged, &device_params("t", "d1")).der, root.clone()],
        ),
        ("no intermediate", "d2", vec![below.der.clone()]),
        ("the authority itself", "Plant", vec![root.clone()]),
        ("another device", "d3", vec![own.der.clone()]),
        ("no certificate", "d1", vec![b"not a certificate".to_vec()]),
        ("a long chain", "d1", vec![own.der.clone(); 5]),
    ];
    for (number, (what, device, chain)) in cases.into_iter().enumerate() {
        let chain: Vec<_> = chain.iter().map(Vec::as_slice).collect();
        let refused = present(&world.gate, &format!("10.5.0.{number}:1"), device, Some(device), &chain).await;
        let Err(refused) = refused else { panic!("{what} was admitted") };
        assert_eq!(refused.kind, RefusalKind::BadCredentials, "{what}");
    }
    let refused = present(&world.gate, "10.6.0.1:1", "d1:other", Some("d1"), &[&own.der]).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::ClientId, "client ids of registered devices may begin so");
}

#[tokio::test]
async fn the_end_of_a_certificate_or_its_authority_ends_its_sessions_and_no_others() {
    let world = World::new().await;
    let plant = authority("Plant");
    let id = world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let [one, two] = ["d1", "d2"].map(|device| issue(&plant, &device_params("t", device)));
    let first = enter(&world.gate, "d1", &[&one.der]).await.unwrap().ended.unwrap();
    let second = enter(&world.gate, "d2", &[&two.der]).await.unwrap().ended.unwrap();
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    assert!(!first.is_cancelled(), "it has no row in the registry, and is valid all the same");
    let revoked = RevokedCertificate { certificate: one.pem.clone() };
    world.remote.revoke_certificate("t", &revoked, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(first.is_cancelled() && !second.is_cancelled());
    assert_eq!(enter(&world.gate, "d1", &[&one.der]).await.unwrap_err().kind, RefusalKind::BadCredentials);
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let revoked = RevokedCertificate { certificate: two.pem.clone() };
    world.admin.revoke_certificate("u", &revoked, &By::local()).await.unwrap();
    assert!(enter(&world.gate, "d2", &[&two.der]).await.is_ok(), "another tenant revokes nothing of this one");
    world.admin.delete_authority("t", id, &By::local()).await.unwrap();
    assert!(second.is_cancelled());
    assert_eq!(enter(&world.gate, "d2", &[&two.der]).await.unwrap_err().kind, RefusalKind::BadCredentials);
    world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let third = enter(&world.gate, "d2", &[&two.der]).await.unwrap().ended.unwrap();
    assert!(!third.is_cancelled(), "the authority was registered anew");
    assert!(enter(&world.gate, "d1", &[&one.der]).await.is_err(), "and the certificate stays revoked");
    world.admin.suspend_tenant("t", &By::local()).await.unwrap();
    assert!(third.is_cancelled());
    assert_eq!(enter(&world.gate, "d2", &[&two.der]).await.unwrap_err().kind, RefusalKind::NotAuthorized);
    let forged = issue(&authority("Plant"), &device_params("t", "d2"));
    let refused = enter(&world.gate, "d2", &[&forged.der, plant.der()]).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::BadCredentials, "the state of a tenant is for its own devices");
    world.admin.resume_tenant("t", &By::local()).await.unwrap();
    let fourth = enter(&world.gate, "d2", &[&two.der]).await.unwrap().ended.unwrap();
    world.pass(11 * DAY);
    assert!(enter(&world.gate, "d2", &[&two.der]).await.is_err());
    world.gate.step(&mut position).await;
    assert!(fourth.is_cancelled(), "it has expired");
}

#[tokio::test]
async fn an_authority_is_registered_by_the_owner_of_its_key_in_one_tenant() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let (plant, other) = (authority("Plant"), authority("Plant"));
    let uri = CertificateIdentity::SanUri;
    let refused = world.try_authority("t", &plant, &other, uri).await.unwrap_err().to_string();
    assert!(refused.contains("did not sign"), "{refused}");
    world.authority("t", &plant, uri).await;
    let refused = world.try_authority("u", &plant, &plant, uri).await;
    assert!(matches!(refused, Err(Error::Exists(_))), "{refused:?}");
    let mut squatter = ca_params("Plant");
    squatter.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]);
    let squatter = CertifiedIssuer::self_signed(squatter, KeyPair::generate().unwrap()).unwrap();
    let leaf = issue(&other, &params("d1"));
    for (certificate, wanted) in [
        (squatter.pem(), "subject key identifier"),
        (leaf.pem, "CA:TRUE"),
        (String::new(), "CERTIFICATE"),
        (format!("{}{}", plant.pem(), other.pem()), "several"),
    ] {
        let (display_name, proof) = (String::new(), String::new());
        let new = NewAuthority { display_name, certificate, identity: uri, proof, expires: None };
        let refused = world.admin.create_authority("t", &new, &By::local()).await.unwrap_err().to_string();
        assert!(refused.starts_with("certificate: ") && refused.contains(wanted), "{refused}");
    }
}

#[tokio::test]
async fn a_guess_with_the_id_of_a_certificate_ends_no_session_of_it() {
    let world = World::new().await;
    let plant = authority("Plant");
    world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let own = issue(&plant, &device_params("t", "d1"));
    let session = enter(&world.gate, "d1", &[&own.der]).await.unwrap().ended.unwrap();
    let (id, _) = world.gate.0.live.ids().into_iter().find(|(_, has_row)| !has_row).unwrap();
    // The control log is no longer followed, so every credential is looked up.
    world.gate.step(&mut Position::default()).await;
    world.pass(31);
    let guess = Token::generate(TokenKind::DeviceSecret).unwrap().with_id(id);
    assert_eq!(refused(&world.gate, "d1", &guess.text()).await, RefusalKind::BadCredentials);
    assert!(!session.is_cancelled());
}

/// Registers a certificate for a device of `t` as an operator, in another process.
async fn pin(world: &World, device: &str, certificate: &Issued) -> CredentialId {
    let new = NewDeviceCertificate { certificate: certificate.pem.clone(), proof: String::new(), expires: None };
    world.remote.create_device_certificate("t", device, &new, &By::local()).await.unwrap().id
}

#[tokio::test]
async fn a_certificate_that_was_registered_anew_is_not_the_device_that_it_was_after_a_gap() {
    let world = World::new().await;
    let own = issue(&authority("unknown"), &params("pump"));
    let id = pin(&world, "d1", &own).await;
    let before = enter(&world.gate, "d1", &[&own.der]).await.unwrap().ended.unwrap();
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.pass(1);
    assert_eq!(pin(&world, "d2", &own).await, id, "the id follows from the certificate");
    // As after more changes than the control log keeps: all rows are read again.
    world.gate.step(&mut Position::default()).await;
    assert!(before.is_cancelled(), "the session is one of the row that was deleted");
    assert!(enter(&world.gate, "d1", &[&own.der]).await.is_err());
    let now = enter(&world.gate, "d2", &[&own.der]).await.unwrap();
    assert_eq!(now.device.as_deref(), Some("d2"));
    let goes_on = now.ended.unwrap();
    world.gate.step(&mut Position::default()).await;
    assert!(!goes_on.is_cancelled());
    // The same without the control log, when each connection is looked up.
    world.remote.delete_device_credential("t", "d2", id, &By::local()).await.unwrap();
    world.pass(31);
    pin(&world, "d3", &own).await;
    let third = enter(&world.gate, "d3", &[&own.der]).await.unwrap();
    assert_eq!(third.device.as_deref(), Some("d3"));
    assert!(goes_on.is_cancelled());
}

#[tokio::test]
async fn an_authority_that_was_registered_anew_has_its_new_rules_after_a_gap() {
    let world = World::new().await;
    let plant = authority("Plant");
    let id = world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let mut both = device_params("t", "d1");
    both.distinguished_name.push(DnType::CommonName, "d2");
    let own = issue(&plant, &both);
    let before = enter(&world.gate, "d1", &[&own.der]).await.unwrap().ended.unwrap();
    world.remote.delete_authority("t", id, &By::local()).await.unwrap();
    world.pass(1);
    let other = Admin::new(world.registry.clone(), world.peppers.clone(), world.clock.clone());
    let world = World { admin: other, ..world };
    assert_eq!(world.authority("t", &plant, CertificateIdentity::CommonName).await, id);
    world.gate.step(&mut Position::default()).await;
    assert!(before.is_cancelled());
    assert!(enter(&world.gate, "d1", &[&own.der]).await.is_err());
    assert!(enter(&world.gate, "d2", &[&own.der]).await.is_ok());
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_not_revoked_and_one_that_is_registered_leaves() {
    let world = World::new().await;
    let plant = authority("Plant");
    let mut old = device_params("t", "d1");
    old.not_after = after!(-1);
    let revoke = async |certificate: &Issued| {
        let revoked = RevokedCertificate { certificate: certificate.pem.clone() };
        world.admin.revoke_certificate("t", &revoked, &By::local()).await
    };
    let refused = revoke(&issue(&plant, &old)).await.unwrap_err().to_string();
    assert!(refused.contains("expired"), "{refused}");
    let own = issue(&plant, &params("pump"));
    pin(&world, "d1", &own).await;
    let session = enter(&world.gate, "d1", &[&own.der]).await.unwrap().ended.unwrap();
    let row = revoke(&own).await.unwrap().row;
    assert_eq!(row.expires, Some((START / SECOND + 10 * DAY + 1) * SECOND), "it makes room then");
    assert!(session.is_cancelled() && enter(&world.gate, "d1", &[&own.der]).await.is_err());
    assert!(world.admin.list_device_credentials("t", Some("d1"), None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_tenant_registers_certificates_whose_keys_it_has_only() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let ca = authority("unknown");
    let key = KeyPair::generate().unwrap();
    let certificate = params("pump").signed_by(&key, &ca).unwrap();
    let by = By { role: Role::Admin, ..By::local() };
    let register = async |tenant: &str, proof: String| {
        let new = NewDeviceCertificate { certificate: certificate.pem(), proof, expires: None };
        world.admin.create_device_certificate(tenant, "d1", &new, &by).await.map(|row| row.tenant)
    };
    let code = async |tenant: &str| {
        let reason = register(tenant, String::new()).await.unwrap_err().to_string();
        reason.split("common name ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned()
    };
    let request = |name: &str, key: &KeyPair| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serialize_request(key).unwrap().pem().unwrap()
    };
    let (own, other) = (code("t").await, code("u").await);
    assert_ne!(own, other, "a proof is for one tenant");
    for (what, proof) in [
        ("another key", request(&own, &KeyPair::generate().unwrap())),
        ("the code of another tenant", request(&other, &key)),
        ("no code", request("pump", &key)),
        ("not a request", certificate.pem()),
        ("nothing of PEM", "x".into()),
    ] {
        let refused = register("t", proof).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "proof", .. })), "{what}: {refused:?}");
    }
    assert_eq!(register("t", request(&own, &key)).await.as_deref(), Ok("t"));
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params("pump").signed_by(&key, &ca).unwrap();
        let name = |proof: &str| crate::certificate::requested_name(proof, certificate.der()).unwrap();
        assert_eq!(name(&request("a", &key)).as_deref(), Some("a"));
    }
    // The authority of the tenant issued it: that one has shown its key.
    let plant = authority("Plant");
    world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let issued = issue(&plant, &params("pump"));
    let new = NewDeviceCertificate { certificate: issued.pem, proof: String::new(), expires: None };
    world.admin.create_device_certificate("t", "d2", &new, &by).await.unwrap();
    let elsewhere = world.admin.create_device_certificate("u", "d2", &new, &by).await;
    assert!(matches!(elsewhere, Err(Error::Invalid { field: "proof", .. })), "{elsewhere:?}");
}

#[tokio::test]
async fn a_second_authority_is_tried_when_the_first_one_of_a_chain_did_not_sign_it() {
    let world = World::new().await;
    let (plant, site) = (authority("Plant"), authority("Site"));
    world.authority("t", &site, CertificateIdentity::SanUri).await;
    world.authority("t", &plant, CertificateIdentity::SanUri).await;
    let own = issue(&plant, &device_params("t", "d1"));
    let stray = issue(&site, &params("stray"));
    let identity = enter(&world.gate, "d1", &[&own.der, &stray.der]).await.unwrap();
    assert_eq!(identity.device.as_deref(), Some("d1"));
}
