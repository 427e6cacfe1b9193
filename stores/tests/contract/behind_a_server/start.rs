//! Errors of a start: one line that names the key to change.

use mongodb::bson::{Document, doc};
use weir_stores::contract::{History, Store, StoreError};
use weir_stores::mongodb::{Config, MongoStore};

use super::{behind, own_server, shared_world};
use crate::data::{block, device};
use crate::server::Kind;
use crate::server::ports::free_port;
use crate::world::{World, config, connected};

async fn refused(config: Config) -> StoreError {
    let error = MongoStore::new(config, Default::default()).ready().await.unwrap_err();
    let said = error.to_string();
    assert!(!said.contains('\n') && said.len() < 500, "one line: {said}");
    error
}

fn needs_operator(error: &StoreError, words: &[&str]) {
    let StoreError::NeedsOperator(why) = error else { panic!("{error:?}") };
    words.iter().for_each(|word| assert!(why.contains(word), "`{word}` is not in: {why}"));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named() {
    let port = free_port().unwrap();
    let uri = format!("mongodb://user:secret@127.0.0.1:{port}");
    let error = refused(Config { uri, server_selection_timeout_ms: 100, ..Config::default() }).await;
    let StoreError::Busy { reason, .. } = &error else { panic!("{error:?}") };
    for word in ["mongodb.uri", &port.to_string(), "refused"] {
        assert!(reason.contains(word), "`{word}` is not in: {reason}");
    }
    assert!(!reason.contains("secret"), "{reason}");
}

#[tokio::test]
async fn a_connection_string_that_is_none_is_named() {
    needs_operator(
        &refused(Config { uri: "http://x".into(), ..Config::default() }).await,
        &["mongodb.uri", "http://x"],
    );
    let uri = "mongodb://127.0.0.1:1/?replicaSet=rs0".into();
    let database = Config { uri, database: "a b".into(), ..Config::default() };
    needs_operator(&refused(database).await, &["mongodb.database", "a b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_a_replica_set_is_refused() {
    let server = own_server!(Kind::Standalone);
    needs_operator(&refused(config(&server)).await, &["mongodb.uri", "replica set", "--replSet"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_a_missing_permission_are_different_errors() {
    let server = own_server!(Kind::WithUsers);
    let plain = config(&server);
    let at = |user: &str, password: &str| {
        let uri = plain.uri.replace("mongodb://", &format!("mongodb://{user}:{password}@"));
        Config { uri, ..plain.clone() }
    };
    server.admin(doc! { "createUser": "root", "pwd": "pw", "roles": ["root"] }).await.unwrap();
    let root = mongodb::Client::with_uri_str(&at("root", "pw").uri).await.unwrap();
    let admin = root.database("admin");
    let role = |role: &str| doc! { "role": role, "db": &plain.database };
    for (user, role) in [("writer", role("readWrite")), ("reader", role("read"))] {
        admin.run_command(doc! { "createUser": user, "pwd": "pw", "roles": [role] }).await.unwrap();
    }
    needs_operator(&refused(at("writer", "wrong")).await, &["mongodb.uri", "password"]);
    needs_operator(&refused(plain.clone()).await, &["mongodb.uri", "mongodb.database", "readWrite"]);
    needs_operator(&refused(at("reader", "pw")).await, &["mongodb.uri", "insert", "readWrite"]);
    let store = connected(&at("writer", "pw")).await;
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    let reader = MongoStore::for_reading(at("reader", "pw"), Default::default());
    assert_eq!(History::count(&reader).await.unwrap(), [("default".into(), 10)]);
    let error = reader.write(vec![block(&device("a"), 10, 10)]).await.unwrap_err();
    needs_operator(&error, &["not authorized", "mongodb.uri", "mongodb.database", "readWrite"]);
    // The permission is revoked while the store is in use.
    admin.run_command(doc! { "revokeRolesFromUser": "writer", "roles": [role("readWrite")] }).await.unwrap();
    let error = store.write(vec![block(&device("a"), 20, 10)]).await.unwrap_err();
    needs_operator(&error, &["not authorized", "mongodb.uri", "mongodb.database", "readWrite"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_changed_while_the_store_is_in_use_is_named_with_its_key() {
    let mut server = own_server!(Kind::WithUsers);
    let plain = config(&server);
    let uri = |user: &str| plain.uri.replace("mongodb://", &format!("mongodb://{user}:pw@"));
    server.admin(doc! { "createUser": "root", "pwd": "pw", "roles": ["root"] }).await.unwrap();
    let root = mongodb::Client::with_uri_str(&uri("root")).await.unwrap().database("admin");
    let role = doc! { "role": "readWrite", "db": &plain.database };
    root.run_command(doc! { "createUser": "writer", "pwd": "pw", "roles": [role] }).await.unwrap();
    let store = connected(&Config { uri: uri("writer"), ..plain.clone() }).await;
    store.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    root.run_command(doc! { "updateUser": "writer", "pwd": "other" }).await.unwrap();
    // A connection that is authenticated stays so: the store makes new ones.
    server.kill();
    server.start_again();
    server.primary().await;
    let begun = std::time::Instant::now();
    loop {
        match store.write(vec![block(&device("a"), 10, 10)]).await {
            Err(error @ StoreError::NeedsOperator(_)) => {
                needs_operator(&error, &["mongodb.uri", "password", "Authentication failed"]);
                break;
            }
            Err(StoreError::Busy { reason, .. }) => assert!(reason.contains("mongodb.uri"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    }
}

#[tokio::test]
async fn a_port_that_speaks_tls_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("mongodb://user:secret@{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let alert = [21, 3, 3, 0, 2, 2, 40];
            drop(tokio::io::AsyncWriteExt::write_all(&mut stream, &alert).await);
        }
    });
    let error = refused(Config { uri, server_selection_timeout_ms: 300, ..Config::default() }).await;
    let StoreError::Busy { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("speaks TLS") && reason.contains("tls=true") && !reason.contains("secret"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_later_release_is_refused() {
    let mut world = shared_world!();
    world.open().await;
    let schema = behind(&world.config).await.collection::<Document>("schema");
    schema.update_one(doc! { "_id": "weir" }, doc! { "$set": { "version": 9 } }).await.unwrap();
    needs_operator(&refused(world.config.clone()).await, &["version 9", "mongodb.database", &world.config.database]);
    let reading = MongoStore::for_reading(world.config.clone(), Default::default());
    needs_operator(&reading.ready().await.unwrap_err(), &["version 9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_open_a_new_database_at_one_time_all_succeed() {
    let world = shared_world!();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let store = MongoStore::new(world.config.clone(), Default::default());
        opening.spawn(async move { store.ready().await.map(|()| store) });
    }
    for store in opening.join_all().await {
        store.unwrap().write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    }
    let mut names = behind(&world.config).await.list_collection_names().await.unwrap();
    names.retain(|name| !name.starts_with("system."));
    names.sort();
    assert_eq!(names, ["blocks", "dead_letters", "devices", "expired", "readings", "retained", "schema"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installations_share_a_database_by_a_prefix() {
    let mut world = shared_world!();
    let other = Config { collection_prefix: "north_".into(), ..world.config.clone() };
    let other = connected(&other).await;
    world.open().await.write(vec![block(&device("a"), 0, 10)]).await.unwrap();
    assert_eq!(History::count(&other).await.unwrap(), []);
    other.write(vec![block(&device("a"), 0, 20)]).await.unwrap();
    assert_eq!(History::count(&other).await.unwrap(), [("default".into(), 20)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_write_a_reader_sees_nothing() {
    let world = shared_world!();
    let reader = MongoStore::for_reading(world.config.clone(), Default::default());
    assert_eq!(reader.find(&device("a"), model::TimeRange::ALL).await.unwrap(), []);
    assert_eq!(History::count(&reader).await.unwrap(), []);
    assert_eq!(weir_stores::contract::DeadLetters::count(&reader).await.unwrap(), []);
}
