use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::world::{err, weir};

fn init(dir: &Path, arguments: &[&str], required: bool) -> Output {
    let mut command = weir();
    if required {
        command.env("WEIR_AUTH_REQUIRED", "true");
    }
    command.current_dir(dir).args(["init", "--data-dir", "data"]).args(arguments).output().unwrap()
}

#[test]
fn a_key_file_is_written_once_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("operator.key");
    let made = init(dir.path(), &["--key-file", "operator.key"], false);
    assert!(made.status.success() && made.stdout.is_empty(), "{}", err(&made));
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("weir_") && key.ends_with('\n') && !err(&made).contains(key.trim()), "{}", err(&made));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = init(dir.path(), &["--key-file", "operator.key"], false);
    assert!(again.status.success() && err(&again).contains("nothing is done"), "{}", err(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), key);
    std::fs::remove_file(&file).unwrap();
    let removed = init(dir.path(), &["--key-file", "operator.key"], false);
    assert!(removed.status.success() && err(&removed).contains("weir keys add"), "{}", err(&removed));
    assert!(!file.exists() && !dir.path().join("operator.part").exists(), "no other key is made");
    let lost = init(dir.path(), &["--key-file", "missing/operator.key"], false);
    assert!(!lost.status.success() && err(&lost).contains("--key-file"), "{}", err(&lost));
}

#[test]
fn an_environment_that_asks_for_authentication_needs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = init(dir.path(), &[], true);
    assert!(made.status.success() && made.stdout.starts_with(b"weir_"), "{}", err(&made));
    assert!(!dir.path().join("weir.toml").exists());
}
