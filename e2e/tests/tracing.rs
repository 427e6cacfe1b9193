//! A publish is one trace in a real Jaeger, from the device to the stores, and a query another.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proto::v1::ListReadingsRequest;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use weir_e2e::device::Device;
use weir_e2e::services::{Influxd, Jaeger, Mongod, free_address, skipped};
use weir_e2e::{Weir, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const DEVICES_SPAN: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{DEVICES_SPAN}-01")
}

fn start(dir: &Path, endpoint: &str, more: &[(&str, &str)]) -> anyhow::Result<Weir> {
    let mut environment = vec![
        ("WEIR_TRACING_ENDPOINT", endpoint),
        ("WEIR_TRACING_BY_SENDERS", "true"),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300"),
        ("WEIR_LATEST_FLUSH_INTERVAL_MS", "300"),
        ("WEIR_LOG_SEGMENT_BYTES", "1048576"),
        ("WEIR_LOGGING_FORMAT", "json"),
    ];
    environment.extend_from_slice(more);
    Weir::start_with(dir, "127.0.0.1:0", &environment)
}

/// Publishes over MQTT 5 with a user property and waits for the PUBACK.
async fn publish(weir: &Weir, topic: &str, property: Option<(&str, &str)>) -> anyhow::Result<()> {
    publish_payload(weir, topic, property, r#"{"temperature":21.5}"#).await
}

async fn publish_payload(
    weir: &Weir,
    topic: &str,
    property: Option<(&str, &str)>,
    payload: &'static str,
) -> anyhow::Result<()> {
    let options = MqttOptions::new("tracing", weir.mqtt.ip().to_string(), weir.mqtt.port());
    let (client, mut events) = AsyncClient::new(options, 10);
    let user_properties = property.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let properties = PublishProperties { user_properties, ..PublishProperties::default() };
    client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await?;
    let acknowledged = async {
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await? {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(BOUND, acknowledged).await.context("no PUBACK")?
}

/// Waits for a trace with spans of all `names`. Returns its spans.
async fn spans(jaeger: &Jaeger, trace: &str, names: &[&str]) -> anyhow::Result<Vec<Value>> {
    wait_until("the trace is whole", BOUND, || async {
        let answer = jaeger.get(&format!("/api/traces/{trace}"))?;
        let spans = answer["data"][0]["spans"].as_array().context("no spans")?.clone();
        for name in names {
            ensure!(spans.iter().any(|span| span["operationName"] == *name), "no {name} in {answer}");
        }
        Ok(spans)
    })
    .await
}

fn named<'a>(spans: &'a [Value], name: &str) -> anyhow::Result<&'a Value> {
    let mut found = spans.iter().filter(|span| span["operationName"] == name);
    let span = found.next().with_context(|| format!("no {name}"))?;
    ensure!(found.next().is_none(), "{name} stands twice in {spans:?}");
    Ok(span)
}

fn tag<'a>(span: &'a Value, key: &str) -> anyhow::Result<&'a Value> {
    let tag = span["tags"].as_array().into_iter().flatten().find(|tag| tag["key"] == key);
    Ok(&tag.with_context(|| format!("no {key} in {span}"))?["value"])
}

/// Span id of the parent.
fn parent(span: &Value) -> Option<&str> {
    let of = span["references"].as_array()?.iter().find(|to| to["refType"] == "CHILD_OF")?;
    of["spanID"].as_str()
}

