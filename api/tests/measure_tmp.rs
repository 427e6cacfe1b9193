#![allow(warnings)]
extern crate weir_api as api;
#[path = "it/fakes.rs"]
mod fakes;
#[path = "it/world.rs"]
mod world;
use fakes::*;
use model::Value;
use proto::v1::*;
use std::time::Instant;
use world::*;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let world = World::start().await;
    const S: i64 = 1_000_000_000;
    let t0: i64 = 1_767_225_600 * S;
    let rows: Vec<Row> = (0..86_400i64)
        .map(|i| Row {
            time: t0 + i * S,
            seq: Some(i as u64),
            values: vec![
                ("temperature", Value::Float(20.0 + (i % 700) as f64 / 100.0)),
                ("humidity", Value::Float(40.0 + (i % 300) as f64 / 100.0)),
                ("battery", Value::Float(3.3)),
                ("n", Value::Int(i)),
            ],
        })
        .collect();
    for (i, part) in rows.chunks(4096).enumerate() {
        world.history.put(block(&key("d"), i as u64 * 4096, part));
    }
    let sel = |m: &[&str]| {
        Some(SeriesSelector {
            devices: vec![own_device("d")],
            metrics: m.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        })
    };
    for m in [vec!["temperature"], vec![]] {
        for _ in 0..4 {
            let t = Instant::now();
            let a = world
                .telemetry()
                .query_aggregates(QueryAggregatesRequest {
                    parent: PARENT.into(),
                    selector: sel(&m),
                    range: Some(range(t0, t0 + 86_400 * S)),
                    bucket: Some(seconds(3600)),
                    aggregates: vec![AggregateSpec { function: AggregateFunction::Mean.into(), percentile: 0.0 }],
                    ..Default::default()
                })
                .await
                .unwrap()
                .into_inner();
            println!("aggregate day by hour {m:?}: {:?} {} series", t.elapsed(), a.series.len());
        }
    }
    for details in [false, true] {
        for _ in 0..3 {
            let t = Instant::now();
            let mut s = world
                .telemetry()
                .stream_readings(StreamReadingsRequest {
                    parent: PARENT.into(),
                    selector: sel(&[]),
                    include_details: details,
                    ..Default::default()
                })
                .await
                .unwrap()
                .into_inner();
            let (mut bytes, mut rows) = (0, 0);
            while let Some(m) = s.message().await.unwrap() {
                bytes += prost::Message::encoded_len(&m);
                rows += m.chunks.iter().map(|c| c.time_deltas_nanos.len()).sum::<usize>();
            }
            println!("stream details={details}: {:?} {rows} rows {:.1} B/row", t.elapsed(), bytes as f64 / rows as f64);
        }
    }
    for order in ["measure_time", "measure_time desc"] {
        for _ in 0..3 {
            let t = Instant::now();
            let a = world
                .telemetry()
                .list_readings(ListReadingsRequest {
                    parent: own_device("d"),
                    order_by: order.into(),
                    ..Default::default()
                })
                .await
                .unwrap()
                .into_inner();
            println!(
                "list 1000 {order}: {:?} {} rows {:.1} B/row",
                t.elapsed(),
                a.readings.len(),
                prost::Message::encoded_len(&a) as f64 / 1000.0
            );
        }
    }
}
