//! A process is killed in the midst of changes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use model::SystemClock;
use weir_identity::{Admin, By, CredentialId, EmbeddedRegistry, Error, NewApiKey, Peppers, Role};

/// Folder of the registry, in the process that is killed.
const DIR: &str = "WEIR_IDENTITY_KILL_DIR";
const TEST: &str = "a_killed_process_leaves_all_that_it_acknowledged_and_a_whole_chain";

fn admin(dir: &Path) -> Admin {
    let peppers = Arc::new(Peppers::open(&dir.join("peppers")).expect("read the peppers"));
    let registry = EmbeddedRegistry::open(dir.join("registry.redb")).expect("open the registry");
    Admin::new(Arc::new(registry), peppers, Arc::new(SystemClock))
}

#[tokio::test]
async fn a_killed_process_leaves_all_that_it_acknowledged_and_a_whole_chain() {
    if let Some(dir) = std::env::var_os(DIR) {
        return make_changes(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(["--exact", TEST, "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ids = lines.map_while(Result::ok).filter_map(|line| CredentialId::parse(line.strip_prefix("created ")?));
        let before = acknowledged.len();
        acknowledged.extend(ids.take(20));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(acknowledged.len(), before + 20, "the process made changes until it was killed");

        let admin = admin(dir.path());
        for id in &acknowledged {
            admin.get_api_key("t", *id).await.unwrap();
        }
        let keys = admin.list_api_keys("t", None, 1000).await.unwrap();
        let report = admin.check_audit("t", &weir_identity::AuditRange::default()).await.unwrap();
        assert_eq!(report.fault, None);
        assert_eq!(report.verified.sequence, 1 + u64::try_from(keys.len()).unwrap(), "one event for each change");
    }
}

/// Creates keys, and prints the id of each one that is created, until the process is killed.
async fn make_changes(dir: &Path) {
    let admin = admin(dir);
    match admin.create_tenant("t", "", &By::local()).await {
        Ok(_) | Err(Error::Exists(_)) => {}
        Err(error) => panic!("create the tenant: {error}"),
    }
    loop {
        let key = NewApiKey {
            display_name: String::new(),
            role: Role::Viewer,
            scopes: Vec::new(),
            allowed_networks: Vec::new(),
            groups: Vec::new(),
            expires: None,
        };
        let created = admin.create_api_key("t", key, &By::local()).await.expect("create a key");
        println!("created {}", created.credential.id);
    }
}
