//! Log lines on standard error: text on a terminal, elsewhere one JSON object a line with the field
//! names of the Elastic Common Schema. Repeated lines of one cause are limited.

mod ecs;
mod limit;
pub(crate) mod text;

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogFormat, Logging, Sources};
use ecs::Ecs;
use limit::{LeftOut, Limit};

/// The limit of the log of this process.
static LIMIT: OnceLock<Arc<Limit>> = OnceLock::new();

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// For people.
    Text,
    /// One object for each line.
    Json,
}

/// Starts the log.
///
/// # Errors
/// When the level cannot be read.
pub(crate) fn start(logging: &Logging) -> anyhow::Result<Lines> {
    let filter = EnvFilter::try_new(&logging.level).with_context(|| {
        format!("`logging.level` is {:?}: use a level as \"info\" or \"info,weir_broker=debug\"", logging.level)
    })?;
    let terminal = std::io::stderr().is_terminal();
    let format = match logging.format {
        LogFormat::Json => Lines::Json,
        LogFormat::Text => Lines::Text,
        LogFormat::Auto if terminal => Lines::Text,
        LogFormat::Auto => Lines::Json,
    };
    let limit = Arc::clone(LIMIT.get_or_init(Arc::default));
    let lines = if format == Lines::Json {
        fmt::layer().event_format(Ecs::new(Arc::clone(&limit))).with_writer(std::io::stderr).boxed()
    } else {
        fmt::layer()
            .compact()
            .fmt_fields(text::Escaped)
            .with_ansi(terminal)
            .with_target(false)
            .with_writer(std::io::stderr)
            .boxed()
    };
    let started = tracing_subscriber::registry().with(filter).with(limit::Gate(limit)).with(lines).try_init();
    started.map(|()| format).map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}

/// Logs how many lines were left out, also of a flood that no further line of its kind follows,
/// until `stop`.
pub(crate) async fn report_left_out(stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(limit::WINDOW);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let unreported = LIMIT.get().map(|limit| limit.unreported(Instant::now())).unwrap_or_default();
        for LeftOut { place, lines } in unreported {
            tracing::warn!(place, lines, "log lines of one kind were left out, as there were many");
        }
    }
}

/// Starts the log for the error of a configuration that cannot be loaded: as text, unless the
/// environment or the file asks for JSON.
pub(crate) fn start_for_errors(sources: &Sources) -> Lines {
    let json = sources.asks_for(("logging", "format"), "json");
    let logging = Logging { format: if json { LogFormat::Json } else { LogFormat::Text }, ..Logging::default() };
    start(&logging).unwrap_or(Lines::Text)
}
