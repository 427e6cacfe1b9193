//! Formatting, lints, documentation.

use crate::{cargo, run as start};

pub(crate) fn run() -> anyhow::Result<()> {
    start(cargo().args(["fmt", "--all", "--check"]))?;
    start(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    // Its programs run with a nightly toolchain only; this one finds what no longer compiles.
    start(cargo().args(["clippy", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--", "--deny", "warnings"]))?;
    start(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
    start(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "--deny warnings"))
}
