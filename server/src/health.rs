//! `weir health`: what `/health/ready` says, where there is neither shell nor HTTP client, as in a container.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::cli::HealthOptions;
use crate::config::{self, Sources};
use crate::run::state::Readiness;

/// A process that is well answers sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer is longer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Prints what it says; fails when it is not ready.
///
/// # Errors
/// When nobody answers.
pub(crate) fn run(options: &HealthOptions) -> anyhow::Result<ExitCode> {
    let address = address(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(address)).await });
    let readiness = match asked {
        Ok(readiness) => readiness?,
        Err(_) => bail!("{address} gives no answer within {PATIENCE:?}"),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", if readiness.ready { "ready" } else { "not ready" })?;
    for reason in &readiness.reasons {
        writeln!(out, "  {reason}")?;
    }
    Ok(if readiness.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where a process with this configuration is reached from its own machine.
fn address(options: &HealthOptions) -> anyhow::Result<SocketAddr> {
    let mut sources = Sources::of_process(options.config.clone());
    sources.flags.extend(options.http.clone().map(|address| ("http.address", address)));
    let text = config::load(&sources)?.config.http.address;
    let address: SocketAddr = text.parse().with_context(|| format!("http.address {text:?} is no address and port"))?;
    if address.port() == 0 {
        bail!(
            "http.address {text} is any free port: name the one it took with --http (see addresses.json in the data folder)"
        );
    }
    Ok(match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    })
}

async fn ask(address: SocketAddr) -> anyhow::Result<Readiness> {
    let silent =
        || format!("no weir answers at {address}: start one with `weir run`, or name another address with --http");
    let uri = Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/health/ready").build()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let answer = client.get(uri).await.with_context(silent)?;
    let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER_BYTES).await.with_context(silent)?;
    serde_json::from_slice(&body).with_context(|| format!("what listens on {address} is no weir"))
}
