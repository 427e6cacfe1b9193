//! The commands that query a running server over gRPC.

mod access;
pub(crate) mod access_cli;
mod audit;
mod authorities;
pub(crate) mod authorities_cli;
mod books;
mod broker;
pub(crate) mod broker_cli;
pub(crate) mod cli;
mod dead_letters;
mod device_access;
mod device_import;
mod devices;
pub(crate) mod devices_cli;
mod export;
mod exports;
mod groups;
pub(crate) mod groups_cli;
mod issuers;
pub(crate) mod issuers_cli;
mod latest;
pub(crate) mod names;
pub(crate) mod output;
mod password;
mod query;
pub(crate) mod status;
mod tail;
pub(crate) mod time;
pub(crate) mod unrouted;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use cli::{ClientCommand, Server};

use crate::config::Config;

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
            ClientCommand::Groups(options) => groups::groups(&options).await?,
            ClientCommand::Authorities(options) => authorities::authorities(&options).await?,
            ClientCommand::Issuers(options) => issuers::issuers(&options).await?,
            ClientCommand::Roles(options) => issuers::roles(&options).await?,
            ClientCommand::Tenants(options) => access::tenants(&options).await?,
            ClientCommand::Audit(options) => return audit::run(&options).await,
            ClientCommand::Latest(options) => latest::run(&options).await?,
            ClientCommand::Query(options) => query::run(&options).await?,
            ClientCommand::Tail(options) => tail::run(&options).await?,
            ClientCommand::DeadLetters(options) => return dead_letters::run(&options).await,
            ClientCommand::Sessions(options) => return broker::sessions(&options).await,
            ClientCommand::Subscriptions(options) => return broker::subscriptions(&options).await,
            ClientCommand::Retained(options) => return broker::retained(&options).await,
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

impl From<&Server> for Target {
    fn from(Server { server, ca }: &Server) -> Self {
        let ca = ca.as_ref().map(|path| tls::Named::new("--ca", path));
        Self { server: server.clone(), trust: Trust::Authority(ca) }
    }
}

/// A server, and the certificates that it may have.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) server: String,
    pub(crate) trust: Trust,
}

/// Certificates of a server.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// From the authority in the file, or from those that browsers trust.
    Authority(Option<tls::Named>),
    /// The one in the file.
    This(tls::Named),
}

impl Target {
    /// The process of this machine with this configuration.
    pub(crate) fn of_process(config: &Config, grpc: impl std::fmt::Display) -> Self {
        match config.tls.files() {
            Some(files) => Self { server: format!("https://{grpc}"), trust: Trust::This(files.certificate) },
            None => Self { server: format!("http://{grpc}"), trust: Trust::Authority(None) },
        }
    }

    /// The server that is given, or the process with this configuration.
    pub(crate) fn given_or_of(server: Option<&String>, ca: Option<&PathBuf>, config: &Config) -> Self {
        match server {
            Some(server) => Self::from(&Server { server: server.clone(), ca: ca.cloned() }),
            None => Self::of_process(config, &config.grpc.address),
        }
    }

    fn client(&self) -> Result<tls::Client, tls::FileError> {
        Ok(match &self.trust {
            Trust::This(certificate) => tls::Client::with(tls::pinned(certificate)?),
            Trust::Authority(ca) => tls::Client::open(tls::ClientFiles { ca: ca.clone(), identity: None }, &["h2"])?,
        })
    }
}

/// Connects to the server.
///
/// # Errors
/// When the target is not a URL, no server answers there, its certificate is not valid, or the API
/// key cannot be read.
pub(crate) async fn connect(target: impl Into<Target>) -> anyhow::Result<Connection> {
    let target = target.into();
    let server = &target.server;
    let url = if server.contains("://") { server.clone() } else { format!("http://{server}") };
    // The connector encrypts: the channel has nothing to do with it.
    let encrypted = url.strip_prefix("https://").map(|rest| format!("http://{rest}"));
    let endpoint = Endpoint::from_shared(encrypted.clone().unwrap_or_else(|| url.clone()))
        .with_context(|| format!("cannot parse --server {server:?} as a URL: use the form http://127.0.0.1:50051"))?
        .connect_timeout(Duration::from_secs(5));
    let credential = Credential::of_environment()?;
    let connected = match encrypted {
        Some(_) => endpoint.connect_with_connector(tls::Connector::new(target.client()?)).await,
        None => endpoint.connect().await,
    };
    let channel = match connected {
        Ok(channel) => channel,
        Err(error) => anyhow::bail!(unreachable(&url, &error).await),
    };
    Ok(InterceptedService::new(channel, credential))
}

/// The reason why there is no connection.
async fn unreachable(url: &str, error: &tonic::transport::Error) -> String {
    if let Some(fault) = tls::explain(error) {
        return format!("cannot connect to {url}: {fault}");
    }
    let address = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let (host, port) = stores::tls::host_and_port(address, 50051);
    if let Some(difference) = stores::tls::differs(host, port, url.starts_with("https://")).await {
        let cure = if url.starts_with("https://") { "http://" } else { "https:// and --ca FILE" };
        return format!("cannot connect to {url}: {}: use {cure}", difference.words());
    }
    format!("no server answers at {url}: start one with `weir run`, or name another with --server URL")
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
        // A command cancels no call of its own: the connection was closed before the answer.
        Code::Unavailable | Code::Unknown | Code::Cancelled
            if message.is_empty()
                || message.contains("transport error")
                || message.contains("operation was canceled") =>
        {
            anyhow::anyhow!(
                "lost the connection to the server: check it with `weir doctor`; a server with TLS needs https:// and --ca FILE"
            )
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
