//! The first steps of a new user: each way of reading returns a published reading soon.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weir_e2e::{Weir, checked, python};

/// Bound of the time from publish to visible.
const VISIBLE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_published_reading_is_seen_by_the_command_line_and_by_reflection() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let port = weir.mqtt.port().to_string();
    let publish = |message: &str| -> anyhow::Result<Instant> {
        let arguments = ["-p", &port, "-t", "devices/d1/telemetry", "-m", message, "-q", "1"];
        checked("mosquitto_pub", Command::new("mosquitto_pub").args(arguments).output()?)?;
        Ok(Instant::now())
    };
    // mosquitto_pub returns after the PUBACK: the first query must return the reading, and soon. A
    // generous bound would hide polling.
    let published = publish(r#"{"temperature":21.5}"#)?;
    let latest = weir.cli(&["latest", "d1", "--format", "json"])?;
    println!("latest after {:?}", published.elapsed());
    ensure!(latest.contains("21.5"), "weir latest printed {latest}");

    let published = publish(r#"{"temperature":22.25}"#)?;
    let history = weir.cli(&["query", "d1", "--format", "json"])?;
    println!("history after {:?}", published.elapsed());
    ensure!(history.contains("21.5") && history.contains("22.25"), "weir query printed {history}");

    publish(r#"{"temperature":23.125}"#)?;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/reflect.py");
    let output = Command::new(python()?).arg(script).args([&weir.grpc.to_string(), "d1"]).output()?;
    let reflected = checked("reflect.py", output)?;
    ensure!(reflected.contains("23.125"), "the reflecting client printed {reflected}");

    ensure!(weir.cli(&["latest", "unknown"]).is_err(), "an unknown device is an error");
    ensure!(weir.cli(&["devices"])?.contains("d1"), "the device is listed");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_to_visible_is_measured_through_grpc() -> anyhow::Result<()> {
    use proto::v1::telemetry_service_client::TelemetryServiceClient;
    use proto::v1::{BatchGetLatestRequest, SeriesSelector};
    use weir_e2e::device::Device;
    use weir_e2e::read;

    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let channel = weir.channel().await?;
    let mut client = TelemetryServiceClient::new(channel.clone());
    let mut device = Device::new("d1", weir.mqtt);
    let mut slowest = Duration::ZERO;
    for n in 0..100_u64 {
        let begun = Instant::now();
        device.send(n, "devices/d1/telemetry", format!(r#"{{"n":{n}}}"#).as_bytes())?;
        device.wait_for_all()?;
        let request = BatchGetLatestRequest {
            parent: "tenants/-".into(),
            selector: Some(SeriesSelector { devices: vec!["tenants/-/devices/d1".into()], ..Default::default() }),
            ..Default::default()
        };
        let states = client.batch_get_latest(request).await?.into_inner().states;
        let seen = states.first().and_then(|s| s.values.first()).and_then(|v| v.value.clone()).and_then(|v| v.kind);
        ensure!(seen == Some(proto::v1::value::Kind::IntValue(i64::try_from(n)?)), "after {n}: latest says {seen:?}");
        let rows = read::all_readings(&channel, "d1").await?;
        ensure!(rows.len() as u64 == n + 1, "after {n}: history has {}", rows.len());
        slowest = slowest.max(begun.elapsed());
    }
    println!("publish, latest and history: slowest of 100 took {slowest:?} (goal {VISIBLE:?})");
    weir.stop()
}
