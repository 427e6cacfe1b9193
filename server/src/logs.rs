//! What Weir says about itself, on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Starts the log.
///
/// # Errors
/// When the level cannot be read.
pub(crate) fn start(logging: &Logging) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&logging.level).with_context(|| {
        format!("`logging.level` is {:?}: use a level as \"info\" or \"info,weir_broker=debug\"", logging.level)
    })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match logging.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        lines.compact().with_ansi(terminal).with_target(false).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
