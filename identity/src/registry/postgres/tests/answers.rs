//! Errors of the server in the midst of a change, and answers that are lost.

use super::*;
use crate::registry::Fault;
use crate::registry::proxy::Proxy;

/// Has the next inserts into a table fail with a state, a number of times.
const FAILS: &str = "CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO weir; \
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF nextval('tries') <= TG_ARGV[1]::int THEN RAISE EXCEPTION 'made by a test' USING ERRCODE = TG_ARGV[0]; END IF; \
    RETURN NEW; END $$;";

async fn failing(state: &str, times: u32) -> PostgresRegistry {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let superuser = shared().superuser(&name).await;
    let trigger = format!(
        "{FAILS} CREATE TRIGGER fail BEFORE INSERT ON weir.control FOR EACH ROW \
         EXECUTE FUNCTION fail('{state}', {times})"
    );
    superuser.batch_execute(&trigger).await.unwrap();
    registry
}

/// The change is whole, or nothing of it is there.
async fn assert_changes(registry: &PostgresRegistry, count: usize) {
    assert_eq!(registry.tenant_credentials("a", Class::ApiKey, None, 9).await.unwrap().len(), count);
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (1 + count as u64, None));
    let changes = registry.changes(0, 9).await.unwrap();
    assert_eq!((changes.newest, changes.entries.len()), (1 + count as u64, 1 + count));
}

#[tokio::test]
async fn conflicts_and_deadlocks_are_repeated_within_bounds() {
    for state in ["40001", "40P01"] {
        let registry = failing(state, 3).await;
        registry.create_credential(key("a"), &origin()).await.unwrap();
        assert_changes(&registry, 1).await;
    }
    let registry = failing("40001", 1_000_000).await;
    let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("repeat"), "{reason}");
    assert_changes(&registry, 0).await;
}

#[tokio::test]
async fn a_full_disk_refuses_the_change_whole_and_space_alone_ends_it() {
    let registry = failing("53100", 1).await;
    let reason = unavailable(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("free space"), "{reason}");
    assert_changes(&registry, 0).await;
    registry.create_credential(key("a"), &origin()).await.unwrap();
    assert_changes(&registry, 1).await;
}

#[tokio::test]
async fn an_answer_to_a_commit_that_is_lost_on_the_way_makes_no_second_change() {
    let (_, url) = database().await;
    connect(&url).await.create_tenant(tenant("a"), &origin()).await.unwrap();
    let proxy = Proxy::start(shared().0.port, b"COMMIT\0").await;
    let url = url.replace(&format!(":{}/", shared().0.port), &format!(":{}/", proxy.port));
    let registry = connect(&url).await;
    let row = key("a");
    proxy.lose(1);
    let created = registry.create_credential(row.clone(), &origin()).await.unwrap();
    assert_eq!((proxy.left(), created), (0, Created { row: row.clone(), is_repeat: false }));
    assert_changes(&registry, 1).await;
    proxy.lose(1);
    registry.delete_credential("a", Owner::Tenant(Class::ApiKey), row.id, &origin()).await.unwrap();
    assert_eq!(proxy.left(), 0);
    assert_eq!(registry.credential(row.id).await.unwrap(), None);
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 3);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().verified.sequence, 3);
}

#[tokio::test]
async fn changed_missing_and_cut_events_break_the_chain_at_their_place() {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    for _ in 0..4 {
        registry.create_credential(key("a"), &origin()).await.unwrap();
    }
    let noted = registry.verify_audit("a", None).await.unwrap().verified;
    let superuser = shared().superuser(&name).await;
    let fault = async |change: &str| {
        superuser.batch_execute(&format!("CREATE TABLE copy AS TABLE weir.audit; {change}")).await.unwrap();
        let report = registry.verify_audit("a", Some(noted)).await.unwrap();
        let back = "DELETE FROM weir.audit; INSERT INTO weir.audit TABLE copy; DROP TABLE copy";
        superuser.batch_execute(back).await.unwrap();
        (report.verified.sequence, report.fault)
    };
    let changed = "UPDATE weir.audit SET event = set_byte(event, 9, get_byte(event, 9) # 1) WHERE sequence = 3";
    assert_eq!(fault(changed).await, (2, Some(Fault::Changed(3))));
    assert_eq!(fault("DELETE FROM weir.audit WHERE sequence = 2").await, (1, Some(Fault::Missing(2))));
    let cut = "UPDATE weir.audit SET hash = ''::bytea WHERE sequence = 4";
    assert_eq!(fault(cut).await, (3, Some(Fault::Changed(4))));
    assert_eq!(fault("DELETE FROM weir.audit WHERE sequence = 5").await, (4, Some(Fault::End { ends: 4, head: 5 })));
    assert_eq!(fault("SELECT 1").await, (5, None));
    superuser.batch_execute("UPDATE weir.audit_heads SET hash = 'no head'::bytea").await.unwrap();
    let reason = operator(registry.create_credential(key("a"), &origin()).await);
    assert!(reason.contains("head of an audit") && reason.contains("restore"), "{reason}");
    assert_eq!(registry.changes(0, 9).await.unwrap().newest, 5, "a change whose event cannot be written is not made");
}
