//! Files that cannot be used: each error names the key, the file and the cure.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weir_tls::{Certificate, CreateError, Named, check_pair, create, create_client, read_certificates};

fn error(certificate: &Path, key: &Path) -> String {
    let error = check_pair(&Named::new("tls.certificate", certificate), &Named::new("tls.key", key));
    error.unwrap_err().to_string()
}

#[test]
fn faults_name_key_file_and_cure() {
    let dir = tempfile::tempdir().unwrap();
    let made = create(dir.path(), &[], false).unwrap();
    let other = create_client(dir.path(), "other", false).unwrap();
    check_pair(&Named::new("a", &made.certificate), &Named::new("b", &made.key)).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let empty = write("empty.pem", "");
    let broken = write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
    let locked =
        write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAo=\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let missing = dir.path().join("missing.pem");
    for (certificate, key, named, cure) in [
        (&missing, &made.key, "`tls.certificate`", "weir tls create"),
        (&made.certificate, &missing, "`tls.key`", "weir tls create"),
        (&empty, &made.key, "`tls.certificate`", "-----BEGIN CERTIFICATE-----"),
        (&made.key, &made.key, "`tls.certificate`", "private key and no certificate"),
        (&broken, &made.key, "`tls.certificate`", "give the file anew"),
        (&made.certificate, &made.certificate, "`tls.key`", "give the file of the key"),
        (&made.certificate, &empty, "`tls.key`", "BEGIN PRIVATE KEY"),
        (&made.certificate, &locked, "`tls.key`", "openssl pkey"),
        (&made.certificate, &other.key, "`tls.key`", "does not belong"),
        (&dir.path().to_owned(), &made.key, "`tls.certificate`", "not a file"),
    ] {
        let error = error(certificate, key);
        let file = if named == "`tls.key`" { key } else { certificate };
        assert!(error.starts_with(&format!("{named} = {}: ", file.display())), "{error}");
        assert!(error.contains(cure), "{error}");
    }
}

#[test]
fn certificates_that_are_made_have_names_dates_and_closed_keys() {
    let dir = tempfile::tempdir().unwrap();
    let made = create(dir.path(), &["weir.example".to_owned(), "10.0.0.7".to_owned()], false).unwrap();
    let read = |path: &Path| {
        let found = read_certificates(&Named::new("x", path)).unwrap();
        Certificate::parse(&found[0]).unwrap()
    };
    let server = read(&made.certificate);
    for host in ["weir.example", "WEIR.example", "10.0.0.7", "localhost", "127.0.0.1", "[::1]"] {
        assert!(server.is_for(host), "{host}: {:?}", server.names);
    }
    assert!(!server.is_for("other.example") && !server.is_authority);
    assert_eq!((server.not_after - server.not_before) / 86_400, 825);
    let ca = read(&made.ca);
    assert!(ca.is_authority && made.is_new_ca);
    assert_eq!(std::fs::metadata(&made.key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(create(dir.path(), &[], false), Err(CreateError::Exists(_))));
    let renewed = create(dir.path(), &[], true).unwrap();
    assert!(!renewed.is_new_ca);
    assert_eq!(read(&made.ca), ca);
    assert!(!read(&made.certificate).is_for("weir.example"));
    for name in ["", "a/b", "ca", "server", ".x", "a b", &"x".repeat(65)] {
        assert!(matches!(create_client(dir.path(), name, true), Err(CreateError::Name(_))), "{name}");
    }
    let client = create_client(dir.path(), "d1:tool", false).unwrap();
    assert_eq!(read(&client.certificate).subject, "CN=d1:tool");
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(create_client(other.path(), "d1", false), Err(CreateError::NoAuthority(_))));
}
