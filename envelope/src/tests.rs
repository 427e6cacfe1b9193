use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::data_key::DataKey;
use crate::*;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEXT: &str = "HRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEAHx4=";

fn key_file(dir: &Path, text: &str) -> Config {
    let path = dir.join("kek");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Config { key_file: path, ..Config::default() }
}

fn open(config: &Config, dir: &Path) -> Keyring {
    Keyring::open(config, dir).unwrap().unwrap()
}

fn sealed(keys: &Keyring, tenant: &str, contents: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 3 + HEAD_BYTES];
    buffer.extend_from_slice(contents);
    keys.seal(tenant, b"place", &mut buffer, 3).unwrap();
    assert_eq!(buffer.len(), 3 + contents.len() + OVERHEAD_BYTES);
    buffer.split_off(3)
}

fn opened(keys: &Keyring, tenant: &str, sealed: &[u8]) -> Result<Vec<u8>, UnsealError> {
    let mut sealed = sealed.to_vec();
    keys.open_sealed(tenant, b"place", &mut sealed).map(|contents| contents.to_vec())
}

fn refused(config: &Config, dir: &Path) -> String {
    Keyring::open(config, dir).unwrap_err().to_string()
}

#[test]
fn sealed_contents_are_opened_after_a_restart_by_their_tenant_and_at_their_place_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let (of_a, of_b) = (sealed(&keys, "a", b"canary"), sealed(&keys, "b", b"canary"));
    assert!(!of_a.windows(6).any(|bytes| bytes == b"canary"));
    let keys = open(&config, dir.path());
    assert_eq!(opened(&keys, "a", &of_a).unwrap(), b"canary");
    assert_eq!(opened(&keys, "b", &of_b).unwrap(), b"canary");
    assert!(matches!(opened(&keys, "b", &of_a), Err(UnsealError::Missing { .. })));
    assert_eq!(keys.open_sealed("a", b"other", &mut of_a.clone()).unwrap_err(), UnsealError::Damaged("a".into()));
    for at in 4..of_a.len() {
        let mut flipped = of_a.clone();
        flipped[at] ^= 1;
        assert_eq!(opened(&keys, "a", &flipped), Err(UnsealError::Damaged("a".into())), "byte {at}");
    }
}

#[test]
fn nonces_of_a_key_do_not_repeat_also_after_a_restart() {
    let raw = DataKey::generate().unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let key = DataKey::new(1, &raw).unwrap();
        for _ in 0..200 {
            let mut sealed = vec![0; HEAD_BYTES];
            key.seal(b"", &mut sealed, 0).unwrap();
            assert!(seen.insert(sealed[4..HEAD_BYTES].to_vec()));
        }
    }
}

#[test]
fn a_destroyed_tenant_is_unreadable_and_takes_nothing_until_its_name_is_allowed_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let (of_a, of_b) = (sealed(&keys, "a", b"1"), sealed(&keys, "b", b"2"));
    let before = std::fs::read(dir.path().join(FILE)).unwrap();
    assert_eq!(keys.destroy("a").unwrap(), 1);
    for keys in [keys, open(&config, dir.path())] {
        assert_eq!(opened(&keys, "a", &of_a), Err(UnsealError::Destroyed("a".into())));
        assert_eq!(opened(&keys, "b", &of_b).unwrap(), b"2");
        let refused = keys.seal("a", b"", &mut vec![0; HEAD_BYTES], 0);
        assert!(matches!(refused, Err(SealError::Destroyed(tenant)) if tenant == "a"));
    }
    let wrapped = String::from_utf8(before).unwrap();
    let wrapped = wrapped.lines().find(|line| line.contains("\"a\"")).unwrap().split('"').nth_back(1).unwrap();
    assert!(!std::fs::read_to_string(dir.path().join(FILE)).unwrap().contains(wrapped), "no trace of the key");
    let keys = open(&config, dir.path());
    keys.allow("a").unwrap();
    let again = sealed(&keys, "a", b"3");
    let keys = open(&config, dir.path());
    assert_eq!(opened(&keys, "a", &again).unwrap(), b"3");
    assert_eq!(opened(&keys, "a", &of_a), Err(UnsealError::Destroyed("a".into())));
    // A tenant that has had no key yet.
    assert_eq!(keys.destroy("c").unwrap(), 0);
    assert!(keys.seal("c", b"", &mut vec![0; HEAD_BYTES], 0).is_err());
}

