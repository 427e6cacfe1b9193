//! Log lines on standard error: text on a terminal, elsewhere one JSON object a line with the field
//! names of the Elastic Common Schema. Repeated lines of one cause are limited.

mod ecs;
mod limit;

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogFormat, Logging};
use ecs::Ecs;
use limit::Limit;

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
    let limit = Arc::new(Limit::default());
    let lines = if json {
        fmt::layer().event_format(Ecs::new(Arc::clone(&limit))).with_writer(std::io::stderr).boxed()
    } else {
        fmt::layer().compact().with_ansi(terminal).with_target(false).with_writer(std::io::stderr).boxed()
    };
    let started = tracing_subscriber::registry().with(filter).with(limit::Gate(limit)).with(lines).try_init();
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
