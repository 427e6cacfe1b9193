use model::trace::TraceContext;
use rdkafka::message::Headers;

use super::encode::records;
use super::*;
use crate::contract::StoreError;
use crate::reading::tests::batch;

fn fault(change: impl FnOnce(&mut Config)) -> Option<String> {
    let mut config = Config::default();
    change(&mut config);
    config.check("bus").err().map(|error| error.to_string())
}

#[test]
fn a_setting_that_cannot_be_used_is_refused_with_the_export_and_the_key() {
    assert_eq!(fault(|_| {}), None);
    type Change = fn(&mut Config);
    let cases: [(Change, &str); 10] = [
        (|c| c.brokers.clear(), "`brokers`"),
        (|c| c.topic = "{device}".into(), "`topic`"),
        (|c| c.cursor_topic = "a b".into(), "`cursor_topic`"),
        (|c| c.batch_bytes = 0, "`batch_bytes`"),
        (|c| c.message_max_bytes = 1, "`message_max_bytes`"),
        (|c| c.queue_bytes = 1, "`queue_bytes`"),
        (|c| c.transaction_timeout_ms = 1, "`transaction_timeout_ms`"),
        (|c| c.linger_ms = 60_000, "`linger_ms`"),
        (|c| c.sasl = Sasl::Plain, "`username`"),
        (|c| c.ca_file = "ca.pem".into(), "`ca_file`"),
    ];
    for (change, key) in cases {
        let fault = fault(change).unwrap_or_default();
        assert!(fault.contains(key) && fault.contains("\"bus\""), "{key}: {fault}");
    }
    if !cfg!(feature = "kafka-tls") {
        assert!(fault(|c| c.tls = true).unwrap().contains("`kafka-tls`"));
        assert!(fault(|c| c.sasl = Sasl::ScramSha512).unwrap().contains("`kafka-tls`"));
    }
}

#[test]
fn a_broker_is_a_host_and_a_port() {
    for broker in ["kafka://k:9092", "k:9092/topic", "user:secret@k:9092"] {
        let fault = fault(|c| c.brokers = vec![broker.into()]).unwrap();
        assert!(fault.contains("`brokers`") && fault.contains("host:port"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_are_asked_at_the_start_and_an_error_names_the_key_and_tls() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = |address: std::net::SocketAddr| {
        let config = Config { brokers: vec![address.to_string()], delivery_timeout_ms: 1_000, ..Config::default() };
        KafkaExport::new("bus", config, &Metrics::default()).unwrap()
    };
    let export = open(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let alert = [21, 3, 3, 0, 2, 2, 40];
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, &alert).await);
        }
    });
    let error = export.ready().await.unwrap_err();
    let StoreError::Busy { reason, .. } = &error else { panic!("{error:?}") };
    for word in ["export.bus.brokers", "speaks TLS", "`tls` = true"] {
        assert!(reason.contains(word), "`{word}` is not in: {reason}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = open(closed).ready().await.unwrap_err().to_string();
    assert!(error.contains("export.bus.brokers") && !error.contains("TLS"), "{error}");
}

#[test]
fn secrets_are_not_shown() {
    let config = Config { password: "hidden".into(), key_password: "hidden".into(), ..Config::default() };
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn settings_are_read_by_the_names_that_the_guide_gives() {
    let text =
        r#"{"brokers":["k:9092"],"format":"protobuf","compression":"lz4","transactional":true,"sasl":"scram_sha_512"}"#;
    let config: Config = serde_json::from_str(text).unwrap();
    assert_eq!(
        (config.format, config.compression, config.sasl),
        (Format::Protobuf, Compression::Lz4, Sasl::ScramSha512)
    );
}

#[test]
fn records_come_in_the_order_of_the_log_with_key_headers_and_time() {
    let config = Config::default();
    let topics = Template::new(&config.topic).unwrap();
    let mut traced = batch("acme", "d1", &[0, 3]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    traced.traces = vec![(1, TraceContext::from_traceparent(trace).unwrap())];
    let batches = [traced, batch("other", "d1", &[1, 2])];
    let all = records(&config, &topics, &batches, None).unwrap();
    let seen: Vec<_> = all.iter().map(|r| (r.offset, &*r.topic, &*r.key)).collect();
    let (acme, other) = ("weir.acme.telemetry", "weir.other.telemetry");
    assert_eq!(seen, [(0, acme, "d1"), (1, other, "d1"), (2, other, "d1"), (3, acme, "d1")]);
    assert_eq!(all[3].timestamp, 1_700_000_000_003);
    let headers = all[3].headers();
    let header = |name: &str| headers.iter().find(|h| h.key == name).and_then(|h| h.value).map(<[u8]>::to_vec);
    assert_eq!(header("weir-message-id").unwrap(), b"log-1:3");
    assert_eq!(header("weir-tenant").unwrap(), b"acme");
    assert_eq!(header("traceparent").unwrap(), trace.as_bytes());
    assert!(all[0].headers().iter().all(|h| h.key != "traceparent"));
    // Readings that are committed already are not sent again.
    assert_eq!(records(&config, &topics, &batches, Some(2)).unwrap().len(), 2);
}

#[test]
fn devices_of_two_tenants_have_two_keys_in_a_topic_for_all() {
    let config = Config { topic: "telemetry".into(), ..Config::default() };
    let topics = Template::new(&config.topic).unwrap();
    let batches = [batch("a", "d", &[0]), batch("b", "d", &[1])];
    let keys: Vec<_> = records(&config, &topics, &batches, None).unwrap().into_iter().map(|r| r.key).collect();
    assert_eq!(keys, ["a/d".into(), "b/d".into()]);
}

#[test]
fn a_reading_that_is_too_large_is_refused_before_anything_is_sent() {
    let config = Config { message_max_bytes: 1_000, ..Config::default() };
    let topics = Template::new(&config.topic).unwrap();
    assert!(records(&config, &topics, &[batch("t", "d", &[0])], None).is_ok());
    let mut large = batch("t", "d", &[1]);
    large.block.columns[0].name = "n".repeat(1_000).into();
    let refused = records(&config, &topics, &[batch("t", "d", &[0]), large], None).unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(reason) if reason.contains("log-1:1")), "{refused}");
}

#[test]
fn protobuf_is_the_published_message() {
    use prost::Message;

    let config = Config { format: Format::Protobuf, ..Config::default() };
    let topics = Template::new(&config.topic).unwrap();
    let mut batch = batch("acme", "zigbee/küche 1", &[7]);
    batch.block.seqs = vec![Some(5)];
    batch.block.claimed = vec![Some(4_000_000_000_000_000_001)];
    batch.block.device_timed = vec![false];
    let record = records(&config, &topics, &[batch], None).unwrap().remove(0);
    let reading = proto::v1::Reading::decode(&record.value[..]).unwrap();
    assert_eq!(reading.device, "tenants/acme/devices/zigbee%2Fk%C3%BCche%201");
    assert_eq!((reading.sequence, reading.device_timed), (Some(5), false));
    assert_eq!(reading.claimed_time.map(|time| (time.seconds, time.nanos)), Some((4_000_000_000, 1)));
    assert_eq!(reading.measure_time.map(|time| time.nanos), Some(7_000_000));
    assert_eq!(reading.values["n"].kind, Some(proto::v1::value::Kind::IntValue(7)));
}