#[test]
fn the_key_encryption_key_is_rotated_while_others_read_and_write() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let first = sealed(&keys, "a", b"first");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..3 {
            let (keys, stop, first) = (&keys, &stop, &first);
            scope.spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let tenant = format!("t{n}-{}", turn % 50);
                    assert_eq!(opened(keys, &tenant, &sealed(keys, &tenant, b"x")).unwrap(), b"x");
                    assert_eq!(opened(keys, "a", first).unwrap(), b"first");
                }
            });
        }
        for (text, only) in [(format!("{NEXT}\n{KEY}"), NEXT), (format!("{KEY}\n{NEXT}"), KEY)].iter().cycle().take(6) {
            let both = key_file(dir.path(), text);
            let (before, after) = keys.rotate(&both).unwrap();
            assert_ne!(before, after);
            let alone = open(&key_file(dir.path(), only), dir.path());
            assert_eq!(opened(&alone, "a", &first).unwrap(), b"first");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let keys = open(&key_file(dir.path(), KEY), dir.path());
    assert_eq!(opened(&keys, "a", &first).unwrap(), b"first");
    assert!(keys.status().tenants.len() > 1);
}

#[test]
fn an_old_copy_of_the_keyring_does_not_open_with_the_next_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let of_a = sealed(&keys, "a", b"1");
    let copy = std::fs::read(dir.path().join(FILE)).unwrap();
    keys.destroy("a").unwrap();
    keys.rotate(&key_file(dir.path(), &format!("{NEXT}\n{KEY}"))).unwrap();
    std::fs::write(dir.path().join(FILE), &copy).unwrap();
    let error = refused(&key_file(dir.path(), NEXT), dir.path());
    assert!(error.contains("was wrapped with the key-encryption key"), "{error}");
    // With the key of then it does: it has to be destroyed, too.
    assert_eq!(opened(&open(&key_file(dir.path(), KEY), dir.path()), "a", &of_a).unwrap(), b"1");
}

#[test]
fn a_wrong_key_and_a_missing_one_are_refused_and_never_taken_for_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Keyring::open(&Config::default(), dir.path()).unwrap().is_none());
    let config = key_file(dir.path(), KEY);
    let of_a = sealed(&open(&config, dir.path()), "a", b"1");
    let error = refused(&Config::default(), dir.path());
    assert!(error.contains("encryption.key_file") && error.contains("read_only"), "{error}");
    let error = refused(&key_file(dir.path(), NEXT), dir.path());
    assert!(error.contains("add the key") && !error.contains(NEXT), "{error}");
    for (text, fault) in [("", "there is no key"), ("00", "malformed"), (&format!("{KEY}\n{KEY}"), "twice")] {
        let error = refused(&key_file(dir.path(), text), dir.path());
        assert!(error.contains(fault) && error.contains("openssl"), "{error}");
    }
    let config = key_file(dir.path(), KEY);
    std::fs::set_permissions(&config.key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&config, dir.path()).contains("chmod 600"));
    let unset = Config { key_env: "WEIR_NO_SUCH_VARIABLE".into(), ..Config::default() };
    assert!(refused(&unset, dir.path()).contains("WEIR_NO_SUCH_VARIABLE"));
    // Another keyring under the right key.
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    let keys = open(&key_file(dir.path(), KEY), dir.path());
    sealed(&keys, "a", b"2");
    assert!(matches!(opened(&keys, "a", &of_a), Err(UnsealError::Missing { .. })));
}

