//! The commands that ask a running server over gRPC.

pub(crate) mod books;
pub(crate) mod cli;
mod dead_letters;
mod devices;
mod export;
mod latest;
mod names;
pub(crate) mod output;
mod query;
pub(crate) mod status;
mod tail;
pub(crate) mod time;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use cli::ClientCommand;

/// Largest answer that is taken.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Runs a command.
///
/// # Errors
/// In one line, with what to do.
pub(crate) fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    runtime.block_on(async {
        match command {
            ClientCommand::Devices(options) => devices::run(&options).await?,
            ClientCommand::Latest(options) => latest::run(&options).await?,
            ClientCommand::Query(options) => query::run(&options).await?,
            ClientCommand::Tail(options) => tail::run(&options).await?,
            ClientCommand::DeadLetters(options) => return dead_letters::run(&options).await,
            ClientCommand::Books(options) => return books::run(&options).await,
            ClientCommand::Status(options) => return status::run(&options).await,
            ClientCommand::Export(options) => export::run(&options).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A connection to the server.
///
/// # Errors
/// When the URL is none or nobody answers there.
pub(crate) async fn connect(server: &str) -> anyhow::Result<Channel> {
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| format!("--server {server:?} is no URL: use http://127.0.0.1:50051"))?
        .connect_timeout(Duration::from_secs(5));
    endpoint.connect().await.map_err(|_| {
        anyhow::anyhow!("no server answers at {url}: start one with `weir run`, or name another with --server URL")
    })
}

/// A service's client with our limits.
macro_rules! client {
    ($client:ty, $channel:expr) => {
        <$client>::new($channel).max_decoding_message_size($crate::client::MAX_ANSWER_BYTES)
    };
}
pub(crate) use client;

/// What a refusal means to a person.
pub(crate) fn refused(status: &Status) -> anyhow::Error {
    let message = status.message().trim();
    match status.code() {
        Code::Unavailable if message.is_empty() || message.contains("transport") => {
            anyhow::anyhow!("the server went away; look whether it runs with `weir doctor`")
        }
        Code::Unimplemented => {
            anyhow::anyhow!("the server does not know this call: it is an older Weir or another program ({message})")
        }
        Code::Unavailable => anyhow::anyhow!("{message}; try again, or see `weir status`"),
        Code::Internal | Code::DataLoss | Code::Unknown => anyhow::anyhow!("the server failed: {message}; see its log"),
        Code::DeadlineExceeded => {
            anyhow::anyhow!("the server did not answer in time: ask for less, or see `weir status`")
        }
        _ => anyhow::anyhow!("{message}"),
    }
}
