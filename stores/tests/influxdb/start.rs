//! The start check, retention, and settings that cannot work.

use std::time::{SystemTime, UNIX_EPOCH};

use model::TimeRange;
use model::time::SECOND;
use weir_stores::StoreError;
use weir_stores::contract::Export;
use weir_stores::influxdb::{Config, InfluxDb, Tags};

use crate::data::{T, block, device, float, simple, text};
use crate::server::{Influxd, influxd, influxd_keeping};
use crate::{deliver, open};

async fn paused(config: Config) -> String {
    let points = open(config);
    let checked = points.check().await.unwrap_err();
    let block = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    let write = deliver(&points, vec![block]).await.unwrap_err();
    assert_eq!(checked.to_string(), write.to_string(), "a write without a check returns the same");
    match checked {
        StoreError::NeedsOperator(reason) => reason,
        other => panic!("{other:?}"),
    }
}

async fn one_line_names_the_key(server: &Influxd, key: &str, value: &str, config: Config) {
    let reason = paused(config).await;
    assert!(!reason.contains('\n') && reason.contains(&format!("influxdb.{key}")), "{reason}");
    assert!(reason.contains(value), "{reason}");
    assert!(server.fields().await.is_empty(), "nothing was written");
}

#[tokio::test]
async fn a_wrong_token_organization_bucket_or_address_is_one_line_that_names_the_key() {
    let Some(server) = influxd().await else { return };
    let right = server.config();
    open(right.clone()).check().await.unwrap();
    let changed = |change: fn(&mut Config)| {
        let mut config = right.clone();
        change(&mut config);
        config
    };
    one_line_names_the_key(&server, "token", "unauthorized", changed(|c| c.token = "wrong".into())).await;
    one_line_names_the_key(&server, "org", "\"nowhere\"", changed(|c| c.org = "nowhere".into())).await;
    one_line_names_the_key(&server, "bucket", "\"none such\"", changed(|c| c.bucket = "none such".into())).await;
    one_line_names_the_key(&server, "url", "not InfluxDB", changed(|c| c.url.push_str("/elsewhere"))).await;
    let reader = Config { token: server.token(&["read"], "iot").await, ..right.clone() };
    let reason = paused(reader).await;
    assert!(reason.contains("influxdb.token") && reason.contains("write access to bucket \"iot\""), "{reason}");
}

#[tokio::test]
async fn a_token_that_may_only_write_is_enough_to_write() {
    let Some(server) = influxd().await else { return };
    let writer = Config { token: server.token(&["write"], "iot").await, ..server.config() };
    let points = open(writer);
    points.check().await.unwrap();
    let simple = |name: &str, value| block(&device("t", "d"), &[(T, None, vec![(name, value)])]);
    deliver(&points, vec![simple("x", float(1.5))]).await.unwrap();
    let error = deliver(&points, vec![simple("x", text("far"))]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(reason) if reason.contains("is float since 20")), "{error:?}");
    assert!(points.count(TimeRange::ALL).await.is_err(), "a count needs a token that may read");
    assert_eq!(open(server.config()).count(TimeRange::ALL).await.unwrap().unwrap(), [("t".into(), 1)]);
}

#[tokio::test]
async fn a_bucket_that_was_deleted_is_refused_by_name_and_one_made_anew_is_another_part() {
    let Some(server) = influxd().await else { return };
    let points = open(server.config());
    let number = simple(&device("t", "d"), T, 3, "x", |n| float(n as f64));
    deliver(&points, vec![number.clone()]).await.unwrap();
    let before = points.parts().await.unwrap();
    assert_eq!((before.len(), &*before[0].name), (1, "bucket `iot`"));
    points.check().await.unwrap();
    assert_eq!(points.parts().await.unwrap(), before, "a check changes nothing");
    server.delete_bucket(&before[0].id).await;
    let error = deliver(&points, vec![number.clone()]).await.unwrap_err();
    assert!(matches!(&error, StoreError::NeedsOperator(reason) if reason.contains("influxdb.bucket")), "{error:?}");
    server.bucket("iot").await;
    points.check().await.unwrap();
    assert_ne!(points.parts().await.unwrap(), before);
    // The types of the old bucket are not those of the new one.
    let word = simple(&device("t", "d"), T, 3, "x", |_| text("far"));
    deliver(&points, vec![word]).await.unwrap();
    assert_eq!(points.count(TimeRange::ALL).await.unwrap().unwrap(), [("t".into(), 3)]);
}

