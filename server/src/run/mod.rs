//! `weir run`: from the configuration to a supervised process.

mod fleet;
mod later;
mod limits;
mod log;
mod parts;
pub(crate) mod replay;
mod sole;
pub(crate) mod start;
pub(crate) mod state;
mod stores;
pub(crate) mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::RunOptions;
use crate::client::output::remark;
use crate::config::{self, Config};
use crate::data_dir::{Addresses, DataDir};
use crate::supervise::{EndError, Supervisor};
use crate::{http, logs};

/// Time for the status page's last answers.
const HTTP_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the last answers to other processes.
const FLEET_DEADLINE: Duration = Duration::from_secs(5);

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
    let ended = runtime.block_on(serve(loaded.config));
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

async fn serve(config: Config) -> anyhow::Result<Result<(), EndError>> {
    let config = Arc::new(config);
    let data = DataDir::open(&config.data_dir)?;
    let listeners = wire::Listeners::bind(&config).await?;
    let addresses = listeners.addresses()?;
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let advertised = addresses.fleet.map(|address| config.fleet.advertised(address)).transpose()?;
    let (start, metrics) = (start::Start::default(), state::Metrics::default());
    let (http, http_stop) = {
        let (start, metrics) = (start.clone(), metrics.clone());
        let site = http::Site { start, metrics, addresses, data_dir: data.path().to_owned() };
        let stop = CancellationToken::new();
        // Before the rest: whoever asks why nothing happens is told what is waited for.
        (tokio::spawn(http::serve(listeners.http, site, stop.clone())), stop)
    };
    let mut signals = std::pin::pin!(stop_signal()?);
    let opening = async {
        let mut parts = parts::Parts::open(&config, &data, metrics, &start, advertised).await?;
        let rest = tokio::select! {
            rest = &mut parts.rest => Some(rest?),
            () = start.waits(), if parts.intake.is_some() => None,
        };
        anyhow::Ok((parts, rest))
    };
    let (parts, rest) = tokio::select! {
        opened = opening => opened?,
        name = &mut signals => {
            tracing::info!(signal = name, "stopped before it was ready");
            return Ok(Ok(()));
        }
    };
    let parts::Parts { state, intake, leases, exporter, rest: coming } = parts;
    let whole = rest.is_some();
    start.works(state.clone());

    let (later, outlets) = later::outlets();
    let mut supervisor = Supervisor::default();
    // In the order in which they stop.
    if let (Some(intake), Some(listener)) = (intake, listeners.mqtt) {
        take_in(&mut supervisor, &config, &state, intake, outlets.retained, listener);
    }
    let stop = supervisor.part("sinks", deadline);
    match rest {
        Some(rest) => {
            let sinks = later.hand_out(rest, &start);
            supervisor.spawn("sinks", "flusher", sinks.run(stop));
        }
        None => supervisor.spawn("sinks", "flusher", async move {
            let sinks = later.open(coming, &start, &stop).await?;
            sinks.run(stop).await
        }),
    }
    if let Some(leases) = leases {
        // Given back when the last flush is over.
        let stop = supervisor.part("leases", deadline);
        supervisor.spawn("leases", "leases of the logs", leases.keep(stop));
    }
    if let Some(listener) = listeners.fleet {
        // Others ask until the last flush is over.
        let stop = supervisor.part("fleet", FLEET_DEADLINE);
        let secret = config.fleet.secret.clone();
        supervisor.spawn("fleet", "answers to the fleet", async move {
            let Some(handle) = outlets.fleet.get_behind(&listener, &stop).await else { return Ok(()) };
            flusher::fleet::serve(listener, handle, &secret, stop).await.context("answer the fleet")
        });
    }
    let stop = supervisor.part("logs", deadline);
    supervisor.spawn("logs", "list of the logs", async move {
        match outlets.readers.get(&stop).await {
            Some(readers) => readers.watch(stop).await,
            None => stop.cancelled().await,
        }
        Ok(())
    });
    if let Some(listener) = listeners.grpc {
        let stop = supervisor.part("grpc", deadline + Duration::from_millis(config.grpc.drain_timeout_ms));
        let metrics = state.metrics.api.clone();
        supervisor.spawn("grpc", "grpc services", async move {
            let Some((backend, settings)) = outlets.api.get_behind(&listener, &stop).await else { return Ok(()) };
            Ok(api::serve(listener, backend, settings, metrics, stop).await?)
        });
    }

    supervisor.part_that_ends_with("http", HTTP_DEADLINE, http_stop);
    supervisor.spawn("http", "http", async move { http.await.context("serve http")? });

    // Last: what the others did while they stopped is told too.
    if let Some(exporter) = exporter {
        let stop = supervisor.part("traces", exporter.deadline());
        supervisor.spawn("traces", "export of spans", exporter.run(stop));
    }

    data.publish(&addresses)?;
    welcome(&addresses, &data, whole);
    let delay = Duration::from_millis(config.shutdown_delay_ms);
    let ended = supervisor
        .run(async move {
            let name = signals.await;
            state.stop();
            tokio::spawn(end_at_second_signal());
            if !delay.is_zero() {
                tracing::info!(signal = name, milliseconds = delay.as_millis(), "not ready any more; stopping soon");
                tokio::time::sleep(delay).await;
            }
            name
        })
        .await;
    data.withdraw();
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    Ok(ended)
}