#[test]
fn a_keyring_that_was_cut_short_loses_only_the_key_that_was_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let path = dir.path().join(FILE);
    let of_a = sealed(&open(&config, dir.path()), "a", b"1");
    let before = std::fs::read(&path).unwrap();
    sealed(&open(&config, dir.path()), "b", b"2");
    let after = std::fs::read(&path).unwrap();
    for length in before.len()..after.len() {
        std::fs::write(&path, &after[..length]).unwrap();
        let keys = open(&config, dir.path());
        assert_eq!(opened(&keys, "a", &of_a).unwrap(), b"1");
        assert_eq!(keys.status().tenants.len(), 1);
        assert_eq!(opened(&keys, "b", &sealed(&keys, "b", b"3")).unwrap(), b"3");
    }
    for at in 0..before.len() {
        let mut flipped = before.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        let opened = Keyring::open(&config, dir.path());
        // The end of the last line, too, which makes it an append that was cut short.
        let is_cut = at == before.len() - 1
            && opened.as_ref().is_ok_and(|keys| keys.as_ref().unwrap().status().tenants.is_empty());
        assert!(opened.is_err() || is_cut, "byte {at}");
    }
}

/// A service that turns bytes around: its envelope does not hold the key.
fn service(dir: &Path, answer: &str) -> Config {
    let path = dir.join("service");
    std::fs::write(&path, format!("#!/bin/sh\nread line\n{answer}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    Config { key_command: vec![path.display().to_string(), "--key".into(), "k 1".into()], ..Config::default() }
}

#[test]
fn a_command_of_a_service_wraps_and_unwraps_and_its_faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let turn =
        r#"[ "$2" = "k 1" ] && echo "$line" | base64 -d | LC_ALL=C tr '\000-\377' '\200-\377\000-\177' | base64 -w0"#;
    let config = service(dir.path(), turn);
    let of_a = sealed(&open(&config, dir.path()), "a", b"1");
    assert_eq!(opened(&open(&config, dir.path()), "a", &of_a).unwrap(), b"1");
    for (answer, fault) in [
        ("exit 3", "exit status: 3"),
        ("echo '?'", "not base64"),
        ("echo AAAA", "another key of the same name"),
        ("head -c 20000 /dev/zero", "more than 16384 bytes"),
    ] {
        let error = refused(&service(dir.path(), answer), dir.path());
        assert!(error.contains(fault), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = refused(&service(dir.path(), "echo \"$line\""), empty.path());
    assert!(error.contains("in plain"), "{error}");
    let slow = service(dir.path(), "exec sleep 60");
    let error = crate::command::call_within(&slow.key_command, "wrap", b"x", Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    let stays = service(dir.path(), "echo AAAA\nexec >&-\nexec sleep 60");
    let error = crate::command::call_within(&stays.key_command, "wrap", b"x", Duration::from_millis(500)).unwrap_err();
    assert!(error.to_string().contains("did not end"), "{error}");
}

#[test]
fn a_keyring_that_is_only_read_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let of_a = sealed(&keys, "a", b"1");
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    // The process that has it is appending.
    bytes.extend_from_slice(b"0000");
    std::fs::write(&path, &bytes).unwrap();
    let read = Keyring::read(&config, dir.path()).unwrap();
    assert_eq!(opened(&read, "a", &of_a).unwrap(), b"1");
    assert_eq!(opened(&keys, "a", &sealed(&read, "a", b"2")).unwrap(), b"2");
    assert!(matches!(read.seal("b", b"", &mut vec![0; HEAD_BYTES], 0), Err(SealError::NoKey { .. })));
    assert!(matches!(read.destroy("a"), Err(KeyringError::Shared)));
    assert!(matches!(read.rotate(&config), Err(KeyringError::Shared)));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert!(matches!(Keyring::read(&Config::default(), dir.path()), Err(KeyringError::Off(_))));
}

#[test]
fn a_part_of_a_line_and_a_file_that_a_crash_left_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let (path, left) = (dir.path().join(FILE), dir.path().join("keyring.new"));
    let keys = open(&config, dir.path());
    let of_a = sealed(&keys, "a", b"1");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"0000 {");
    std::fs::write(&path, &bytes).unwrap();
    let of_b = sealed(&keys, "b", b"2");
    std::fs::write(&left, b"keys").unwrap();
    let keys = open(&config, dir.path());
    assert!(!left.exists());
    assert_eq!(opened(&keys, "a", &of_a).unwrap(), b"1");
    assert_eq!(opened(&keys, "b", &of_b).unwrap(), b"2");
    std::fs::write(&left, b"keys").unwrap();
    keys.destroy("a").unwrap();
    assert!(!left.exists());
}

#[test]
fn a_copy_that_was_overwritten_meanwhile_is_found_without_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&key_file(dir.path(), KEY), dir.path());
    sealed(&keys, "a", b"1");
    let path = dir.path().join(FILE);
    check(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for from in 0..bytes.len() {
        let zeros = vec![0; bytes.len() - from];
        std::fs::write(&path, [&bytes[..from], &zeros].concat()).unwrap();
        assert!(check(&path).is_err(), "zeros from byte {from}");
    }
}