#[tokio::test]
async fn a_point_older_than_the_buckets_retention_is_refused_by_name() {
    let Some(server) = influxd_keeping(3_600).await else { return };
    let points = open(server.config());
    assert!(!points.keeps_everything().await.unwrap());
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let at = |time| simple(&device("t", "d"), time, 1, "x", |_| float(1.0));
    deliver(&points, vec![at(now - 3_000 * SECOND)]).await.unwrap();
    let error = deliver(&points, vec![at(now - 3_700 * SECOND), at(now)]).await.unwrap_err();
    let StoreError::Refused(reason) = error else { panic!("{error:?}") };
    assert!(reason.starts_with("beyond_retention: the reading is of 20"), "{reason}");
    assert_eq!(
        points.count(TimeRange::ALL).await.unwrap().unwrap(),
        [("t".into(), 1)],
        "nothing of the batch was sent"
    );
    // A token that does not see the bucket learns it from the server.
    let writer = open(Config { token: server.token(&["write"], "iot").await, ..server.config() });
    let error = deliver(&writer, vec![at(now - 3_700 * SECOND)]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(reason) if reason.starts_with("beyond_retention: ")), "{error:?}");
}

#[test]
fn settings_that_cannot_work_name_their_key() {
    let url = "http://127.0.0.1:8086".into();
    let right = Config { url, token: "t".into(), org: "o".into(), bucket: "b".into(), ..Config::default() };
    let fault = |change: fn(&mut Config)| {
        let mut config = right.clone();
        change(&mut config);
        InfluxDb::new(config, Default::default()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(fault(|_| {}), "");
    assert!(fault(|c| c.token.clear()).contains("influxdb.token"));
    assert!(fault(|c| c.token = "a\nb".into()).contains("influxdb.token"));
    assert!(fault(|c| c.org.clear()).contains("influxdb.org"));
    assert!(fault(|c| c.bucket.clear()).contains("influxdb.bucket"));
    assert!(fault(|c| c.url = "localhost:8086".into()).contains("influxdb.url"));
    assert!(fault(|c| c.url = "ftp://host".into()).contains("influxdb.url"));
    for url in
        ["http://host:8086/api/v2", "http://host/api/v2/write?org=x", "https://host/orgs/1", "http://host/health/"]
    {
        let mut config = right.clone();
        config.url = url.into();
        let reason = InfluxDb::new(config, Default::default()).err().unwrap().to_string();
        assert!(reason.contains("influxdb.url") && reason.contains("write http"), "{url}: {reason}");
    }
    assert!(fault(|c| c.url = "http://me:secret@host:8086".into()).contains("influxdb.token"));
    assert!(!fault(|c| c.url = "http://me:secret@host:8086".into()).contains("secret"));
    assert_eq!(fault(|c| c.url = "http://host/metrics-proxy/influx/".into()), "", "a proxy adds a path");
    assert!(fault(|c| c.measurement = "a b".into()).contains("influxdb.measurement"));
    assert!(fault(|c| c.measurement = "#x".into()).contains("influxdb.measurement"));
    assert!(fault(|c| c.tags.device = "time".into()).contains("influxdb.device_tag"));
    assert!(fault(|c| c.tags = Tags { tenant: "x".into(), device: "x".into() }).contains("influxdb.tenant_tag"));
    assert!(fault(|c| c.batch_lines = 0).contains("influxdb.batch_lines"));
    assert!(fault(|c| c.timeout_secs = 0.0).contains("influxdb.request_timeout_ms"));
    assert!(fault(|c| c.ca_file = Some("nowhere.pem".into())).contains("influxdb.ca_file"));
    assert!(!format!("{right:?}").contains("\"t\""), "the token is not shown");
    let named = fault(|c| (c.section, c.org) = ("export.plant".into(), String::new()));
    assert_eq!(named, "set export.plant.org", "a second export names its own keys");
}

#[test]
fn declared_types_are_read_and_written() {
    let config: Config = serde_json::from_str(r#"{"types": ["n=integer"], "on_conflict": "side_field"}"#).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap()["types"][0], "n=integer");
}
