//! Ledgers on disk.

use super::*;

fn header() -> Header {
    let (scenario, folder) = crate::scenario::load("steady").unwrap();
    Header { scenario, folder, start: 1, broker: "127.0.0.1:1".into() }
}

fn record(device: u32, number: u64, outcome: Outcome) -> Record {
    Record { device, number, sent_micros: 5_000_000 + number, latency_micros: 300, outcome }
}

async fn written(dir: &std::path::Path, count: u64) -> std::path::PathBuf {
    let path = dir.join("ledger");
    let (writer, recorder) = Writer::create(&path, &header()).unwrap();
    for number in 0..count {
        let outcome = if number % 3 == 0 { Outcome::Sent } else { Outcome::Acknowledged };
        recorder.record(record(u32::try_from(number % 7).unwrap(), number / 7, outcome)).await;
    }
    drop(recorder);
    tokio::task::spawn_blocking(move || writer.finish()).await.unwrap().unwrap();
    path
}

#[tokio::test]
async fn what_was_recorded_is_read_back_and_costs_few_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 100_000).await;
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!(ledger.header, header());
    assert!(ledger.complete);
    assert_eq!(ledger.messages(), 100_000);
    for number in 0..100_000u64 {
        let expected = if number % 3 == 0 { Outcome::Sent } else { Outcome::Acknowledged };
        assert_eq!(ledger.outcome(u32::try_from(number % 7).unwrap(), number / 7), Some(expected));
    }
    assert_eq!(ledger.outcome(0, 1_000_000), None);
    assert_eq!(ledger.outcome(99, 0), None);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes < 12 * 100_000, "{bytes} bytes for 100,000 messages");
}

#[tokio::test]
async fn a_run_that_broke_off_leaves_what_was_whole_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 50_000).await;
    let whole = std::fs::read(&path).unwrap();
    let most = whole.len() - 14;
    for length in [most, most - 1, most / 2, most / 3] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let ledger = Ledger::read(&path).unwrap();
        assert!(!ledger.complete && ledger.messages() <= 50_000, "{length}");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 1_000).await;
    let mut bytes = std::fs::read(&path).unwrap();
    // Offset within the records of the first block: after magic, version, length and header, and
    // the block's length and checksum.
    let header = u32::from_le_bytes(bytes[5..9].try_into().unwrap()) as usize;
    bytes[9 + header + 8 + 20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = format!("{:#}", Ledger::read(&path).unwrap_err());
    assert!(error.contains("ledger") && error.contains("damaged at byte"), "{error}");
}

#[test]
fn an_old_ledger_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    std::fs::write(&path, "precious").unwrap();
    let error = format!("{:#}", Writer::create(&path, &header()).unwrap_err());
    assert!(error.contains("never overwritten"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
