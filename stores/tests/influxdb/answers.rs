//! The meaning of each answer.

use std::time::{Duration, Instant};

use model::TimeRange;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_stores::StoreError;
use weir_stores::contract::Export;
use weir_stores::influxdb::Config;

use crate::data::{T, device, float, int, simple};
use crate::fake::{Fake, Say, TAKEN};
use crate::{deliver, open};

async fn answer(say: Say) -> StoreError {
    let fake = Fake::start([say]).await;
    let block = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    deliver(&open(fake.config()), vec![block]).await.unwrap_err()
}

#[tokio::test]
async fn each_status_has_the_meaning_of_the_table() {
    let fault = r#"{"code":"some code","message":"some message"}"#;
    let answer_json = async |status: &'static str| answer(Say::This(status, "", fault)).await;
    for status in ["400 Bad Request", "422 Unprocessable Entity"] {
        assert!(matches!(answer_json(status).await, StoreError::Refused(r) if r == "some message"), "{status}");
    }
    assert!(matches!(answer_json("413 Request Entity Too Large").await, StoreError::TooLarge(_)));
    for (status, key) in [
        ("401 Unauthorized", "influxdb.token"),
        ("403 Forbidden", "influxdb.token"),
        ("404 Not Found", "influxdb.bucket"),
    ] {
        let StoreError::NeedsOperator(reason) = answer_json(status).await else { panic!("{status}") };
        assert!(reason.contains("some message") && reason.contains(key), "{reason}");
    }
    for status in ["500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "429 Too Many Requests"] {
        assert!(matches!(answer_json(status).await, StoreError::Busy { retry_after: None, .. }), "{status}");
    }
}

#[tokio::test]
async fn a_path_that_influxdb_does_not_have_is_blamed_on_the_url() {
    let fault = r#"{"code":"not found","message":"path not found"}"#;
    let StoreError::NeedsOperator(reason) = answer(Say::This("404 Not Found", "", fault)).await else { panic!() };
    assert!(reason.contains("influxdb.url") && !reason.contains("influxdb.bucket"), "{reason}");
    let busy = answer(Say::This("500 Internal Server Error", "", "{}")).await.to_string();
    assert!(busy.contains("influxdb.url"), "an error while running names the key: {busy}");
}

/// Listens, and gives this answer to the first bytes of each connection.
async fn port_that_answers(bytes: &'static [u8]) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 1024];
            if stream.read(&mut greeting).await.is_ok_and(|length| length > 0) {
                drop(stream.write_all(bytes).await);
            }
        }
    });
    port
}

