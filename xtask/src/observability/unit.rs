//! The systemd unit, checked by systemd.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::DEPLOY;

/// Maximum exposure of the service, as rated by systemd, times ten; 100 is a service without any
/// protection.
const MOST_EXPOSED: &str = "--threshold=20";

/// Checks that systemd accepts every line and that the exposure of the service is low.
pub(super) fn check(analyze: &Path, scratch: &Path) -> anyhow::Result<()> {
    let file = Path::new(DEPLOY).join("systemd/weir.service");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    ensure!(text.contains("ExecStart=/usr/bin/weir run "), "the unit does not run /usr/bin/weir");
    for file in ["server.pem", "server.key", "peppers"] {
        let loaded = format!("LoadCredential={file}:/etc/weir/secrets/{file}\n");
        ensure!(text.contains(&loaded), "the unit does not load {file}, which weir.toml names");
    }
    // The program does not have to be installed here.
    let copy = scratch.join("weir.service");
    std::fs::write(&copy, text.replace("/usr/bin/weir ", "/bin/true "))?;
    let verified = Command::new(analyze).args(["verify", "--man=no"]).arg(&copy).output().context("systemd-analyze")?;
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let faults: Vec<&str> = said.lines().filter(|line| line.contains("weir.service")).collect();
    ensure!(verified.status.success() && faults.is_empty(), "{}: {said}", file.display());
    let arguments = ["security", "--offline=true", "--no-pager", MOST_EXPOSED];
    let rated = Command::new(analyze).args(arguments).arg(&copy).output().context("systemd-analyze")?;
    let said = String::from_utf8_lossy(&rated.stdout).into_owned();
    ensure!(rated.status.success(), "{} is too exposed: {said}", file.display());
    println!("observability: systemd unit: {}", said.lines().last().unwrap_or_default().trim_start_matches("→ "));
    Ok(())
}
