//! Checks of the checkpoints of the audit.

use std::path::Path;

use identity::{CheckpointKey, read_private};
use rustix::fs::{Access, access};

use super::Finding;
use crate::access::audit_key_in;
use crate::config::Config;

const WHAT: &str = "audit";

/// Checks the key that signs checkpoints, and whether their targets can be written.
pub(super) fn checkpoints(config: &Config) -> Vec<Finding> {
    if !config.auth.required {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let path = audit_key_in(config, &config.data_dir);
    match CheckpointKey::read(&path) {
        Ok(Some(key)) => {
            let text = format!("the key {} in {} signs checkpoints", key.id(), path.display());
            findings.push(Finding::ok(WHAT, text));
        }
        Ok(None) if config.audit.key.as_os_str().is_empty() => {}
        Ok(None) => {
            let text = format!(
                "`audit.key`: {} does not exist: copy the file there, or make one with `weir audit key`",
                path.display()
            );
            findings.push(Finding::fail(WHAT, text));
        }
        Err(error) => findings.push(Finding::fail(WHAT, format!("`audit.key`: {error}"))),
    }
    if !config.audit.folder.as_os_str().is_empty() {
        findings.push(folder(&config.audit.folder));
    }
    let token = &config.audit.webhook_token_file;
    if !token.as_os_str().is_empty() {
        let fault = match read_private(token) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("{} does not exist", token.display())),
            Err(error) => Some(error.to_string()),
        };
        findings.extend(fault.map(|fault| Finding::fail(WHAT, format!("`audit.webhook_token_file`: {fault}"))));
    }
    findings
}

/// Writes nothing: what is added to the folder may be there for good.
fn folder(folder: &Path) -> Finding {
    let shown = folder.display();
    if !folder.is_dir() {
        return Finding::fail(WHAT, format!("`audit.folder`: {shown} is not a folder: create it, or mount it"));
    }
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(WHAT, format!("checkpoints can be added to {shown}")),
        Err(error) => {
            let text =
                format!("`audit.folder`: cannot add to {shown}: {error}: give the user of Weir the right to write");
            Finding::fail(WHAT, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Level;
    use super::*;

    #[test]
    fn a_key_that_others_can_read_and_a_folder_that_is_not_there_fail() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: dir.path().to_owned(), ..Config::default() };
        assert!(checkpoints(&config).is_empty(), "without authentication there is no audit");
        config.auth.required = true;
        config.audit.folder = dir.path().join("out");
        let key = dir.path().join("audit-key");
        CheckpointKey::open(&key).unwrap();
        let failed = |config: &Config| {
            let failed = checkpoints(config).into_iter().filter(|finding| finding.level == Level::Fail);
            failed.map(|finding| finding.text).collect::<Vec<_>>()
        };
        let missing = failed(&config);
        assert!(missing.len() == 1 && missing[0].contains("mount it"), "{missing:?}");
        std::fs::create_dir(dir.path().join("out")).unwrap();
        assert!(failed(&config).is_empty());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        config.audit.webhook_token_file = dir.path().join("token");
        let texts = failed(&config);
        assert!(
            texts.len() == 2 && texts[0].contains("chmod 600") && texts[1].contains("webhook_token_file"),
            "{texts:?}"
        );
        config.audit.key = dir.path().join("elsewhere");
        assert!(failed(&config)[0].contains("weir audit key"));
    }
}
