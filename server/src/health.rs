//! `weir health`: prints the answer of `/health/ready`, for containers without a shell and an HTTP
//! client.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;

use crate::cli::HealthOptions;
use crate::config::{self, Config, Sources};
use crate::local::{Local, reachable};
use crate::run::state::Readiness;

/// Time within which a healthy process answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum size of an answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Prints the readiness; the exit code is a failure when the process is not ready.
///
/// # Errors
/// When no process answers.
pub(crate) fn run(options: &HealthOptions) -> anyhow::Result<ExitCode> {
    let (config, address) = address(options)?;
    let readiness = at(&config, address)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", readiness.word())?;
    for reason in &readiness.reasons {
        writeln!(out, "  {reason}")?;
    }
    Ok(if readiness.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The readiness of the process with this configuration at `address`.
///
/// # Errors
/// When no process answers there.
pub(crate) fn at(config: &Config, address: SocketAddr) -> anyhow::Result<Readiness> {
    // Healthy while the file of the certificate is renewed, or cannot be read.
    let local = Local::without_secrets(config, address)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    match runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&local, address)).await }) {
        Ok(readiness) => readiness,
        Err(_) => bail!("{address} does not answer within {PATIENCE:?}: check the log of the process"),
    }
}

/// The configuration, and the address at which a process with it answers on its own machine.
fn address(options: &HealthOptions) -> anyhow::Result<(Config, SocketAddr)> {
    let mut sources = Sources::of_process(options.config.clone());
    sources.flags.extend(options.http.clone().map(|address| ("http.address", address)));
    let config = config::load(&sources)?.config;
    let text = &config.http.address;
    let address: SocketAddr = text.parse().with_context(|| {
        format!("cannot parse http.address {text:?} as an address and a port: use the form 127.0.0.1:8080")
    })?;
    if address.port() == 0 {
        bail!(
            "http.address {text} stands for any free port: set the actual one with --http (see addresses.json in the data folder)"
        );
    }
    Ok((config, reachable(address)))
}

async fn ask(local: &Local, address: SocketAddr) -> anyhow::Result<Readiness> {
    let silent = || {
        format!("no weir process answers at {address}: start one with `weir run`, or set another address with --http")
    };
    let answer = local.client().get(local.uri(address, "/health/ready")?).await.with_context(silent)?;
    let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER_BYTES).await.with_context(silent)?;
    serde_json::from_slice(&body)
        .with_context(|| format!("the program that listens on {address} is not weir: set another address with --http"))
}
