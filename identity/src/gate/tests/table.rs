//! The table of access tokens, and the keys of their issuers.

use std::time::Duration;

use async_trait::async_trait;
use door::quota::{Limits, TenantMeter};

use super::*;
use crate::gate::tokens::{Access, KnownIssuer, Tokens};
use crate::oauth::testing::{TestIssuer, TestKey};
use crate::oauth::{Algorithm, Fetch, FetchError, Fetched, Issuer, Reach};
use crate::{Credential, CredentialKind};

/// Issuers under `https://slow…` never answer.
#[derive(Debug, Default)]
struct Internet;

#[async_trait]
impl Fetch for Internet {
    async fn get(&self, url: &str, reach: Reach) -> Result<Fetched, FetchError> {
        if url.starts_with("https://slow") {
            std::future::pending::<()>().await;
        }
        let host = &url[..url["https://".len()..].find('/').map_or(url.len(), |at| at + "https://".len())];
        let key = TestKey::new("k1", Algorithm::EdDsa);
        TestIssuer::new(host, &[&key]).get(url, reach).await
    }
}

/// The row of an issuer of a tenant.
fn row(tenant: &str, url: &str) -> Credential {
    let settings = Issuer { url: url.into(), audience: "weir".into(), ..Issuer::default() };
    let (id, tenant) = (Issuer::id(url, "weir"), tenant.to_owned());
    Credential { id, tenant, kind: CredentialKind::Issuer(settings), created: START, expires: None, digest: None }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Hand(AtomicI64::new(START)))
}

/// A table of so many tokens.
fn table(tokens: usize) -> Tokens {
    let table = Tokens::new(tokens * 1024);
    table.accept(Arc::new(Internet));
    table
}

fn known(table: &Tokens, tenant: &str, url: &str) -> Arc<KnownIssuer> {
    table.issuer(&row(tenant, url), &clock()).unwrap()
}

#[tokio::test]
async fn issuers_that_do_not_answer_hold_up_the_keys_of_no_other() {
    let table = table(10);
    let slow: Vec<_> = (0..7).map(|n| known(&table, "t", &format!("https://slow{n}.example"))).collect();
    let others: Vec<_> = (0..17).map(|n| known(&table, "t", &format!("https://login{n}.example"))).collect();
    let all_read = async {
        while others.iter().any(|issuer| issuer.tokens.reads() == 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = table.keep_keys(START) => panic!("seven issuers do not answer"),
        read = tokio::time::timeout(Duration::from_secs(20), all_read) => assert!(read.is_ok(), "one is held up"),
    }
    assert!(slow.iter().all(|issuer| issuer.tokens.reads() == 0));
}

/// A token of a tenant is verified.
fn verified(table: &Tokens, tenant: &str, n: u8) -> Arc<Access> {
    let mut print = [n; 32];
    print[..tenant.len()].copy_from_slice(tenant.as_bytes());
    let access = Access {
        print,
        tenant: tenant.into(),
        name: "oidc:x".into(),
        role: Role::Viewer,
        scopes: None,
        expires: START + SECOND,
        issuer: known(table, tenant, &format!("https://{tenant}.example")),
        key: [0; 32],
        binding: CredentialId::derived(&[tenant]),
        bound: Some(crate::registry::Stamp::default()),
        reach: crate::DeviceReach::default(),
        meter: TenantMeter::new(&Limits::default()).caller(),
        ended: CancellationToken::new(),
    };
    table.insert(access, || true).unwrap()
}

fn count_of_ended(tokens: &[Arc<Access>]) -> usize {
    let count = tokens.iter().take_while(|access| access.ended.is_cancelled()).count();
    assert!(tokens[count..].iter().all(|access| !access.ended.is_cancelled()), "the oldest leave first");
    count
}

#[test]
fn a_tenant_with_many_tokens_ends_its_own_and_no_others() {
    let table = table(40);
    let others: Vec<_> = ["a", "b", "c"].into_iter().map(|tenant| verified(&table, tenant, 0)).collect();
    let own: Vec<_> = (0..200).map(|n| verified(&table, "t", n)).collect();
    assert_eq!((count_of_ended(&others), count_of_ended(&own)), (0, 190));
    table.revoke_tenant("t");
    assert_eq!((count_of_ended(&others), count_of_ended(&own)), (0, 200));
    let again: Vec<_> = (0..10).map(|n| verified(&table, "t", n)).collect();
    assert_eq!(count_of_ended(&again), 0, "what has left takes no part");
}

#[test]
fn a_full_table_ends_the_token_that_was_verified_the_longest_ago() {
    let table = table(8);
    let tokens: Vec<_> = ["a", "b", "c", "d", "e"]
        .into_iter()
        .flat_map(|tenant| [verified(&table, tenant, 0), verified(&table, tenant, 1)])
        .collect();
    assert_eq!(count_of_ended(&tokens), 2);
    table.expire(START + SECOND);
    assert_eq!(count_of_ended(&tokens), 10);
    assert!(table.ids().is_empty());
}

#[tokio::test]
async fn checks_of_audits_leave_room_for_lookups() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    world.registry.hang_writes();
    let checks: Vec<_> = (0..9)
        .map(|_| {
            let admin = world.admin.clone();
            tokio::spawn(async move { admin.check_audit("t", &crate::AuditRange::default()).await.map(drop) })
        })
        .collect();
    world.registry.writing().await;
    world.registry.writing().await;
    admitted(&world.gate, "d1", &secret).await;
    let third = tokio::time::timeout(Duration::from_millis(50), world.registry.writing()).await;
    assert!(third.is_err(), "a third check has begun");
    checks.iter().for_each(tokio::task::JoinHandle::abort);
}
