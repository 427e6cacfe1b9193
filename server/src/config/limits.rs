//! Limits that depend on one another are checked together, before anything is opened.

use anyhow::ensure;

use super::Config;

/// Bytes that one record of the log can have: less than a frame, which also holds its names.
const MAX_RECORD_BYTES: u64 = 40 << 20;
/// Bytes of a value in a record, besides its name and its text.
const VALUE_BYTES: u64 = 11;
/// Largest message that MongoDB holds as a dead letter or a retained message, in one document.
const MAX_DOCUMENT_BYTES: u32 = 15 << 20;

/// Longest list of servers that clients are referred to.
const MAX_REFERENCE_BYTES: usize = 1024;

/// Checks every limit alone, and each against those that it depends on.
///
/// # Errors
/// Names the keys and what to do.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    counts(config)?;
    reference(&config.mqtt.broker.server_reference)?;
    packets(config)?;
    values(config)?;
    config.memory.check(config)
}

/// Limits that stop everything when they are 0.
fn counts(config: &Config) -> anyhow::Result<()> {
    let (mqtt, grpc, ingest) = (&config.mqtt.broker, &config.grpc.limits, &config.ingest);
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    for (key, value) in [
        ("mqtt.max_connections", mqtt.max_connections as u64),
        ("mqtt.receive_maximum", u64::from(mqtt.receive_maximum)),
        ("mqtt.connect_timeout_ms", mqtt.connect_timeout_ms),
        ("mqtt.packet_timeout_ms", mqtt.packet_timeout_ms),
        ("mqtt.drain_connections_per_second", u64::from(mqtt.drain_connections_per_second)),
        ("mqtt.max_queued_messages", mqtt.max_queued_messages as u64),
        ("mqtt.max_queued_bytes", mqtt.max_queued_bytes as u64),
        ("grpc.max_connections", grpc.max_connections as u64),
        ("grpc.max_concurrent_calls", u64::from(grpc.max_concurrent_calls)),
        ("grpc.call_timeout_ms", milliseconds(grpc.call_timeout)),
        ("http.max_connections", config.http.max_connections as u64),
        ("ingest.max_depth", ingest.max_depth as u64),
        ("ingest.max_values", ingest.max_values as u64),
        ("ingest.max_readings", ingest.max_readings as u64),
        ("ingest.max_name_bytes", ingest.max_name_bytes as u64),
    ] {
        ensure!(value > 0, "`{key}` is 0: give at least 1");
    }
    Ok(())
}

/// A list of servers that a packet can name.
fn reference(servers: &str) -> anyhow::Result<()> {
    ensure!(
        servers.len() <= MAX_REFERENCE_BYTES && servers.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
        "`mqtt.server_reference` is {servers:.80?}: give servers as \"mqtt2.example.com:8883\", separated by blanks, of \
         at most {MAX_REFERENCE_BYTES} bytes together"
    );
    ensure!(
        servers.is_empty() || !servers.trim().is_empty(),
        "`mqtt.server_reference` is blank: name a server, or leave it empty"
    );
    Ok(())
}

fn packets(config: &Config) -> anyhow::Result<()> {
    let packet = config.mqtt.broker.max_packet_bytes;
    ensure!(
        (1024..=32 << 20).contains(&packet),
        "`mqtt.max_packet_bytes` is {packet}: give 1024 to 33554432, which one record of the log can hold"
    );
    let queue = config.mqtt.broker.max_queued_bytes;
    ensure!(
        queue as u64 >= u64::from(packet),
        "`mqtt.max_queued_bytes` is {queue}: it must hold at least one packet of `mqtt.max_packet_bytes` = {packet}"
    );
    let queue = config.mqtt.broker.max_bridge_bytes;
    ensure!(
        queue as u64 >= u64::from(packet),
        "`mqtt.max_bridge_bytes` is {queue}: it must hold at least one packet of `mqtt.max_packet_bytes` = {packet}"
    );
    ensure!(
        config.log.capacity_bytes >= 2 * u64::from(packet),
        "`log.capacity_bytes` is {}: it must hold at least two packets of `mqtt.max_packet_bytes` = {packet}",
        config.log.capacity_bytes
    );
    ensure!(
        config.mongodb.uri.is_empty() || packet <= MAX_DOCUMENT_BYTES,
        "`mqtt.max_packet_bytes` is {packet}: with `mongodb.uri` give at most {MAX_DOCUMENT_BYTES}, which one document \
         of MongoDB can hold"
    );
    Ok(())
}

