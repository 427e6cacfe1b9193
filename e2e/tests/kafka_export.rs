//! The export to Kafka against a real one, without the rest of Weir: the test delivers as the
//! flusher does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::DeviceKey;
use model::trace::TraceContext;
use prost::Message;
use stores::kafka::{Compression, Config, Format, KafkaExport, Metrics, Sasl};
use stores::{Block, BlockId, Column, ColumnData, DeviceBatch, Export, StoreError};
use weir_e2e::services::{Kafka, skipped};
use weir_e2e::wait_until;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const START: i64 = 1_790_000_000_000_000_000;

/// Readings of a device at these log offsets; `n` is the offset, `pad` a text of that many bytes
/// where it is given.
fn batch(tenant: &str, device: &str, offsets: &[u64], pad: usize) -> anyhow::Result<DeviceBatch> {
    let times: Vec<i64> =
        offsets.iter().map(|offset| Ok(START + i64::try_from(*offset)? * 1_000_000)).collect::<anyhow::Result<_>>()?;
    let n = offsets.iter().map(|offset| i64::try_from(*offset)).collect::<Result<_, _>>()?;
    let mut columns = vec![Column { name: "n".into(), present: Vec::new(), data: ColumnData::Int(n) }];
    if pad > 0 {
        // Not compressible, so that the limit of the broker meets it as it is.
        let mut state = 1_u64;
        let mut letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from((state >> 33) % 90).unwrap_or_default() + 1)
        };
        let text = || (0..pad).map(|_| letter()).collect::<String>().into_boxed_str();
        let texts = std::iter::repeat_with(text).take(offsets.len()).collect();
        columns.push(Column { name: "pad".into(), present: Vec::new(), data: ColumnData::Str(texts) });
    }
    let id =
        BlockId { device: DeviceKey::new(tenant, device)?, log: "log-1".into(), first_offset: offsets[0], part: 0 };
    let block = Block {
        id,
        received: times.clone(),
        times,
        seqs: Vec::new(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns,
    };
    Ok(DeviceBatch { block, offsets: offsets.to_vec(), traces: Vec::new() })
}

fn config(kafka: &Kafka, transactional: bool) -> Config {
    Config { brokers: vec![kafka.brokers()], transactional, delivery_timeout_ms: 10_000, ..Config::default() }
}

fn open(name: &str, config: Config) -> anyhow::Result<Arc<KafkaExport>> {
    Ok(Arc::new(KafkaExport::new(name, config, &Metrics::default())?))
}

/// Delivers as the flusher does: halves what is refused, repeats what is aborted, waits for what is
/// busy. Returns the offsets that were refused for good.
async fn deliver(
    export: &dyn Export,
    log: &str,
    batches: &[DeviceBatch],
    done_to: u64,
) -> anyhow::Result<BTreeSet<u64>> {
    let begun = Instant::now();
    let mut refused = BTreeSet::new();
    'delivery: loop {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the delivery does not end");
        let mut groups = vec![batches.to_vec()];
        while let Some(mut group) = groups.pop() {
            match export.write(log, group.clone()).await {
                Ok(()) => {}
                Err(StoreError::Refused(reason) | StoreError::TooLarge(reason)) if group.len() > 1 => {
                    println!("halved: {reason}");
                    let second = group.split_off(group.len() / 2);
                    groups.extend([second, group]);
                }
                Err(StoreError::Refused(reason) | StoreError::TooLarge(reason)) => {
                    println!("refused: {reason}");
                    ensure!(group[0].offsets.len() == 1, "a group of one reading is refused: {group:?}");
                    refused.insert(group[0].offsets[0]);
                }
                Err(StoreError::Busy { reason, .. }) => {
                    println!("busy: {reason}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    groups.push(group);
                }
                Err(StoreError::Aborted(reason)) => {
                    println!("aborted: {reason}");
                    continue 'delivery;
                }
                Err(other) => bail!("{other}"),
            }
        }
        match export.commit(log, done_to).await {
            Ok(()) => return Ok(refused),
            Err(StoreError::Busy { reason, .. } | StoreError::Aborted(reason)) => println!("commit: {reason}"),
            Err(other) => bail!("{other}"),
        }
    }
}

