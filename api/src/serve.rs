//! Serves the services on a listener.

use std::time::Duration;

use proto::v1::access_service_server::AccessServiceServer;
use proto::v1::audit_service_server::AuditServiceServer;
use proto::v1::authority_service_server::AuthorityServiceServer;
use proto::v1::broker_service_server::BrokerServiceServer;
use proto::v1::dead_letter_service_server::DeadLetterServiceServer;
use proto::v1::device_service_server::DeviceServiceServer;
use proto::v1::export_service_server::ExportServiceServer;
use proto::v1::group_service_server::GroupServiceServer;
use proto::v1::issuer_service_server::IssuerServiceServer;
use proto::v1::operations_service_server::OperationsServiceServer;
use proto::v1::telemetry_service_server::TelemetryServiceServer;
use proto::v1::tenant_service_server::TenantServiceServer;
use tls::{Acceptor, Connections};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;

use crate::auth::{RuleError, Rules};
use crate::browsers::BrowsersLayer;
use crate::calls::CallsLayer;
use crate::metrics::Metrics;
use crate::services::{
    AccessApi, AuditApi, AuthorityApi, BrokerApi, DeadLetterApi, DeviceApi, ExportApi, GroupApi, IssuerApi,
    OperationsApi, Shared, TelemetryApi, TenantApi,
};
use crate::{Backend, Config, health};

/// Time within which a connection must answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of requests that a connection may send before they are read, of one call and of all.
const CALL_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// Maximum size of the headers of a call, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Failure of the services.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authorization rules are incomplete.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// Reflection cannot be offered.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport has failed.
    #[error("cannot serve the api: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves gRPC and gRPC-Web, encrypted with an acceptor, until `shutdown` is cancelled; then ends
/// open streams, waits for calls in progress for at most
/// [`Limits::drain_timeout`](crate::Limits::drain_timeout), and returns.
///
/// # Errors
/// [`Error`].
pub async fn serve(
    (listener, tls): (TcpListener, Option<Acceptor>),
    backend: Backend,
    config: Config,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let rules = Rules::read(proto::FILE_DESCRIPTOR_SET)?;
    let calls = CallsLayer::new(rules, &config, metrics.clone());
    let reporter = HealthReporter::new();
    let health = health::server(reporter.clone());
    reporter.set_serving::<DeviceServiceServer<DeviceApi>>().await;
    reporter.set_serving::<TelemetryServiceServer<TelemetryApi>>().await;
    reporter.set_serving::<DeadLetterServiceServer<DeadLetterApi>>().await;
    reporter.set_serving::<BrokerServiceServer<BrokerApi>>().await;
    reporter.set_serving::<ExportServiceServer<ExportApi>>().await;
    reporter.set_serving::<OperationsServiceServer<OperationsApi>>().await;
    reporter.set_serving::<AccessServiceServer<AccessApi>>().await;
    reporter.set_serving::<IssuerServiceServer<IssuerApi>>().await;
    reporter.set_serving::<GroupServiceServer<GroupApi>>().await;
    reporter.set_serving::<AuthorityServiceServer<AuthorityApi>>().await;
    reporter.set_serving::<TenantServiceServer<TenantApi>>().await;
    reporter.set_serving::<AuditServiceServer<AuditApi>>().await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Many clients support only the older version.
    let (reflection, older_reflection) = (describe().build_v1()?, describe().build_v1alpha()?);
    let (keepalive, drain_timeout) = (config.keepalive_interval, config.limits.drain_timeout);
    let (max_connections, call_timeout) = (config.limits.max_connections, config.limits.call_timeout);
    let (calls_at_once, request_bytes, response_bytes) =
        (config.limits.max_concurrent_calls, config.max_request_bytes, config.max_response_bytes);
    let browsers = BrowsersLayer::new(&config.limits.web_origins);
    let shared = Shared::new(backend, config, metrics, shutdown.clone());

    macro_rules! tuned {
        ($server:ident, $api:ident) => {
            $server::new($api(shared.clone()))
                .accept_compressed(Gzip)
                .send_compressed(Gzip)
                .max_decoding_message_size(request_bytes)
                .max_encoding_message_size(response_bytes)
        };
    }
    let router = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(calls_at_once)
        .layer(browsers)
        .layer(GrpcWebLayer::new())
        .layer(calls)
        .add_service(tuned!(DeviceServiceServer, DeviceApi))
        .add_service(tuned!(TelemetryServiceServer, TelemetryApi))
        .add_service(tuned!(DeadLetterServiceServer, DeadLetterApi))
        .add_service(tuned!(BrokerServiceServer, BrokerApi))
        .add_service(tuned!(ExportServiceServer, ExportApi))
        .add_service(tuned!(OperationsServiceServer, OperationsApi))
        .add_service(tuned!(AccessServiceServer, AccessApi))
        .add_service(tuned!(IssuerServiceServer, IssuerApi))
        .add_service(tuned!(GroupServiceServer, GroupApi))
        .add_service(tuned!(AuthorityServiceServer, AuthorityApi))
        .add_service(tuned!(TenantServiceServer, TenantApi))
        .add_service(tuned!(AuditServiceServer, AuditApi))
        .add_service(health)
        .add_service(reflection)
        .add_service(older_reflection);
    // A client of HTTP/2 answers the pings; one of HTTP/1 may wait for a call.
    let idle = keepalive.max(call_timeout) + 2 * PING_TIMEOUT;
    let connections = Connections::new(listener, "grpc.max_connections", max_connections, idle, b"").with_tls(tls);
    let incoming = futures::stream::unfold(connections, async |mut connections| {
        let (stream, _) = connections.accept().await;
        Some((Ok::<_, std::io::Error>(stream), connections))
    });
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = serving => Ok(ended?),
        () = late(shutdown, drain_timeout) => {
            tracing::warn!("calls were still in progress at the end of the drain timeout");
            Ok(())
        }
    }
}

async fn late(shutdown: CancellationToken, timeout: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(timeout).await;
}
