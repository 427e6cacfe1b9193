//! A server that is away: at the start, later, for many callers, and until an operator intervenes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use weir_stores::contract::{DeadLetters, History, Latest, Store, StoreError};
use weir_stores::mongodb::{CommandLabel, Config, Metrics, MongoStore};
use weir_stores::testing::load_retained;

use super::own_server;
use crate::data::{block, device};
use crate::history::held;
use crate::server::Kind;
use crate::server::ports::free_port;
use crate::world::config;

const WAIT: Duration = Duration::from_secs(60);

/// Returns the reason of a [`StoreError::Busy`].
fn busy<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let StoreError::Busy { reason, .. } = answer.unwrap_err() else { panic!("not busy") };
    assert!(!reason.contains('\n'), "one line: {reason}");
    reason
}

async fn until_ready(store: &MongoStore) {
    let begun = Instant::now();
    while let Err(error) = store.ready().await {
        assert!(begun.elapsed() < WAIT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_at_the_start_is_waited_for_and_every_call_is_refused_with_the_reason() {
    let mut server = own_server!(Kind::ReplicaSet);
    let config = Config { server_selection_timeout_ms: 300, ..config(&server) };
    server.kill();
    let store = MongoStore::new(config, Arc::default());
    assert_eq!(store.name(), "mongodb");
    store.sync().await.unwrap();
    let waiting = format!("waiting for MongoDB at {} (mongodb.uri): ", server.uri().replace("mongodb://", ""));
    let reason = busy(store.ready().await);
    assert!(reason.starts_with(&waiting) && reason.contains("refused"), "{reason}");
    let begun = Instant::now();
    let reasons = [
        busy(store.write(vec![block(&device("a"), 0, 10)]).await),
        busy(store.find(&device("a"), model::TimeRange::ALL).await),
        busy(History::count(&store).await),
        busy(Latest::load(&store, None, 10).await),
        busy(load_retained(&store).await),
        busy(store.put(Vec::new()).await),
        busy(DeadLetters::list(&store, "default", None, 1).await),
    ];
    assert!(begun.elapsed() < Duration::from_secs(1), "at once: {:?}", begun.elapsed());
    reasons.iter().for_each(|reason| assert!(reason.starts_with(&waiting), "{reason}"));
    server.start_again();
    server.primary().await;
    let begun = Instant::now();
    while store.write(vec![block(&device("a"), 0, 10)]).await.is_err() {
        assert!(begun.elapsed() < WAIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(held(&store).await, [("default".into(), 10)]);
    store.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_wait_for_one_attempt_and_no_longer_than_the_configured_time() {
    let port = free_port().unwrap();
    let uri = format!("mongodb://127.0.0.1:{port}");
    let config = Config { uri, server_selection_timeout_ms: 500, ..Config::default() };
    let metrics = Arc::new(Metrics::default());
    let store = MongoStore::new(config, Arc::clone(&metrics));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        callers.spawn(async move {
            let begun = Instant::now();
            let refused = busy(store.write(vec![block(&device(&format!("d{n}")), 0, 10)]).await);
            (refused, begun.elapsed())
        });
    }
    for (reason, took) in callers.join_all().await {
        assert!(reason.starts_with(&format!("waiting for MongoDB at 127.0.0.1:{port} (mongodb.uri): ")), "{reason}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let attempts = metrics.commands.get_or_create(&CommandLabel { command: "start" }).get();
    assert!((1..=3).contains(&attempts), "{attempts} attempts for 200 callers");
    assert_eq!(metrics.commands.get_or_create(&CommandLabel { command: "insert" }).get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_later_is_busy_and_found_again() {
    let mut server = own_server!(Kind::ReplicaSet);
    let store = MongoStore::new(Config { server_selection_timeout_ms: 300, ..config(&server) }, Arc::default());
    until_ready(&store).await;
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    server.kill();
    let begun = Instant::now();
    busy(store.write(vec![block(&device("a"), 10, 10)]).await);
    let reason = busy(store.ready().await);
    assert!(reason.contains("waiting for MongoDB at "), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    server.start_again();
    server.primary().await;
    until_ready(&store).await;
    let begun = Instant::now();
    while store.write(vec![block(&device("a"), 10, 10)]).await.is_err() {
        assert!(begun.elapsed() < WAIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(held(&store).await, [("default".into(), 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_the_operator_adds_later_connects_without_a_restart() {
    let server = own_server!(Kind::WithUsers);
    let plain = config(&server);
    let at = |user: &str| plain.uri.replace("mongodb://", &format!("mongodb://{user}:pw@"));
    server.admin(doc! { "createUser": "root", "pwd": "pw", "roles": ["root"] }).await.unwrap();
    let store = MongoStore::new(Config { uri: at("writer"), ..plain.clone() }, Arc::default());
    for _ in 0..2 {
        let error = store.write(vec![block(&device("a"), 0, 10)]).await.unwrap_err();
        let StoreError::NeedsOperator(why) = error else { panic!("{error:?}") };
        assert!(why.contains("mongodb.uri") && why.contains("password") && !why.contains("pw@"), "{why}");
    }
    let root = mongodb::Client::with_uri_str(&at("root")).await.unwrap();
    let role = doc! { "role": "readWrite", "db": &plain.database };
    root.database("admin").run_command(doc! { "createUser": "writer", "pwd": "pw", "roles": [role] }).await.unwrap();
    until_ready(&store).await;
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
}
