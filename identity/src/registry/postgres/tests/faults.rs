//! A server that is away, read-only, full of clients or blocked.

use super::*;
use crate::registry::rules::{
    CreateCredential, CreateTenant, DeleteCredential, RecordDenials, SetTenantState, UpdateTenant,
};
use crate::registry::{Denial, TenantUpdate};

fn quick() -> PostgresOptions {
    PostgresOptions { max_connections: 2, statement_timeout: Duration::from_millis(300) }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again_and_one_that_is_away_is_named() {
    let mut server = Postgres::start(&[]);
    let url = server.database("d").await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    for _ in 0..2 {
        server.0.kill();
        let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
        assert!(reason.contains("127.0.0.1") && reason.contains("/d"), "{reason}");
        unavailable(registry.tenant("a").await);
        let reason = unavailable(PostgresRegistry::connect(&url, PostgresOptions::default()).await);
        assert!(reason.contains("failed"), "{reason}");
        let later = PostgresRegistry::new(&url, PostgresOptions::default()).unwrap();
        unavailable(later.tenant("a").await);
        server.0.start_again();
        // It may still replay its log.
        let begun = std::time::Instant::now();
        while let Err(error) = registry.create_credential(key("a"), &origin()).await {
            assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
        }
        assert_eq!(later.tenant("a").await.unwrap(), Some(tenant("a")));
    }
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_read_only_server_refuses_changes_with_the_cure_and_reads_go_on() {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let id = registry.create_credential(key("a"), &origin()).await.unwrap().row.id;
    let superuser = shared().superuser("postgres").await;
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    superuser.batch_execute(&set).await.unwrap();
    let registry = connect(&url).await;
    let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("read-only") && reason.contains("target_session_attrs=read-write"), "{reason}");
    assert!(registry.credential(id).await.unwrap().is_some());
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 2);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

#[tokio::test]
async fn a_change_that_another_session_blocks_ends_after_its_time_and_leaves_nothing() {
    let (name, url) = database().await;
    let registry = PostgresRegistry::connect(&url, quick()).await.unwrap();
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let superuser = shared().superuser(&name).await;
    superuser.batch_execute("BEGIN; SELECT * FROM weir.control_head FOR UPDATE").await.unwrap();
    let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("took too long") && reason.contains("locks"), "{reason}");
    let holder = secret("a", "d");
    assert_eq!(registry.credential(holder.id).await.unwrap(), None, "lookups go on");
    superuser.batch_execute("ROLLBACK").await.unwrap();
    registry.create_credential(key("a"), &origin()).await.unwrap();
    assert_eq!(registry.audit("a", None, 9).await.unwrap().len(), 2);
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 2);
}

#[tokio::test]
async fn connections_are_bounded_and_a_call_without_one_ends_after_its_time() {
    let (name, url) = database().await;
    let registry = PostgresRegistry::connect(&url, quick()).await.unwrap();
    let held = [registry.0.pool.session().await.ok().unwrap(), registry.0.pool.session().await.ok().unwrap()];
    let reason = unavailable(registry.tenant("a").await);
    assert!(reason.contains("in use"), "{reason}");
    for lease in held {
        lease.give_back();
    }
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.tenant("a").await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let superuser = shared().superuser("postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    let count: i64 = superuser.query_one(sql, &[&name]).await.unwrap().get(0);
    assert!(count <= 2, "{count} connections");
}

#[tokio::test]
async fn a_server_without_free_connections_is_named_with_the_cure() {
    let server = Postgres::start(&["fsync=off", "max_connections=6", "superuser_reserved_connections=3"]);
    let url = server.database("d").await;
    let mut held = Vec::new();
    let refused = loop {
        let registry = PostgresRegistry::new(&url, PostgresOptions::default()).unwrap();
        match registry.0.pool.session().await {
            Ok(lease) => held.push(lease),
            Err(stop) => break stop.error(),
        }
        assert!(held.len() < 7);
    };
    let reason = unavailable::<()>(Err(refused));
    assert!(reason.contains("max_connections"), "{reason}");
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_is_cancelled() {
    let (_, registry) = open().await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let (row, by) = (key("a"), origin());
    let id = row.id;
    let mut change = Box::pin(registry.create_credential(row, &by));
    assert!(futures_poll(&mut change).await, "it waits for the server");
    drop(change);
    let begun = std::time::Instant::now();
    while registry.credential(id).await.unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(registry.verify_audit("a", None).await.unwrap().verified.sequence, 2);
}

/// Polls a future once; true when it is not complete.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_and_not_made_twice() {
    let (_, registry) = open().await;
    let inner = &registry.0;
    // Each change is made, its answer is lost, and it runs again.
    async fn twice<W: Work>(inner: &Inner, work: W) -> W::Output {
        let done = async |in_doubt| inner.transaction(&work, in_doubt).await.unwrap_or_else(|stop| panic!("{stop:?}"));
        done(false).await;
        done(true).await
    }
    let by = Origin { request_id: Some("r".into()), ..origin() };
    assert!(!twice(inner, CreateTenant(tenant("a"), by.clone())).await.is_repeat);
    let row = secret("a", "d");
    let created = twice(inner, CreateCredential(row.clone(), Origin { request_id: Some("s".into()), ..by })).await;
    assert!(!created.is_repeat && created.row == row);
    let suspended = twice(inner, SetTenantState("a".into(), TenantState::Suspended, origin())).await;
    assert_eq!(suspended.version, 2);
    let mut update = TenantUpdate::default();
    (update.display_name, update.version) = (Some("N".into()), Some(2));
    assert_eq!(twice(inner, UpdateTenant("a".into(), update, origin())).await.version, 3);
    let (tenant, owner) = ("a".to_owned(), Owner::Device("d").into());
    twice(inner, DeleteCredential { tenant, owner, id: row.id, origin: origin() }).await;
    let denial = |tenant: &str| Denial {
        tenant: tenant.into(),
        principal: String::new(),
        method: "Connect".into(),
        address: None,
        reason: "wrong".into(),
        at: 7,
        count: 3,
    };
    twice(inner, RecordDenials(vec![denial("a"), denial("b")])).await;
    assert_eq!(registry.audit("a", None, 99).await.unwrap().len(), 6);
    assert_eq!(registry.audit("b", None, 99).await.unwrap().len(), 1);
    assert_eq!(registry.changes(0, 99).await.unwrap().newest, 5);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

#[tokio::test]
async fn a_connection_that_ends_in_a_transaction_leaves_nothing_and_the_change_is_repeated() {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let superuser = shared().superuser(&name).await;
    // The change waits for this lock; its session is ended meanwhile.
    superuser.batch_execute("BEGIN; SELECT * FROM weir.control_head FOR UPDATE").await.unwrap();
    let changing = tokio::spawn({
        let registry = registry.clone();
        async move { registry.create_credential(key("a"), &origin()).await }
    });
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'weir' \
               AND wait_event_type = 'Lock' AND datname = current_database()";
    while superuser.query(end, &[]).await.unwrap().is_empty() {}
    superuser.batch_execute("ROLLBACK").await.unwrap();
    changing.await.unwrap().unwrap();
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), 1);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().verified.sequence, 2);
}
