//! Formatting, lints, documentation.

use crate::{cargo, run as start};

pub(crate) fn run() -> anyhow::Result<()> {
    start(cargo().args(["fmt", "--all", "--check"]))?;
    start(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    start(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
    start(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "--deny warnings"))
}