#[tokio::test]
async fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_named() {
    // A fatal alert: handshake_failure.
    let tls = port_that_answers(&[21, 3, 3, 0, 2, 2, 40]).await;
    let in_http = port_that_answers(
        b"HTTP/1.0 400 Bad Request\r\nContent-Length: 52\r\n\r\nClient sent an HTTP request to an HTTPS server.     \n",
    )
    .await;
    let plain = port_that_answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let deaf = port_that_answers(b"").await;
    let config = |scheme: &str, port: u16| {
        let url = format!("{scheme}://127.0.0.1:{port}");
        Config { url, token: "t".into(), org: "o".into(), bucket: "b".into(), ..Config::default() }
    };
    let said = async |scheme, port| open(config(scheme, port)).check().await.unwrap_err();
    let error = said("http", tls).await;
    assert!(
        matches!(&error, StoreError::NeedsOperator(r) if r.contains("speaks TLS") && r.contains("https://")),
        "{error}"
    );
    let error = said("https", plain).await;
    let words = ["influxdb.url", "does not speak TLS", "http://"];
    assert!(matches!(&error, StoreError::NeedsOperator(r) if words.iter().all(|w| r.contains(w))), "{error}");
    let error = said("http", in_http).await;
    assert!(matches!(&error, StoreError::NeedsOperator(r) if r.contains("influxdb.url")), "{error}");
    let error = said("https", deaf).await;
    assert!(matches!(&error, StoreError::Busy { reason, .. } if reason.contains("speaks TLS")), "{error}");
    let error = said("http", plain).await;
    assert!(!error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_wait_that_the_server_asks_for_is_handed_on() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let error = answer(Say::This(status, "Retry-After: 7\r\n", "{}")).await;
        assert!(matches!(error, StoreError::Busy { retry_after: Some(wait), .. } if wait.as_secs() == 7), "{error:?}");
    }
    let far =
        answer(Say::This("503 Service Unavailable", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\n", "{}")).await;
    assert!(matches!(far, StoreError::Busy { retry_after: Some(wait), .. } if wait == Duration::from_secs(300)));
    let past =
        answer(Say::This("503 Service Unavailable", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "{}")).await;
    assert!(matches!(past, StoreError::Busy { retry_after: Some(Duration::ZERO), .. }), "{past:?}");
}

#[tokio::test]
async fn a_partial_write_is_a_refusal_with_any_status() {
    let body = r#"{"code":"internal error","message":"partial write: points beyond something dropped=2"}"#;
    for status in ["200 OK", "400 Bad Request", "422 Unprocessable Entity", "500 Internal Server Error"] {
        let error = answer(Say::This(status, "", body)).await;
        assert!(
            matches!(&error, StoreError::Refused(reason) if reason.starts_with("partial write")),
            "{status}: {error:?}"
        );
    }
    let old = r#"{"code":"x","message":"partial write: dropped 2 points outside retention policy of duration 1h0m0s"}"#;
    let error = answer(Say::This("422 Unprocessable Entity", "", old)).await;
    assert!(matches!(&error, StoreError::Refused(reason) if reason.starts_with("beyond_retention: ")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_influxdb_pauses_and_never_loses_a_reading() {
    for status in
        ["400 Bad Request", "404 Not Found", "302 Found", "405 Method Not Allowed", "415 Unsupported Media Type"]
    {
        let StoreError::NeedsOperator(reason) = answer(Say::This(status, "", "<html>a proxy</html>")).await else {
            panic!("{status}")
        };
        assert!(reason.contains("influxdb.url"), "{reason}");
    }
}

#[tokio::test]
async fn only_the_answer_of_influxdb_to_a_write_counts_as_stored() {
    let (html, json) = ("Content-Type: text/html\r\n", "Content-Type: application/json\r\n");
    for say in [
        Say::This("200 OK", html, "<!doctype html><title>Sign in</title>"),
        Say::This("200 OK", json, r#"{"status":"ok"}"#),
        Say::This("200 OK", "", ""),
        Say::This("201 Created", "", ""),
        Say::This("202 Accepted", "", ""),
        Say::This("206 Partial Content", html, "<html>"),
    ] {
        let Say::This(status, ..) = say else { unreachable!() };
        let StoreError::NeedsOperator(reason) = answer(say).await else { panic!("{status}") };
        assert!(reason.contains("influxdb.url") && reason.contains(status), "{status}: {reason}");
    }
}

#[tokio::test]
async fn a_refusal_of_a_gateway_is_not_one_of_influxdb() {
    let bodies = [r#"{"message":"no Route matched with those values"}"#, r#"{"error":"bad request"}"#, "partial write"];
    for body in bodies {
        let error = answer(Say::This("400 Bad Request", "", body)).await;
        assert!(matches!(&error, StoreError::NeedsOperator(_)), "{body}: {error:?}");
    }
    let named = answer(Say::This("400 Bad Request", "X-Influxdb-Version: v2.7.1\r\n", r#"{"error":"bad"}"#)).await;
    assert!(matches!(&named, StoreError::Refused(_)), "{named:?}");
}

#[tokio::test]
async fn a_server_that_named_itself_has_to_name_itself_in_each_answer() {
    let named = "X-Influxdb-Version: v2.7.1\r\n";
    let blind = Say::This("204 No Content", "", "");
    let fake = Fake::start([Say::This("204 No Content", named, ""), blind]).await.naming(named);
    let points = open(fake.config());
    let block = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    deliver(&points, vec![block.clone()]).await.unwrap();
    let error = deliver(&points, vec![block.clone()]).await.unwrap_err();
    assert!(matches!(&error, StoreError::NeedsOperator(reason) if reason.contains("influxdb.url")), "{error:?}");
    // A server that never names itself is judged by the rest of its answers.
    deliver(&open(fake.naming("").config()), vec![block]).await.unwrap();
}

#[tokio::test]
async fn a_front_that_answers_every_request_alike_is_not_taken_for_influxdb() {
    for say in [
        Say::This("200 OK", "", "<html>"),
        Say::This("204 No Content", "", ""),
        Say::This("200 OK", "", "{}"),
        Say::This("404 Not Found", "", "<html>"),
    ] {
        let fake = Fake::start([]).await.showing(say);
        let error = open(fake.config()).check().await.unwrap_err();
        assert!(matches!(&error, StoreError::NeedsOperator(reason) if reason.contains("influxdb.url")), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_hangs_up_ends_in_a_wait_not_in_a_loss() {
    let fake = Fake::start([Say::Nothing]).await;
    let points = open(weir_stores::influxdb::Config { timeout_secs: 0.3, ..fake.config() });
    let block = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    let begun = Instant::now();
    let error = deliver(&points, vec![block.clone()]).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4));
    let StoreError::Busy { reason, .. } = error else { panic!("{error:?}") };
    assert!(reason.contains("no answer within 0.3 s (influxdb.request_timeout_ms)"), "{reason}");
    // The next write is accepted.
    deliver(&points, vec![block]).await.unwrap();
    assert!(matches!(answer(Say::HangUp).await, StoreError::Busy { .. }));
}

#[tokio::test]
async fn an_address_without_a_server_is_a_wait_that_names_the_key() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let fake = Fake::start([]).await;
    let points = open(weir_stores::influxdb::Config { url: format!("http://127.0.0.1:{port}"), ..fake.config() });
    let block = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    for error in [deliver(&points, vec![block]).await.unwrap_err(), points.check().await.unwrap_err()] {
        let StoreError::Busy { reason, .. } = error else { panic!("{error:?}") };
        assert!(reason.contains("influxdb.url") && reason.contains("refused"), "{reason}");
    }
    assert!(points.count(TimeRange::ALL).await.is_err());
}

#[tokio::test]
async fn an_address_with_https_whose_server_has_no_tls_is_a_wait() {
    let fake = Fake::start([]).await;
    let url = fake.config().url.replace("http:", "https:");
    let points = open(weir_stores::influxdb::Config { url, timeout_secs: 1.0, ..fake.config() });
    let error = points.check().await.unwrap_err();
    assert!(matches!(&error, StoreError::Busy { reason, .. } if reason.contains("influxdb.url")), "{error:?}");
}

#[tokio::test]
async fn a_write_goes_out_in_batches_several_at_once_sorted_by_series() {
    let fake = Fake::start([]).await;
    let points = open(weir_stores::influxdb::Config { batch_lines: 100, in_flight: 3, ..fake.config() });
    let blocks = ["d2", "d1", "d3"].map(|id| simple(&device("t", id), T, 333, "x", int));
    deliver(&points, blocks.into()).await.unwrap();
    let written = fake.written();
    assert_eq!(written.len(), 10);
    assert_eq!(fake.most_at_once(), 3);
    assert!(written.iter().all(|text| text.lines().count() <= 100));
    let mut lines: Vec<&str> = written.iter().flat_map(|text| text.lines()).collect();
    assert_eq!(lines.len(), 999);
    for text in &written {
        let series: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert!(series.is_sorted(), "a batch is sorted by series");
    }
    lines.sort_unstable();
    assert_eq!(lines[0], format!("telemetry,device=d1,tenant=t x=0 {T}"));
}

#[tokio::test]
async fn one_bad_answer_among_many_decides_for_all_and_the_worst_one_counts() {
    let refused = Say::This("422 Unprocessable Entity", "", r#"{"code":"x","message":"partial write: dropped=1"}"#);
    let busy = Say::This("503 Service Unavailable", "Retry-After: 2\r\n", "{}");
    let block = simple(&device("t", "d"), T, 300, "x", int);
    let fake = Fake::start([TAKEN, refused.clone()]).await;
    let points = open(weir_stores::influxdb::Config { batch_lines: 100, ..fake.config() });
    assert!(matches!(deliver(&points, vec![block.clone()]).await, Err(StoreError::Refused(_))));
    let fake = Fake::start([busy, refused]).await;
    let points = open(weir_stores::influxdb::Config { batch_lines: 100, ..fake.config() });
    let error = deliver(&points, vec![block]).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { retry_after: Some(wait), .. } if wait.as_secs() == 2), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_busy_is_not_asked_for_the_rest() {
    let fake = Fake::start([Say::This("503 Service Unavailable", "", "{}")]).await;
    let points = open(weir_stores::influxdb::Config { batch_lines: 10, in_flight: 1, ..fake.config() });
    let block = simple(&device("t", "d"), T, 100, "x", int);
    assert!(matches!(deliver(&points, vec![block.clone()]).await, Err(StoreError::Busy { .. })));
    assert_eq!(fake.written().len(), 1);
    deliver(&points, vec![block]).await.unwrap();
    assert_eq!(fake.written().len(), 11);
}
