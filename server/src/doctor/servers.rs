//! Checks of the configured servers, before a start.

use std::future::Future;
use std::time::Duration;

use buffer::redis::{OpenError, Redis};
use cluster::members::Members;
use stores::contract::{Store, StoreError};
use stores::mongodb::MongoStore;

use super::Finding;
use crate::config::{Config, Place};
use crate::run::lane::of_pool;
use crate::run::{fellows, settings};
use crate::traces::tls_differs;
use crate::{access, exports};

/// Time within which a server answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to every configured server as a start does.
pub(super) async fn configured(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.redis.is_used() {
        findings.extend(redis(config).await);
    }
    let waits = |error: &StoreError| matches!(error, StoreError::Busy { .. });
    if config.auth.required && config.auth.place() != Place::Embedded {
        let waits = |error: &identity::Error| matches!(error, identity::Error::Unavailable(_));
        let without = "no device and no caller is admitted without it, but for those that were lately";
        findings.push(check("registry", without, waits, access::check(config)).await);
    }
    if !config.mongodb.uri.is_empty() {
        let store = MongoStore::new(config.mongodb.clone(), std::sync::Arc::default());
        let without = "devices are accepted without it, queries wait for it";
        findings.push(check("MongoDB", without, waits, store.ready()).await);
    }
    for pool in &config.pool {
        let what = format!("MongoDB of pool {}", pool.name);
        match config.of_pool(pool) {
            Ok(of_pool) if !pool.redis.is_empty() => findings.push(connect_redis(&of_pool).await.1),
            _ => {}
        }
        match config.of_pool(pool) {
            Ok(of_pool) if of_pool.mongodb.uri.is_empty() => {}
            Ok(of_pool) => {
                let store = MongoStore::new(of_pool.mongodb, std::sync::Arc::default());
                let without = "its devices are accepted without it, its queries wait for it";
                findings.push(check(&what, without, waits, store.ready()).await);
            }
            Err(error) => findings.push(Finding::fail(&what, format!("{error:#}"))),
        }
    }
    match exports::open_all(config, &exports::Metrics::default()).await {
        Ok(opened) => {
            for export in opened {
                let what = format!("export {}", export.name);
                let without = "devices are accepted without it, the log keeps its readings";
                findings.push(check(&what, without, waits, export.store.ready()).await);
            }
        }
        Err(error) => findings.push(Finding::fail("exports", format!("{error:#}"))),
    }
    findings.extend(collector(&config.tracing.endpoint).await);
    findings
}

/// Connects to the Redis of a pool.
async fn connect_redis(config: &Config) -> (Option<Redis>, Finding) {
    let what = of_pool("Redis", config.redis.log.pool.as_deref());
    let mut connected = None;
    let connect = async {
        connected = Some(Redis::connect(settings::redis_log(config)).await?);
        Ok(())
    };
    let waits = |error: &OpenError| matches!(error, OpenError::Unreachable(_));
    let finding = check(&what, "a start waits for it", waits, connect).await;
    (connected, finding)
}

/// Connects to the Redis of the shared pool, and compares the pools of the running processes.
async fn redis(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "pools";
    let (connected, finding) = connect_redis(config).await;
    let mut findings = vec![finding];
    if let Some(redis) = connected.filter(|_| config.is_fleet()) {
        let own = fellows::member(config, "");
        match tokio::time::timeout(PATIENCE, Members::of(&redis).list()).await {
            Ok(Ok(members)) => findings.push(match fellows::differing(&members, &own) {
                Some(reason) => Finding::warn(WHAT, reason),
                None => Finding::ok(WHAT, format!("{} running processes have the same pools", members.len())),
            }),
            Ok(Err(error)) => findings.push(Finding::warn(WHAT, format!("cannot be compared: {error}"))),
            Err(_) => findings.push(Finding::warn(WHAT, format!("cannot be compared within {PATIENCE:?}"))),
        }
    }
    findings
}

/// Connects to the collector of spans.
async fn collector(endpoint: &str) -> Option<Finding> {
    const WHAT: &str = "tracing";
    let (scheme, rest) = endpoint.split_once("://")?;
    let default = if scheme == "https" { 443 } else { 80 };
    let place = stores::tls::host_and_port(rest.trim_end_matches('/'), default);
    let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(place)).await;
    let fault = match connected {
        Ok(Ok(stream)) => {
            drop(stream);
            tls_differs(endpoint).await
        }
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no connection within {PATIENCE:?}")),
    };
    Some(match fault {
        None => Finding::ok(WHAT, "a collector's port accepts connections"),
        Some(fault) => Finding::warn(
            WHAT,
            format!("`tracing.endpoint` = {endpoint:?}: {fault}; spans are dropped, readings are not"),
        ),
    })
}

/// `without` is the effect of a server that does not respond.
async fn check<E: std::fmt::Display>(
    what: &str,
    without: &str,
    waits: impl Fn(&E) -> bool,
    connect: impl Future<Output = Result<(), E>>,
) -> Finding {
    match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(())) => Finding::ok(what, "responds and accepts the settings"),
        Ok(Err(error)) if waits(&error) => Finding::warn(what, format!("does not respond: {error}; {without}")),
        Ok(Err(error)) => Finding::fail(what, error.to_string()),
        Err(_) => Finding::warn(what, format!("does not respond within {PATIENCE:?}; {without}")),
    }
}
