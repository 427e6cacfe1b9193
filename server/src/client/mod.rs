//! The commands that query a running server over gRPC.

mod access;
pub(crate) mod access_cli;
mod books;
pub(crate) mod cli;
mod dead_letters;
mod devices;
mod export;
mod exports;
mod latest;
pub(crate) mod names;
pub(crate) mod output;
mod query;
pub(crate) mod status;
mod tail;
pub(crate) mod time;
pub(crate) mod unrouted;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use cli::ClientCommand;

/// Maximum size of an answer.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Runs a command.
///
/// # Errors
/// One line, with advice.
pub(crate) fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    runtime.block_on(async {
        match command {
            ClientCommand::Devices(options) => devices::run(&options).await?,
            ClientCommand::Keys(options) => access::keys(&options).await?,
            ClientCommand::Tenants(options) => access::tenants(&options).await?,
            ClientCommand::Audit(options) => return access::audit(&options).await,
            ClientCommand::Latest(options) => latest::run(&options).await?,
            ClientCommand::Query(options) => query::run(&options).await?,
            ClientCommand::Tail(options) => tail::run(&options).await?,
            ClientCommand::DeadLetters(options) => return dead_letters::run(&options).await,
            ClientCommand::Books(options) => return books::run(&options).await,
            ClientCommand::Status(options) => return status::run(&options).await,
            ClientCommand::Unrouted(options) => unrouted::run(&options).await?,
            ClientCommand::Exports(options) => return exports::run(&options).await,
            ClientCommand::Export(options) => export::run(&options).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Variable with the API key of the caller, and one with the file that holds it.
const KEY: &str = "WEIR_API_KEY";
const KEY_FILE: &str = "WEIR_API_KEY_FILE";

/// A connection to the server, with the credential of the caller.
pub(crate) type Connection = InterceptedService<Channel, Credential>;

/// Adds the API key of the caller to each call.
#[derive(Clone)]
pub(crate) struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    /// The key of the environment; no key when it names none.
    ///
    /// # Errors
    /// When the file cannot be read, or its content cannot be a key. The key is not in the error.
    fn of_environment() -> anyhow::Result<Self> {
        let (name, key) = match (std::env::var(KEY), std::env::var_os(KEY_FILE)) {
            (Ok(key), _) if !key.is_empty() => (KEY.to_owned(), key),
            (_, Some(file)) if !file.is_empty() => {
                let path = std::path::PathBuf::from(file);
                let key = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read the API key from {} ({KEY_FILE})", path.display()))?;
                (path.display().to_string(), key)
            }
            _ => return Ok(Self(None)),
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", key.trim())
            .parse()
            .map_err(|_| anyhow::anyhow!("{name} does not hold an API key: it begins with weir_ and is one line"))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// Connects to the server.
///
/// # Errors
/// When `server` is not a URL, no server answers there, or the API key cannot be read.
pub(crate) async fn connect(server: &str) -> anyhow::Result<Connection> {
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let endpoint = Endpoint::from_shared(url.clone())
        .with_context(|| format!("cannot parse --server {server:?} as a URL: use the form http://127.0.0.1:50051"))?
        .connect_timeout(Duration::from_secs(5));
    let credential = Credential::of_environment()?;
    let channel = endpoint.connect().await.map_err(|_| {
        anyhow::anyhow!("no server answers at {url}: start one with `weir run`, or name another with --server URL")
    })?;
    Ok(InterceptedService::new(channel, credential))
}

/// Creates the client of a service with our limits.
macro_rules! client {
    ($client:ty, $channel:expr) => {
        <$client>::new($channel).max_decoding_message_size($crate::client::MAX_ANSWER_BYTES)
    };
}
pub(crate) use client;

/// Converts the error of a call into one for the operator.
pub(crate) fn refused(status: &Status) -> anyhow::Error {
    let message = status.message().trim();
    match status.code() {
        Code::Unavailable if message.is_empty() || message.contains("transport") => {
            anyhow::anyhow!("lost the connection to the server: check it with `weir doctor`")
        }
        Code::Unimplemented => {
            anyhow::anyhow!(
                "the server does not support this call ({message}): use a server of the same release as this command"
            )
        }
        Code::Unavailable => anyhow::anyhow!("{message}: try again, or check `weir status`"),
        Code::Internal | Code::DataLoss | Code::Unknown => {
            anyhow::anyhow!("the server has failed: {message}: check its log")
        }
        Code::Unauthenticated => {
            anyhow::anyhow!("{message}; commands read the API key from {KEY}, or from the file that {KEY_FILE} names")
        }
        Code::DeadlineExceeded => {
            anyhow::anyhow!("the server did not answer in time: use a smaller range, or check `weir status`")
        }
        _ => anyhow::anyhow!("{message}"),
    }
}
