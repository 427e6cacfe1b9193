//! A server that is away, has no transactions, or is of a newer release.

use mongodb::bson::Bson;

use super::*;
use crate::registry::mongodb::store::SCHEMA;
use crate::registry::proxy::Proxy;
use crate::registry::rules::{CreateCredential, CreateTenant, DeleteCredential, RecordDenials};
use crate::registry::{Created, Denial, Owner};

fn quick() -> MongoOptions {
    MongoOptions { request_timeout: Duration::from_millis(500), ..MongoOptions::default() }
}

#[tokio::test]
async fn a_server_without_transactions_is_refused_with_the_cure() {
    let server = Mongod::start(false);
    let reason = operator(MongoRegistry::connect(&server.uri(), "d", MongoOptions::default()).await);
    assert!(reason.contains("--replSet") && reason.contains("one member"), "{reason}");
}

#[tokio::test]
async fn a_uri_that_cannot_be_used_is_refused_and_shows_no_password() {
    for (uri, database) in
        [("nonsense:s3cret", "d"), ("mongodb://w:s3cret@db/?tls=maybe", "d"), ("mongodb://db", "a.b")]
    {
        let reason = operator(MongoRegistry::connect(uri, database, MongoOptions::default()).await);
        assert!(!reason.contains("s3cret"), "{reason}");
    }
}

#[tokio::test]
async fn a_registry_of_a_newer_release_is_refused() {
    let at = database().await;
    connect(&at).await;
    let state = shared().client().await.database(&at.1).collection::<Document>("registry_state");
    state.update_one(doc! { "_id": "schema" }, doc! { "$set": { "version": SCHEMA + 1 } }).await.unwrap();
    let reason = operator(MongoRegistry::connect(&at.0, &at.1, MongoOptions::default()).await);
    let versions = [SCHEMA + 1, SCHEMA].map(|version| format!("version {version}"));
    assert!(versions.iter().all(|version| reason.contains(version)), "{reason}");
}

