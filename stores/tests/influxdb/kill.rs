//! kill -9 of influxd while it is written to.

use std::sync::Arc;
use std::time::Duration;

use model::TimeRange;
use weir_stores::StoreError;
use weir_stores::contract::Export;

use crate::data::{T, device, float, simple};
use crate::server::influxd;
use crate::{deliver, open};

const BATCHES: i64 = 60;
const ROWS: i64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_readings_are_stored_once_after_kills() {
    let Some(mut server) = influxd().await else { return };
    let points =
        Arc::new(open(weir_stores::influxdb::Config { batch_lines: 300, timeout_secs: 2.0, ..server.config() }));
    let writer = Arc::clone(&points);
    let (written, mut progress) = tokio::sync::watch::channel(0);
    let writing = tokio::spawn(async move {
        let mut waits = 0;
        for batch in 0..BATCHES {
            let block = simple(&device("t", &format!("d{}", batch % 7)), T + batch * 10_000_000_000, ROWS, "x", |n| {
                float(n as f64)
            });
            loop {
                match deliver(&writer, vec![block.clone()]).await {
                    Ok(()) => break,
                    Err(StoreError::Busy { .. }) => {
                        waits += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            written.send_replace(batch + 1);
        }
        waits
    });
    for kill_after in [5, 20, 40] {
        tokio::time::timeout(Duration::from_secs(60), progress.wait_for(|done| *done >= kill_after))
            .await
            .unwrap()
            .unwrap();
        server.kill();
        server.start_again().await;
    }
    let waits = tokio::time::timeout(Duration::from_secs(60), writing).await.unwrap().unwrap();
    assert!(waits > 0, "a kill was noticed");
    assert_eq!(
        points.count(TimeRange::ALL).await.unwrap().unwrap(),
        [("t".into(), u64::try_from(BATCHES * ROWS).unwrap())]
    );
}
