//! Latency of calls while devices publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hdrhistogram::Histogram;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{BatchGetLatestRequest, ListReadingsRequest, SeriesSelector};
use serde::Serialize;
use tonic::Status;

use super::Load;
use super::connection::histogram;
use crate::oracle::Weir;

/// Readings that a call for the history reads at most.
const PAGE: i32 = 100;
/// Calls under way; further ones wait, and their time counts.
const MOST: usize = 64;

/// Latency of calls, from the time at which each was due.
#[derive(Debug, Clone, Serialize)]
pub struct Calls {
    /// Answered calls.
    pub answered: u64,
    /// Failed calls.
    pub failed: u64,
    /// Error of the first call that failed.
    pub first_failure: String,
    /// Microseconds.
    pub p50_us: u64,
    /// Microseconds.
    pub p99_us: u64,
    /// Microseconds.
    pub max_us: u64,
}

/// Calls at the rate of the load for its measured time, by turns for the latest values and the
/// history of a device.
pub(super) async fn measure(weir: &Weir, load: &Arc<Load>) -> Calls {
    let (begun, period) = (Instant::now(), Duration::from_secs_f64(1.0 / load.calls.max(0.001)));
    let end = begun + Duration::from_secs_f64(load.secs);
    let (mut under_way, mut times) = (FuturesUnordered::new(), histogram());
    let mut calls = Calls { answered: 0, failed: 0, first_failure: String::new(), p50_us: 0, p99_us: 0, max_us: 0 };
    let (mut number, mut due) = (0_usize, begun);
    loop {
        let is_over = due >= end;
        if is_over && under_way.is_empty() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due.into()), if !is_over && under_way.len() < MOST => {
                let device = format!("tenants/-/devices/sim-{}", load.first_device + (number / 2) % load.conns.max(1));
                let of_history = number % 2 == 1;
                under_way.push(call(weir, device, of_history).map(move |answer| (due, answer)));
                number += 1;
                due += period;
            }
            Some((due, answer)) = under_way.next() => count(&mut calls, &mut times, due, answer),
        }
    }
    (calls.p50_us, calls.p99_us) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
    calls.max_us = times.max();
    calls
}

fn count(calls: &mut Calls, times: &mut Histogram<u64>, due: Instant, answer: Result<(), Status>) {
    match answer {
        Ok(()) => {
            calls.answered += 1;
            times.saturating_record(u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Err(status) => {
            if calls.failed == 0 {
                calls.first_failure = status.to_string();
            }
            calls.failed += 1;
        }
    }
}

async fn call(weir: &Weir, device: String, of_history: bool) -> Result<(), Status> {
    let mut client = TelemetryServiceClient::new(weir.channel());
    if of_history {
        let request = ListReadingsRequest { parent: device, page_size: PAGE, ..Default::default() };
        return client.list_readings(weir.request(request)).await.map(drop);
    }
    let selector = Some(SeriesSelector { devices: vec![device], ..Default::default() });
    let request = BatchGetLatestRequest { parent: "tenants/-".to_owned(), selector, ..Default::default() };
    client.batch_get_latest(weir.request(request)).await.map(drop)
}
