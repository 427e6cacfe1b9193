//! `weir run`: from the configuration to a supervised process.

mod limits;
mod log;
pub(crate) mod replay;
pub(crate) mod state;
mod stores;
pub(crate) mod wire;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::RunOptions;
use crate::client::output::remark;
use crate::config::{self, Config};
use crate::data_dir::{Addresses, DataDir};
use crate::supervise::{EndError, Supervisor};
use crate::{http, logs};

/// Time for the status page's last answers.
const HTTP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until a signal or until a part ends.
///
/// # Errors
/// When the configuration is wrong or a part cannot start. What happens later is logged and answered by the exit code.
pub(crate) fn run(options: &RunOptions) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&options.sources()?)?;
    loaded.config.check_exposure()?;
    logs::start(&loaded.config.logging)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "configuration");
    }
    limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let ended = runtime.block_on(serve(&loaded.config));
    // Blocking work that an answer no longer waits for must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // The last line.
            tracing::error!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: &Config) -> anyhow::Result<Result<(), EndError>> {
    let data = DataDir::open(&config.data_dir)?;
    let listeners = wire::Listeners::bind(config).await?;
    let addresses = listeners.addresses()?;
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let parts = wire::Parts::open(config, &data).await?;
    let wire::Parts { state, door, batcher, retained, flusher, leases, backend, api, exporter } = parts;

    let mut supervisor = Supervisor::default();
    // In the order in which they stop.
    let stop = supervisor.part("mqtt", deadline + Duration::from_millis(config.mqtt.drain_timeout_ms));
    let broker = broker::Broker::new(wire::broker_config(config), door, state.metrics.broker.clone(), retained);
    supervisor.spawn("mqtt", "mqtt broker", async move {
        broker.run(listeners.mqtt, stop).await.context("accept connections")
    });

    let stop = supervisor.part("log", deadline);
    supervisor.spawn("log", "log", state::watch_log(state.clone(), stop));
    supervisor.finish("log", async move {
        tokio::task::spawn_blocking(move || batcher.close()).await.context("close the log")
    });

    let stop = supervisor.part("sinks", deadline);
    supervisor.spawn("sinks", "flusher", async move { Ok(flusher.run(stop).await?) });

    // Given back when the last flush is over.
    let stop = supervisor.part("leases", deadline);
    supervisor.spawn("leases", "leases of the logs", leases.keep(stop));

    let stop = supervisor.part("grpc", deadline + Duration::from_millis(config.grpc.drain_timeout_ms));
    let metrics = state.metrics.api.clone();
    supervisor.spawn("grpc", "grpc services", async move {
        Ok(api::serve(listeners.grpc, backend, api, metrics, stop).await?)
    });

    let stop = supervisor.part("http", HTTP_DEADLINE);
    supervisor.spawn("http", "http", http::serve(listeners.http, state.clone(), addresses, stop));

    // Last: what the others did while they stopped is told too.
    if let Some(exporter) = exporter {
        let stop = supervisor.part("traces", exporter.deadline());
        supervisor.spawn("traces", "export of spans", exporter.run(stop));
    }

    let signals = stop_signal()?;
    data.publish(&addresses)?;
    welcome(&addresses, &data);
    let stopping = state.clone();
    let ended = supervisor
        .run(async move {
            let name = signals.await;
            stopping.stop();
            tokio::spawn(end_at_second_signal());
            name
        })
        .await;
    data.withdraw();
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    Ok(ended)
}

/// Resolves with the name of the first signal that asks to stop.
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for ctrl-c")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Whoever asks twice does not want to wait. What is acknowledged is on disk.
async fn end_at_second_signal() {
    if let Ok(second) = stop_signal() {
        let name = second.await;
        tracing::error!(signal = name, "second signal: ended at once");
        std::process::exit(1);
    }
}

fn welcome(addresses: &Addresses, data: &DataDir) {
    let Addresses { mqtt, grpc, http } = addresses;
    let host = if mqtt.port() == 1883 { String::new() } else { format!("-p {} ", mqtt.port()) };
    let server = if grpc.port() == 50051 { String::new() } else { format!(" --server http://{grpc}") };
    remark(&format!(
        "Weir {} is ready.\n  MQTT   {mqtt}\n  gRPC   {grpc}\n  HTTP   http://{http}\n  data   {}\n\
         Publish:    mosquitto_pub {host}-t devices/d1/telemetry -m '{{\"temperature\":21.5}}' -q 1\n\
         Read back:  weir latest d1{server}",
        env!("CARGO_PKG_VERSION"),
        data.path().display(),
    ));
}