/// Devices, and the log they fill.
fn take_in(
    supervisor: &mut Supervisor,
    config: &Config,
    state: &state::State,
    intake: parts::Intake,
    later: later::Outlet<Vec<broker::Message>>,
    listener: tokio::net::TcpListener,
) {
    let deadline = Duration::from_secs(config.shutdown_timeout_secs);
    let parts::Intake { door, batcher, retained } = intake;
    let stop = supervisor.part("mqtt", deadline + Duration::from_millis(config.mqtt.drain_timeout_ms));
    let awaited = retained.is_none();
    let broker = broker::Broker::new(wire::broker_config(config), door, state.metrics.broker.clone(), retained);
    if awaited {
        let (broker, stop) = (broker.clone(), stop.clone());
        supervisor.spawn("mqtt", "retained messages", async move {
            if let Some(messages) = later.get(&stop).await {
                tracing::info!(messages = messages.len(), "retained messages of earlier starts");
                broker.restore(messages);
            }
            stop.cancelled().await;
            Ok(())
        });
    }
    supervisor.spawn(
        "mqtt",
        "mqtt broker",
        async move { broker.run(listener, stop).await.context("accept connections") },
    );

    let stop = supervisor.part("log", deadline);
    supervisor.spawn("log", "log", state::watch_log(state.clone(), stop));
    supervisor.finish("log", async move {
        tokio::task::spawn_blocking(move || batcher.close()).await.context("close the log")
    });
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

fn welcome(addresses: &Addresses, data: &DataDir, whole: bool) {
    let Addresses { mqtt, grpc, http, fleet } = addresses;
    let is = if whole || grpc.is_none() {
        "is ready"
    } else {
        "takes readings; whoever asks for them has to wait for MongoDB"
    };
    let mut text = format!("Weir {} {is}.", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: String| text.push_str(&format!("\n  {name:6} {value}"));
    if let Some(mqtt) = mqtt {
        line("MQTT", mqtt.to_string());
    }
    if let Some(grpc) = grpc {
        line("gRPC", grpc.to_string());
    }
    line("HTTP", format!("http://{http}"));
    if let Some(fleet) = fleet {
        line("fleet", fleet.to_string());
    }
    line("data", data.path().display().to_string());
    if let Some(mqtt) = mqtt {
        let port = if mqtt.port() == 1883 { String::new() } else { format!("-p {} ", mqtt.port()) };
        text.push_str(&format!(
            "\nPublish:    mosquitto_pub {port}-t devices/d1/telemetry -m '{{\"temperature\":21.5}}' -q 1"
        ));
    }
    if let Some(grpc) = grpc {
        let server = if grpc.port() == 50051 { String::new() } else { format!(" --server http://{grpc}") };
        text.push_str(&format!("\nRead back:  weir latest d1{server}"));
    }
    remark(&text);
}