/// Offsets of the log by device, in the order in which a consumer of committed records reads them.
fn seen(kafka: &Kafka, pattern: &str) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
    let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in kafka.committed(pattern)? {
        seen.entry(format!("{} {}", record.topic, record.key)).or_default().push(record.int("n")?);
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_a_record_with_its_key_headers_and_time_in_either_format() -> anyhow::Result<()> {
    if skipped("a_reading_is_a_record", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(dir.path())?;
    let mut first = batch("acme", "zigbee/1", &[0, 2, 5], 0)?;
    first.traces = vec![(1, TraceContext::from_traceparent(TRACE).context("a traceparent")?)];
    let batches = [first, batch("acme", "two", &[1, 3], 0)?, batch("other", "two", &[4], 0)?];
    let compressions = [Compression::Zstd, Compression::Lz4, Compression::Gzip, Compression::None, Compression::Snappy];
    for compression in compressions {
        let topic = format!("{compression:?}.{{tenant}}");
        let export = open("bus", Config { topic, compression, ..config(&kafka, false) })?;
        export.join("log-1", 1).await?;
        deliver(&*export, "log-1", &batches, 6).await?;
        if compression == Compression::Snappy {
            // kafka-python needs another package for it; Kafka has acknowledged it.
            continue;
        }
        let records = kafka.committed(&format!("{compression:?}\\..*"))?;
        let of = |topic: &str, key: &str| -> anyhow::Result<Vec<i64>> {
            let topic = format!("{compression:?}.{topic}");
            records.iter().filter(|r| r.topic == topic && r.key == key).map(|r| r.int("n")).collect()
        };
        ensure!(of("acme", "zigbee/1")? == [0, 2, 5], "{records:?}");
        ensure!(of("acme", "two")? == [1, 3] && of("other", "two")? == [4], "{records:?}");
    }
    let records = kafka.committed("Zstd\\..*")?;
    let traced = records.iter().find(|r| r.headers.contains_key("traceparent")).context("a traced record")?;
    ensure!(traced.headers["traceparent"] == TRACE && traced.headers["weir-tenant"] == "acme", "{traced:?}");
    ensure!(traced.headers["weir-message-id"] == "log-1:2" && traced.timestamp == START / 1_000_000 + 2, "{traced:?}");
    ensure!(records.iter().filter(|r| r.headers.contains_key("traceparent")).count() == 1, "{records:?}");

    let export = open("bus", Config { topic: "proto".into(), format: Format::Protobuf, ..config(&kafka, false) })?;
    export.join("log-1", 1).await?;
    deliver(&*export, "log-1", &batches[..1], 6).await?;
    let records = kafka.committed("proto")?;
    ensure!(records.len() == 3 && records.iter().all(|r| r.key == "acme/zigbee/1"), "{records:?}");
    ensure!(records[0].headers["weir-schema"] == "weir.v1.Reading", "{records:?}");
    let reading = proto::v1::Reading::decode(bytes_of(&records[1].value)?.as_slice())?;
    ensure!(reading.device == "tenants/acme/devices/zigbee%2F1" && reading.device_timed, "{reading:?}");
    ensure!(reading.values["n"].kind == Some(proto::v1::value::Kind::IntValue(2)), "{reading:?}");
    let time = reading.measure_time.context("a time")?;
    ensure!(time.seconds * 1_000_000_000 + i64::from(time.nanos) == START + 2_000_000, "{time:?}");
    Ok(())
}

/// The bytes of a value that kafka-python printed.
fn bytes_of(value: &str) -> anyhow::Result<Vec<u8>> {
    Ok(value.strip_prefix("base64:").map(|text| STANDARD.decode(text)).transpose()?.unwrap_or_else(|| value.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_not_committed_is_never_seen_and_the_next_holder_knows_the_cursor() -> anyhow::Result<()>
{
    if skipped("a_transaction_that_was_not_committed", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(dir.path())?;
    let first = open("bus", config(&kafka, true))?;
    ensure!(first.join("log-1", 1).await?.is_none());
    deliver(&*first, "log-1", &[batch("t", "d", &[0, 1], 0)?], 2).await?;
    first.write("log-1", vec![batch("t", "d", &[2, 3], 0)?]).await?;

    let second = open("bus", config(&kafka, true))?;
    ensure!(second.join("log-1", 2).await? == Some(2), "the cursor of the last commit");
    // Calls of the former holder have no effect now, and are answered with the reason.
    let late = first.commit("log-1", 4).await;
    ensure!(matches!(&late, Err(StoreError::Busy { reason, .. }) if reason.contains("epoch 2")), "{late:?}");
    let late = first.write("log-1", vec![batch("t", "d", &[2, 3], 0)?]).await;
    ensure!(matches!(&late, Err(StoreError::Busy { .. })), "{late:?}");
    deliver(&*second, "log-1", &[batch("t", "d", &[2, 3, 4], 0)?], 5).await?;
    ensure!(
        seen(&kafka, "weir\\..*")?.into_values().collect::<Vec<_>>() == [[0, 1, 2, 3, 4]],
        "{:?}",
        seen(&kafka, ".*d")
    );

    // Logs do not share a cursor, and a cursor can be set back.
    ensure!(second.join("log-2", 1).await?.is_none());
    second.rewind("log-1", 2, 3).await?;
    deliver(&*second, "log-1", &[batch("t", "d", &[3, 4], 0)?], 5).await?;
    ensure!(second.join("log-1", 3).await? == Some(5));
    ensure!(seen(&kafka, "weir\\..*")?.into_values().collect::<Vec<_>>() == [[0, 1, 2, 3, 4, 3, 4]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_killed_holder_left_open_is_ended_at_once_by_the_next() -> anyhow::Result<()> {
    if skipped("a_transaction_that_a_killed_holder_left_open", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(dir.path())?;
    let first = open("bus", config(&kafka, true))?;
    ensure!(first.join("log-1", 1).await?.is_none());
    deliver(&*first, "log-1", &[batch("t", "d", &[0, 1], 0)?], 2).await?;
    // Killed between the record of the cursor and the commit.
    let cursor = r#"{"version":1,"epoch":1,"done_to":4}"#;
    kafka.leave_open("weir.bus.log-1", "weir-cursors-bus", "log-1", cursor)?;

    let begun = Instant::now();
    let second = open("bus", config(&kafka, true))?;
    ensure!(second.join("log-1", 2).await? == Some(2), "the cursor of the last commit");
    println!("joined within {:?}", begun.elapsed());
    deliver(&*second, "log-1", &[batch("t", "d", &[2, 3], 0)?], 4).await?;
    ensure!(seen(&kafka, "weir\\..*")?.into_values().collect::<Vec<_>>() == [[0, 1, 2, 3]]);

    // The epoch of a transaction that is open is known as well: its holder is not fenced.
    let cursor = r#"{"version":1,"epoch":9,"done_to":4}"#;
    kafka.leave_open("weir.bus.log-1", "weir-cursors-bus", "log-1", cursor)?;
    let stale = open("bus", config(&kafka, true))?.join("log-1", 8).await;
    ensure!(matches!(&stale, Err(StoreError::Busy { reason, .. }) if reason.contains("epoch 9")), "{stale:?}");
    let third = open("bus", config(&kafka, true))?;
    ensure!(third.join("log-1", 9).await? == Some(4), "the cursor of the last commit");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_found_alone_by_settings_and_by_the_broker() -> anyhow::Result<()> {
    if skipped("a_record_that_is_too_large", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start_with(dir.path(), "message.max.bytes=40000\n")?;
    for transactional in [false, true] {
        // Below the limit of the settings or above it; above that of the broker.
        for (topic, limit) in [("known", 30_000), ("unknown", 1_000_000)] {
            let topic = format!("{topic}-{transactional}");
            let export = open(
                &topic,
                Config { topic: topic.clone(), message_max_bytes: limit, ..config(&kafka, transactional) },
            )?;
            export.join("log-1", 1).await?;
            let mut batches = vec![batch("t", "large", &[7], 100_000)?];
            for offset in (0..20).filter(|offset| *offset != 7) {
                batches.push(batch("t", if offset % 2 == 0 { "a" } else { "b" }, &[offset], 100)?);
            }
            let refused = deliver(&*export, "log-1", &batches, 20).await?;
            ensure!(refused == BTreeSet::from([7]), "{topic}: {refused:?}");
            let mut all: Vec<i64> = seen(&kafka, &topic)?.into_values().flatten().collect();
            all.sort_unstable();
            if !transactional {
                all.dedup();
            }
            ensure!(all == (0..20).filter(|n| *n != 7).collect::<Vec<_>>(), "{topic}: {all:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_to_change_is_named() -> anyhow::Result<()> {
    if skipped("what_an_operator_has_to_change", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start_with(dir.path(), "auto.create.topics.enable=false\n")?;
    let sasl = |user: &str, password: &str, transactional| Config {
        brokers: vec![kafka.brokers_with_credentials()],
        sasl: Sasl::Plain,
        username: user.to_owned(),
        password: password.to_owned(),
        ..config(&kafka, transactional)
    };
    let cases = [
        ("no such topic", config(&kafka, false), "`topic`"),
        ("no such topic", config(&kafka, true), "`topic`"),
        ("wrong password", sasl(Kafka::USER, "wrong", false), "`password`"),
        ("wrong password", sasl(Kafka::USER, "wrong", true), "`password`"),
        ("no rights", sasl(Kafka::GUEST, Kafka::PASSWORD, false), "Write"),
        ("no rights", sasl(Kafka::GUEST, Kafka::PASSWORD, true), "Create"),
    ];
    for (case, config, named) in cases {
        let transactional = config.transactional;
        let export = open("bus", config)?;
        let answer = match export.join("log-1", 1).await {
            Ok(_) => export.write("log-1", vec![batch("t", "d", &[0], 0)?]).await,
            Err(error) => Err(error),
        };
        println!("{case}, transactional {transactional}: {answer:?}");
        ensure!(
            matches!(&answer, Err(StoreError::NeedsOperator(reason)) if reason.contains(named)),
            "{case}, transactional {transactional}: {answer:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_on_where_they_were_when_kafka_is_killed_or_stalls() -> anyhow::Result<()> {
    if skipped("deliveries_go_on_where_they_were", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut kafka = Kafka::start(dir.path())?;
    for transactional in [true, false] {
        let topic = format!("killed-{transactional}");
        let settings = Config { topic: topic.clone(), delivery_timeout_ms: 3_000, ..config(&kafka, transactional) };
        let export = open(&topic, settings)?;
        export.join("log-1", 1).await?;
        let delivering = tokio::spawn({
            let export = Arc::clone(&export);
            async move {
                for delivery in 0..40_u64 {
                    let offsets: Vec<u64> = (delivery * 50..(delivery + 1) * 50).collect();
                    let (even, odd): (Vec<u64>, Vec<u64>) = offsets.iter().partition(|offset| *offset % 2 == 0);
                    let batches = [batch("t", "even", &even, 0)?, batch("t", "odd", &odd, 0)?];
                    deliver(&*export, "log-1", &batches, (delivery + 1) * 50).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                anyhow::Ok(())
            }
        });
        tokio::time::sleep(Duration::from_millis(400)).await;
        kafka.server.kill()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        kafka.server.start_again()?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        kafka.server.freeze()?;
        // Longer than a write waits.
        tokio::time::sleep(Duration::from_secs(4)).await;
        kafka.server.thaw()?;
        delivering.await??;
        wait_until("every reading", Duration::from_secs(30), async || {
            let seen = seen(&kafka, &topic)?;
            for (device, parity) in [("even", 0), ("odd", 1)] {
                let mut offsets = seen.get(&format!("{topic} t/{device}")).cloned().unwrap_or_default();
                if !transactional {
                    // As a consumer does that drops repeats by message id.
                    let mut known = BTreeSet::new();
                    offsets.retain(|offset| known.insert(*offset));
                }
                let wanted: Vec<i64> = (0..2_000).filter(|n| n % 2 == parity).collect();
                ensure!(
                    offsets == wanted,
                    "{device}, transactional {transactional}: {} of {}: {offsets:?}",
                    offsets.len(),
                    wanted.len()
                );
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Readings a second in both modes, with deliveries of 20,000 readings. Run by hand.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_both_modes() -> anyhow::Result<()> {
    const READINGS: u64 = 400_000;
    const DELIVERY: u64 = 20_000;
    const DEVICES: u64 = 200;
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(dir.path())?;
    for (transactional, format) in
        [(false, Format::Json), (true, Format::Json), (false, Format::Protobuf), (true, Format::Protobuf)]
    {
        let topic = format!("fast-{transactional}-{format:?}");
        let export = open(&topic, Config { topic: topic.clone(), format, ..config(&kafka, transactional) })?;
        export.join("log-1", 1).await?;
        let mut took = Duration::ZERO;
        for from in (0..READINGS).step_by(usize::try_from(DELIVERY)?) {
            let of = |device: u64| (from..from + DELIVERY).filter(|n| n % DEVICES == device).collect::<Vec<_>>();
            let batches: Vec<_> =
                (0..DEVICES).map(|d| batch("t", &format!("d{d}"), &of(d), 0)).collect::<anyhow::Result<_>>()?;
            let begun = Instant::now();
            deliver(&*export, "log-1", &batches, from + DELIVERY).await?;
            took += begun.elapsed();
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        let rate = READINGS as f64 / took.as_secs_f64();
        println!("transactional {transactional}, {format:?}: {rate:.0} readings/s ({took:.2?})");
    }
    Ok(())
}
