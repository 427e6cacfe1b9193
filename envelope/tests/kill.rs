//! kill -9 of a process that makes, rotates and destroys keys: the keyring opens, every key that
//! was used is there, and what was reported as destroyed stays so.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use weir_envelope::{Config, HEAD_BYTES, Keyring, UnsealError};

const CHILD: &str = "WEIR_TEST_KEYRING_CHILD";

/// Both key-encryption keys; `turned` says which is current.
fn config(dir: &Path, turned: bool) -> Config {
    let mut keys = ["11".repeat(32), "22".repeat(32)];
    if turned {
        keys.reverse();
    }
    let key_file = dir.join(if turned { "kek-2" } else { "kek-1" });
    std::fs::write(&key_file, keys.join("\n")).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    Config { key_file, ..Config::default() }
}

fn say(words: &str) {
    println!("\n{words}");
    std::io::stdout().flush().unwrap();
}

/// Reports each sealed text with its tenant, and each destruction, once it is done.
fn child(dir: &Path) {
    let keys = Keyring::open(&config(dir, false), dir).unwrap().unwrap();
    for round in 0.. {
        for tenant in ["a", "b", "c"] {
            let tenant = format!("{tenant}{}", round % 20);
            let mut sealed = vec![0; HEAD_BYTES];
            sealed.extend_from_slice(tenant.as_bytes());
            if keys.seal(&tenant, b"", &mut sealed, 0).is_ok() {
                let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
                say(&format!("sealed {tenant} {hex}"));
            }
        }
        keys.rotate(&config(dir, round % 2 == 0)).unwrap();
        let tenant = format!("a{}", round % 20);
        say(&format!("destroying {tenant}"));
        keys.destroy(&tenant).unwrap();
        say(&format!("destroyed {tenant}"));
        if round % 3 == 0 {
            keys.allow(&tenant).unwrap();
        }
    }
}

#[test]
fn a_kill_loses_no_key_that_was_used_and_brings_none_back_that_was_destroyed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    // Of each tenant: what is sealed with its keys, and what may be.
    let mut sealed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut gone: Vec<(String, String)> = Vec::new();
    for kill in 0..12 {
        let name = "a_kill_loses_no_key_that_was_used_and_brings_none_back_that_was_destroyed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut destroying = None;
        let mut left = 40 + 17 * kill;
        for line in lines {
            match *line.split(' ').collect::<Vec<_>>() {
                ["sealed", tenant, bytes] => sealed.entry(tenant.into()).or_default().push(bytes.into()),
                ["destroying", tenant] => destroying = Some(tenant.to_owned()),
                ["destroyed", tenant] => {
                    destroying = None;
                    let of_tenant = sealed.remove(tenant).unwrap_or_default();
                    gone.extend(of_tenant.into_iter().map(|bytes| (tenant.to_owned(), bytes)));
                }
                _ => continue,
            }
            left -= 1;
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let keys = Keyring::open(&config(dir.path(), false), dir.path()).unwrap().unwrap();
        let open = |tenant: &str, hex: &str| {
            let mut bytes: Vec<u8> =
                (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
            keys.open_sealed(tenant, b"", &mut bytes).map(|text| text.to_vec())
        };
        for (tenant, all) in &sealed {
            for bytes in all {
                match open(tenant, bytes) {
                    Ok(text) => assert_eq!(text, tenant.as_bytes()),
                    Err(error) => assert!(
                        destroying.as_ref() == Some(tenant) && matches!(error, UnsealError::Destroyed(_)),
                        "kill {kill}: {error}"
                    ),
                }
            }
        }
        for (tenant, bytes) in &gone {
            assert_eq!(open(tenant, bytes), Err(UnsealError::Destroyed(tenant.clone())), "kill {kill}");
        }
        // It may or may not have happened.
        destroying.into_iter().for_each(|tenant| drop(sealed.remove(&tenant)));
    }
    assert!(!gone.is_empty());
}
