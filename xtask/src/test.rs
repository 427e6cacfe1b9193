//! Tests.

use crate::{cargo, clients, run, services};

/// Runs every test of the workspace, with real processes and unmodified clients.
pub(crate) fn workspace(arguments: &[String]) -> anyhow::Result<()> {
    let clients = clients::install()?;
    let services = services::install()?;
    // The whole-path tests start these programs.
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    run(cargo()
        .args(["test", "--workspace"])
        .args(arguments)
        .env("WEIR_SERVICES", services)
        .env("WEIR_TEST_PYTHON", clients.python)
        .env("WEIR_TEST_NODE", clients.node)
        .env("WEIR_TEST_JAVA", clients.java))
}
