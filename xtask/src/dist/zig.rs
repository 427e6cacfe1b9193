//! A C compiler for musl, which cryptography needs.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::{clients, run};

/// Wheel of Zig, which includes a C compiler for many targets.
const WHEEL: &str = "ziglang==0.15.1";
/// Compilers for musl that build scripts find by themselves.
const KNOWN: [&str; 2] = ["musl-gcc", "x86_64-linux-musl-gcc"];

/// A compiler for musl by its name, if one is there.
pub(super) fn known() -> Option<&'static str> {
    KNOWN.into_iter().find(|name| clients::there(name))
}

/// The compiler to use, or None when one is installed or configured.
pub(super) fn unless_there() -> anyhow::Result<Option<PathBuf>> {
    let named = ["CC_x86_64_unknown_linux_musl", "CC_x86_64-unknown-linux-musl", "TARGET_CC"];
    if named.iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(None);
    }
    if known().is_some() {
        return Ok(None);
    }
    let dir = clients::cache()?.join("weir/zig");
    let python = dir.join("bin/python");
    clients::marked(&dir, WHEEL, || {
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", WHEEL]))
    })
    .context("there is no C compiler for musl: install musl-tools, or python3 with venv, which fetches one")?;
    let script = dir.join("musl-cc");
    // Zig has its own names of targets, and by default adds checks for undefined behaviour that
    // need a library.
    let text = format!(
        "#!/bin/sh\nfor argument; do\n  shift\n  case $argument in --target=*) ;; *) set -- \"$@\" \"$argument\" ;; esac\ndone\n\
         exec '{}' -m ziglang cc -target x86_64-linux-musl -fno-sanitize=undefined \"$@\"\n",
        python.display()
    );
    std::fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(Some(script))
}