fn lines_with(dir: &Path, text: &str) -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string(dir.join("weir.log"))?.lines().filter(|line| line.contains(text)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_one_trace_from_the_device_to_mongodb_and_influxdb() -> anyhow::Result<()> {
    if skipped("a_publish_is_one_trace", &["jaeger-all-in-one", "mongod", "influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let jaeger = Jaeger::start(&dir.path().join("jaeger"))?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let influxd = Influxd::start(&dir.path().join("influxd"))?;
    let (uri, url) = (mongod.uri(), influxd.url());
    let stores = [
        ("WEIR_MONGODB_URI", uri.as_str()),
        ("WEIR_INFLUXDB_URL", &url),
        ("WEIR_INFLUXDB_TOKEN", &influxd.token),
        ("WEIR_INFLUXDB_ORG", &influxd.org),
        ("WEIR_INFLUXDB_BUCKET", &influxd.bucket),
        ("WEIR_INFLUXDB_FLUSH_INTERVAL_MS", "300"),
    ];
    let weir = start(dir.path(), &jaeger.endpoint(), &stores)?;
    publish(&weir, "devices/plain/telemetry", None).await?;
    publish(&weir, "devices/d1/telemetry", Some(("traceparent", &traceparent()))).await?;
    let whole = ["publish", "append", "store history", "store influxdb", "store latest"];
    let trace = spans(&jaeger, TRACE, &whole).await?;
    ensure!(trace.len() == whole.len(), "{trace:?}");
    if let Some(file) = std::env::var_os("WEIR_TEST_PICTURE") {
        std::fs::write(file, weir_e2e::picture::trace("One publish, as Jaeger has it (logarithmic time)", &trace))?;
    }
    let publish_span = named(&trace, "publish")?;
    ensure!(parent(publish_span) == Some(DEVICES_SPAN), "{publish_span}");
    ensure!(tag(publish_span, "weir.device")? == "d1" && tag(publish_span, "mqtt.version")? == 5, "{publish_span}");
    for (name, store) in [("store history", "mongodb"), ("store influxdb", "influxdb"), ("store latest", "mongodb")] {
        let span = named(&trace, name)?;
        ensure!(parent(span) == publish_span["spanID"].as_str(), "{name} is a part of the publish: {span}");
        ensure!(tag(span, "store")? == store && tag(span, "weir.verdict")? == "done", "{span}");
        ensure!(tag(span, "weir.offset")? == 1, "{span}");
    }
    let append = named(&trace, "append")?;
    ensure!(tag(append, "weir.offset")? == 1 && parent(append) == publish_span["spanID"].as_str(), "{append}");
    // The flush is a separate trace, linked to the reading's trace.
    let store = named(&trace, "store history")?;
    let links = store["references"].as_array().into_iter().flatten();
    let flush = links.filter(|to| to["refType"] == "FOLLOWS_FROM").find_map(|to| to["traceID"].as_str());
    let flush = spans(&jaeger, flush.context("a link")?, &["flush history", "write history"]).await?;
    let back = named(&flush, "flush history")?["references"].clone();
    ensure!(back.as_array().into_iter().flatten().any(|to| to["traceID"] == TRACE), "{back}");
    weir.stop()?;

    // Without a context a share is traced, including MQTT 3.1.1.
    let mut everything = stores.to_vec();
    everything.push(("WEIR_TRACING_RATIO", "1"));
    let weir = start(dir.path(), &jaeger.endpoint(), &everything)?;
    let mut device = Device::new("c2", weir.mqtt);
    device.connect()?;
    device.send(1, "devices/d2/telemetry", b"{\"temperature\":3}")?;
    ensure!(device.acknowledged()? == [1], "it is acknowledged");
    let found = wait_until("a trace of d2", BOUND, || async {
        let answer =
            jaeger.get("/api/traces?service=weir&operation=publish&tags=%7B%22weir.device%22%3A%22d2%22%7D")?;
        Ok(answer["data"][0]["traceID"].as_str().context("none yet")?.to_owned())
    })
    .await?;
    let trace = spans(&jaeger, &found, &whole).await?;
    let publish_span = named(&trace, "publish")?;
    ensure!(parent(publish_span).is_none() && tag(publish_span, "mqtt.version")? == 4, "{publish_span}");
    ensure!(weir.metric("weir_trace_spans_exported_total")? > 0.0, "exports are counted");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_a_trace_of_its_own() -> anyhow::Result<()> {
    if skipped("a_query_is_a_trace_of_its_own", &["jaeger-all-in-one"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let jaeger = Jaeger::start(&dir.path().join("jaeger"))?;
    let weir = start(dir.path(), &jaeger.endpoint(), &[("WEIR_HISTORY_FLUSH_INTERVAL_MS", "3600000")])?;
    publish(&weir, "devices/d1/telemetry", None).await?;
    let request = ListReadingsRequest { parent: "tenants/-/devices/d1".to_owned(), ..Default::default() };
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("traceparent", traceparent().parse()?);
    let answer = TelemetryServiceClient::new(weir.channel().await?).list_readings(request).await?.into_inner();
    ensure!(answer.readings.len() == 1, "{answer:?}");
    let method = "weir.v1.TelemetryService/ListReadings";
    let trace = spans(&jaeger, TRACE, &[method, "read tail", "find blocks"]).await?;
    let call = named(&trace, method)?;
    ensure!(parent(call) == Some(DEVICES_SPAN) && tag(call, "span.kind")? == "server", "{call}");
    ensure!(tag(call, "weir.tail_rows")? == 1 && tag(call, "rpc.grpc.status_code")? == 0, "{call}");
    for part in ["read tail", "find blocks"] {
        ensure!(parent(named(&trace, part)?) == call["spanID"].as_str(), "{trace:?}");
    }
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_joins_the_trace_of_a_publish_though_weir_was_killed_in_between() -> anyhow::Result<()> {
    if skipped("the_store_joins_the_trace", &["jaeger-all-in-one"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let jaeger = Jaeger::start(&dir.path().join("jaeger"))?;
    let environment = [("WEIR_HISTORY_FLUSH_INTERVAL_MS", "3600000"), ("WEIR_LOGGING_LEVEL", "info,weir_ingest=debug")];
    let weir = start(dir.path(), &jaeger.endpoint(), &environment)?;
    publish(&weir, "devices/d1/telemetry", Some(("uber-trace-id", "abcdef0123456789:1f:0:1"))).await?;
    let id = "0000000000000000abcdef0123456789";
    let before = spans(&jaeger, id, &["publish", "append"]).await?;
    ensure!(before.iter().all(|span| span["operationName"] != "store history"), "{before:?}");
    publish_payload(&weir, "devices/d1/telemetry", Some(("traceparent", &traceparent())), "{").await?;
    let refused = spans(&jaeger, TRACE, &["publish"]).await?;
    ensure!(tag(&refused[0], "error")? == true, "{refused:?}");
    ensure!(lines_with(dir.path(), &format!("\"trace.id\":\"{TRACE}\""))? == 1, "its log line carries the trace");
    weir.kill()?;
    let weir = start(dir.path(), &jaeger.endpoint(), &[])?;
    let trace = spans(&jaeger, id, &["publish", "append", "store history"]).await?;
    let store = named(&trace, "store history")?;
    ensure!(parent(store) == named(&trace, "publish")?["spanID"].as_str(), "{store}");
    ensure!(tag(store, "store")? == "embedded", "{store}");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jaeger_that_goes_and_comes_costs_one_warning_and_some_spans() -> anyhow::Result<()> {
    if skipped("a_jaeger_that_goes_and_comes", &["jaeger-all-in-one"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut jaeger = Jaeger::start(&dir.path().join("jaeger"))?;
    let weir = start(dir.path(), &jaeger.endpoint(), &[])?;
    publish(&weir, "devices/d1/telemetry", Some(("traceparent", &traceparent()))).await?;
    spans(&jaeger, TRACE, &["publish"]).await?;
    jaeger.server.kill()?;
    for _ in 0..3 {
        let before = weir.metric("weir_trace_spans_dropped_total{reason=\"unavailable\"}")?;
        publish(&weir, "devices/d1/telemetry", Some(("traceparent", &traceparent()))).await?;
        wait_until("spans are dropped", BOUND, || async {
            let dropped = weir.metric("weir_trace_spans_dropped_total{reason=\"unavailable\"}")?;
            ensure!(dropped > before, "{dropped}");
            Ok(())
        })
        .await?;
    }
    jaeger.server.start_again()?;
    let begun = Instant::now();
    // The first export may fail because the collector is not listening yet.
    let other = TRACE.replacen('4', "5", 1);
    while jaeger.get(&format!("/api/traces/{other}")).is_err() {
        ensure!(begun.elapsed() < BOUND, "no trace after Jaeger came back");
        publish(&weir, "devices/d1/telemetry", Some(("traceparent", &format!("00-{other}-{DEVICES_SPAN}-01")))).await?;
    }
    // The trace can be read in Jaeger before its response has reached the exporter.
    let over = "the collector accepts spans again";
    wait_until("the end of the outage is logged", BOUND, || async {
        ensure!(lines_with(dir.path(), over)? > 0, "no line");
        Ok(())
    })
    .await?;
    weir.stop()?;
    ensure!(lines_with(dir.path(), "spans cannot be exported")? == 1, "one warning");
    ensure!(lines_with(dir.path(), over)? == 1, "and one when it is over");
    Ok(())
}

#[test]
fn a_wrong_address_and_a_full_queue_affect_no_reading_and_are_logged_once() -> anyhow::Result<()> {
    // No listener, a listener that never responds, and one that speaks another protocol.
    let refused = free_address()?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let endpoints = [refused, silent.local_addr()?, other.local_addr()?];
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            stream.write_all(b"220 mail.example.com ESMTP\r\n").ok();
        }
    });
    for (number, endpoint) in endpoints.into_iter().enumerate() {
        let dir = tempfile::tempdir()?;
        let environment =
            [("WEIR_TRACING_RATIO", "1"), ("WEIR_TRACING_TIMEOUT_MS", "1000"), ("WEIR_TRACING_QUEUE_SPANS", "300")];
        let weir = start(dir.path(), &format!("http://{endpoint}"), &environment)?;
        let mut device = Device::new("c", weir.mqtt);
        device.connect()?;
        let begun = Instant::now();
        let mut acknowledged = 0;
        let mut sent = 0;
        while acknowledged < 2_000 {
            while sent < 2_000 && device.in_flight() < 100 {
                device.send(sent, "devices/d1/telemetry", format!("{{\"n\":{sent}}}").as_bytes())?;
                sent += 1;
            }
            acknowledged += device.acknowledged()?.len();
        }
        println!("{number}: 2,000 acknowledged in {:?}", begun.elapsed());
        let dropped = |reason: &str| weir.metric(&format!("weir_trace_spans_dropped_total{{reason=\"{reason}\"}}"));
        while dropped("unavailable")? == 0.0 {
            ensure!(begun.elapsed() < BOUND, "{number}: no span is given up");
            std::thread::yield_now();
        }
        ensure!(dropped("queue_full")? > 0.0, "{number}: 4,000 spans do not fit into a queue of 300");
        let books = weir.cli(&["books", "--check"])?;
        ensure!(books.contains("2000"), "{books}");
        let ended = Instant::now();
        weir.stop()?;
        println!("{number}: stopped in {:?}", ended.elapsed());
        ensure!(lines_with(dir.path(), "spans cannot be exported")? == 1, "{number}: one warning");
        ensure!(lines_with(dir.path(), "\"log.level\":\"warn\"")? == 1, "{number}: and no other");
    }
    Ok(())
}