/// A reading within all limits fits into a record of the log.
fn values(config: &Config) -> anyhow::Result<()> {
    let ingest = &config.ingest;
    for (key, value, most) in [
        ("ingest.max_values", ingest.max_values, usize::from(u16::MAX)),
        ("ingest.max_name_bytes", ingest.max_name_bytes, usize::from(u16::MAX)),
        ("ingest.max_depth", ingest.max_depth, 128),
        ("ingest.max_readings", ingest.max_readings, 1_000_000),
    ] {
        ensure!(value <= most, "`{key}` is {value}: give at most {most}");
    }
    let (values, name) = (ingest.max_values as u64, ingest.max_name_bytes as u64);
    let record = values * (name + VALUE_BYTES) + u64::from(config.mqtt.broker.max_packet_bytes);
    ensure!(
        record <= MAX_RECORD_BYTES,
        "`ingest.max_values` = {values} with `ingest.max_name_bytes` = {name} and `mqtt.max_packet_bytes` = {} make \
         readings of up to {record} bytes, and one record of the log can hold {MAX_RECORD_BYTES}: lower one of them",
        config.mqtt.broker.max_packet_bytes
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.check().expect_err("refused").to_string()
    }

    #[test]
    fn limits_that_a_record_of_the_log_cannot_hold_are_refused_at_the_start() {
        let error = refusal(|config| config.ingest.max_values = 70_000);
        assert_eq!(error, "`ingest.max_values` is 70000: give at most 65535");
        assert!(refusal(|config| config.ingest.max_name_bytes = 70_000).starts_with("`ingest.max_name_bytes`"));
        assert!(refusal(|config| config.ingest.max_depth = 129).starts_with("`ingest.max_depth` is 129"));
        let error = refusal(|config| {
            config.ingest.max_values = 60_000;
            config.ingest.max_name_bytes = 1_000;
        });
        assert!(error.contains("`ingest.max_values` = 60000 with `ingest.max_name_bytes` = 1000"), "{error}");
        let mut most = Config::default();
        most.ingest.max_values = 65_535;
        most.check().expect("each alone may be as large as its number in a record");
    }

    #[test]
    fn limits_are_held_against_each_other() {
        let error = refusal(|config| {
            config.mqtt.broker.max_packet_bytes = 32 << 20;
            config.log.capacity_bytes = 48 << 20;
            config.log.segment_bytes = 16 << 20;
        });
        assert!(error.starts_with("`log.capacity_bytes` is 50331648"), "{error}");
        let error = refusal(|config| config.mqtt.broker.max_queued_bytes = 1 << 10);
        assert!(error.starts_with("`mqtt.max_queued_bytes` is 1024: it must hold"), "{error}");
        let error = refusal(|config| {
            config.mqtt.broker.max_packet_bytes = 20 << 20;
            config.mongodb.uri = "mongodb://127.0.0.1".into();
        });
        assert!(error.contains("one document of MongoDB"), "{error}");
        let error = refusal(|config| {
            config.mqtt.broker.max_packet_bytes = 16 << 20;
            config.memory.max_bytes = 128 << 20;
        });
        assert!(error.contains("with `memory.max_bytes` = 134217728 it can be at most 4194304"), "{error}");
        assert!(refusal(|config| config.memory.max_bytes = 1).starts_with("`memory.max_bytes` is 1"));
        let error = refusal(|config| config.mqtt.broker.server_reference = "mqtt2\n".into());
        assert!(error.starts_with("`mqtt.server_reference` is \"mqtt2\\n\": give servers as"), "{error}");
        assert!(refusal(|config| config.mqtt.broker.server_reference = " ".into()).contains("is blank"));
        assert_eq!(
            refusal(|config| config.mqtt.broker.receive_maximum = 0),
            "`mqtt.receive_maximum` is 0: give at least 1"
        );
    }
}
