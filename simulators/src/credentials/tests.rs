use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::file::Writer;
use super::*;

fn read(text: &[u8]) -> anyhow::Result<Credentials> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Credentials::read(file.path())
}

/// Reads a file that was written with these credentials.
fn again(kind: Kind, credentials: &[(&str, Credential)]) -> Credentials {
    let mut text = Vec::new();
    let mut writer = Writer::new(kind, &mut text).unwrap();
    for (device, credential) in credentials {
        writer.write(device, credential).unwrap();
    }
    writer.end().unwrap();
    read(&text).unwrap()
}

#[test]
fn passwords_are_found_by_device_and_are_not_shown() {
    let own = |text: &str| Credential::Password(text.into());
    let credentials = again(Kind::Secret, &[("d1", own("wd_1")), ("a,b", own("wd_2"))]);
    for (device, password) in [("d1", "wd_1"), ("a,b", "wd_2")] {
        let login = credentials.login(device).unwrap().unwrap();
        assert_eq!(login, Login { username: device, password: Some(password.into()) });
    }
    assert_eq!(credentials.login("d2").unwrap(), None);
    assert_eq!(credentials.identity("d1"), None);
    assert!(!format!("{credentials:?} {:?}", own("wd_1")).contains("wd_"));
}

#[test]
fn a_key_signs_a_new_token_for_each_connection() {
    let keys = tls::create_keys().unwrap();
    let key = Credential::Key { tenant: "acme".into(), id: "k1".into(), key: keys.private.into() };
    let credentials = again(Kind::Jwt, &[("d1", key)]);
    let token = credentials.login("d1").unwrap().unwrap().password.unwrap();
    let part = |at: usize| {
        let json = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()
    };
    assert_eq!((&part(0)["alg"], &part(0)["kid"]), (&"ES256".into(), &"k1".into()));
    assert_eq!(part(1)["aud"], "weir:acme");
    assert_eq!(part(1)["exp"].as_u64(), part(1)["iat"].as_u64().map(|iat| iat + VALIDITY));
    // Signatures of ES256 are random.
    assert_ne!(credentials.login("d1").unwrap().unwrap().password.unwrap(), token);
}

#[test]
fn a_certificate_is_presented_with_a_user_name_and_without_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let identity = tls::Authority::open_or_create(dir.path()).unwrap().client("d1").unwrap();
    let credentials = again(Kind::Certificate, &[("d1", Credential::Certificate(identity.clone()))]);
    assert_eq!(credentials.identity("d1"), Some(&identity));
    assert_eq!(credentials.login("d1").unwrap(), Some(Login { username: "d1", password: None }));
}

#[test]
fn a_file_of_another_form_is_refused_with_its_name_and_line() {
    for (text, reason) in [
        ("d1,wd_1\n", "device,password"),
        ("device,password\nd1,wd_1,x\n", "line: 2"),
        ("device,certificate,private_key\nd1,AAAA,AAAA\nd2,?,AAAA\n", "line: 3: certificate is not base64"),
    ] {
        let error = format!("{:#}", read(text.as_bytes()).unwrap_err());
        assert!(error.contains(reason), "{error}");
    }
}