#[test]
fn a_keyring_that_is_only_read_sees_keys_that_are_made_and_destroyed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    let of_a = sealed(&keys, "a", b"1");
    let read = Keyring::read(&config, dir.path()).unwrap();
    let by_reader = sealed(&read, "a", b"2");
    let of_b = sealed(&keys, "b", b"3");
    assert_eq!(opened(&read, "b", &of_b).unwrap(), b"3");
    assert_eq!(opened(&keys, "b", &sealed(&read, "b", b"4")).unwrap(), b"4");
    keys.rotate(&key_file(dir.path(), &format!("{NEXT}\n{KEY}"))).unwrap();
    assert_eq!(opened(&keys, "b", &sealed(&read, "b", b"5")).unwrap(), b"5");
    keys.destroy("a").unwrap();
    let refused = read.seal("a", b"", &mut vec![0; HEAD_BYTES], 0);
    assert!(matches!(refused, Err(SealError::Destroyed(tenant)) if tenant == "a"));
    for sealed in [of_a, by_reader] {
        assert_eq!(opened(&read, "a", &sealed), Err(UnsealError::Destroyed("a".into())));
    }
    keys.allow("a").unwrap();
    let again = sealed(&keys, "a", b"6");
    assert_eq!(opened(&read, "a", &again).unwrap(), b"6");
    assert_eq!(opened(&keys, "a", &sealed(&read, "a", b"7")).unwrap(), b"7");
    // Nothing is sealed or opened while it cannot be read.
    std::fs::rename(dir.path().join(FILE), dir.path().join("aside")).unwrap();
    let refused = read.seal("a", b"", &mut vec![0; HEAD_BYTES], 0);
    assert!(matches!(refused, Err(SealError::NoKey { .. })));
    assert!(matches!(opened(&read, "a", &again), Err(UnsealError::Missing { .. })));
}

#[test]
fn keys_of_many_tenants_are_made_with_one_append() {
    let dir = tempfile::tempdir().unwrap();
    let config = key_file(dir.path(), KEY);
    let keys = open(&config, dir.path());
    sealed(&keys, "t7", b"1");
    keys.destroy("t8").unwrap();
    let before = keys.appends();
    let tenants: Vec<String> = (0..10_000).map(|n| format!("t{n}")).collect();
    for _ in 0..2 {
        keys.prepare(tenants.iter().chain(&tenants).map(String::as_str)).unwrap();
        assert_eq!(keys.appends(), before + 1);
    }
    assert!(keys.seal("t8", b"", &mut vec![0; HEAD_BYTES], 0).is_err(), "its keys were destroyed");
    let of_last = sealed(&keys, "t9999", b"2");
    assert_eq!(keys.appends(), before + 1);
    let status = open(&config, dir.path()).status();
    assert_eq!(status.tenants.iter().filter(|held| held.keys == 1).count(), 9_999);
    assert_eq!(opened(&open(&config, dir.path()), "t9999", &of_last).unwrap(), b"2");
    // Without room for it no key is made.
    std::fs::rename(dir.path().join(FILE), dir.path().join("aside")).unwrap();
    let refused = keys.prepare(["t1", "new", "newer"]).unwrap_err();
    assert!(matches!(&refused, SealError::NoKey { tenant, .. } if tenant == "new"), "{refused}");
    std::fs::rename(dir.path().join("aside"), dir.path().join(FILE)).unwrap();
    assert!(open(&config, dir.path()).status().tenants.iter().all(|held| !held.tenant.starts_with("new")));
}