#[tokio::test]
async fn installations_with_different_prefixes_share_a_database() {
    let at = database().await;
    let options = MongoOptions { collection_prefix: "b_".into(), ..MongoOptions::default() };
    let (a, b) = (connect(&at).await, MongoRegistry::connect(&at.0, &at.1, options).await.unwrap());
    a.create_tenant(tenant("a"), &origin()).await.unwrap();
    assert_eq!(b.tenant("a").await.unwrap(), None);
    b.create_tenant(tenant("a"), &origin()).await.unwrap();
    assert_eq!(b.changes(0, 9).await.unwrap().newest, 1);
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again_and_one_that_is_away_is_named() {
    let mut server = Mongod::start(true);
    let at = (server.uri(), "d".to_owned());
    let registry = MongoRegistry::connect(&at.0, &at.1, quick()).await.unwrap();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    server.0.kill();
    let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("127.0.0.1") && reason.contains("primary"), "{reason}");
    unavailable(registry.tenant("a").await);
    let later = MongoRegistry::new(&at.0, &at.1, quick()).await.unwrap();
    unavailable(later.tenant("a").await);
    server.0.start_again();
    server.primary().await;
    let begun = std::time::Instant::now();
    while let Err(error) = registry.create_credential(key("a"), &origin()).await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
    }
    assert_eq!(later.tenant("a").await.unwrap(), Some(tenant("a")));
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_and_not_made_twice() {
    let (_, registry) = open().await;
    // Each change is made, its answer is lost, and it runs again.
    async fn twice<W: Work>(registry: &MongoRegistry, work: W) -> W::Output {
        let inner = &registry.0;
        let done = async |in_doubt| inner.transaction(&work, in_doubt).await.unwrap_or_else(|stop| panic!("{stop:?}"));
        done(false).await;
        done(true).await
    }
    assert!(!twice(&registry, CreateTenant(tenant("a"), origin())).await.is_repeat);
    let row = secret("a", "d");
    let created = twice(&registry, CreateCredential(row.clone(), origin())).await;
    assert!(!created.is_repeat && created.row == row);
    let (tenant, owner) = ("a".to_owned(), Owner::Device("d").into());
    twice(&registry, DeleteCredential { tenant, owner, id: row.id, origin: origin() }).await;
    assert_eq!(registry.audit("a", None, 99).await.unwrap().len(), 3);
    assert_eq!(registry.changes(0, 99).await.unwrap().newest, 3);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

#[tokio::test]
async fn a_changed_event_breaks_the_chain_and_a_change_without_a_head_is_not_made() {
    let at = database().await;
    let registry = connect(&at).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    for _ in 0..3 {
        registry.create_credential(key("a"), &origin()).await.unwrap();
    }
    let database = shared().client().await.database(&at.1);
    let (audit, heads) =
        (database.collection::<Document>("registry_audit"), database.collection::<Document>("registry_audit_heads"));
    let third = doc! { "tenant": "a", "sequence": 3_i64 };
    let row = audit.find_one(third.clone()).await.unwrap().unwrap();
    let mut bytes = row.get_binary_generic("event").unwrap().clone();
    bytes[9] ^= 1;
    let changed = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes };
    audit.update_one(third, doc! { "$set": { "event": Bson::Binary(changed) } }).await.unwrap();
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (2, Some(crate::Fault::Changed(3))));

    heads.update_one(doc! { "_id": "a" }, doc! { "$unset": { "hash": 1 } }).await.unwrap();
    let before = registry.changes(0, 99).await.unwrap();
    let reason = operator(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("head of an audit"), "{reason}");
    assert_eq!(registry.changes(0, 99).await.unwrap(), before);
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_transaction_that_a_killed_process_left_open_holds_up_others_for_seconds_only() {
    let at = database().await;
    let (killed, registry) = (connect(&at).await, connect(&at).await);
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let store = &killed.0.store;
    let mut session = store.client.start_session().await.unwrap();
    Holders::default().note(store, &session).await.ok().unwrap();
    session.start_transaction().read_concern(ReadConcern::snapshot()).write_concern(durably()).await.unwrap();
    let mut rows = MongoRows::new(store, &mut session);
    RecordDenials(vec![denial()]).run(&mut rows, false).await.ok().unwrap();
    // It does not end its transaction.
    std::mem::forget(session);
    let begun = std::time::Instant::now();
    registry.create_credential(key("a"), &origin()).await.unwrap();
    assert!(begun.elapsed() < PATIENCE);
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (2, None), "nothing of it is kept");
}

fn denial() -> Denial {
    Denial {
        tenant: "a".into(),
        principal: String::new(),
        method: "Connect".into(),
        address: None,
        reason: "wrong".into(),
        at: 7,
        count: 3,
    }
}

#[tokio::test]
async fn an_answer_to_a_commit_that_is_lost_on_the_way_makes_no_second_change() {
    let at = database().await;
    connect(&at).await.create_tenant(tenant("a"), &origin()).await.unwrap();
    let proxy = Proxy::start(shared().0.port, b"commitTransaction").await;
    let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port);
    let registry = connect(&(uri, at.1)).await;
    // The driver repeats a commit by itself, and so does the registry; then the change is looked
    // for.
    for (n, answers) in [1, 2, 7].into_iter().enumerate() {
        let row = key("a");
        proxy.lose(answers);
        let created = registry.create_credential(row.clone(), &origin()).await.unwrap();
        assert_eq!((proxy.left(), created), (0, Created { row, is_repeat: false }));
        let count = n + 1;
        assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), count);
        assert_eq!(registry.changes(0, 9).await.unwrap().newest, 1 + count as u64);
        let report = registry.verify_audit("a", None).await.unwrap();
        assert_eq!((report.verified.sequence, report.fault), (1 + count as u64, None));
    }
}
