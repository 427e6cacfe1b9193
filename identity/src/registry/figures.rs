//! Figures: `cargo test -p weir-identity registry::figures -- --nocapture`.

use std::time::{Duration, Instant};

use super::contract::{origin, secret, tenant};
use super::servers::{Mongod, Postgres};
use super::{EmbeddedRegistry, MongoOptions, MongoRegistry, PostgresOptions, PostgresRegistry, Registry};

const DEVICES: usize = 1000;
/// Rounds, of which the best counts: other tests use the processors too.
const ROUNDS: usize = 5;

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// Looks credentials and tenants up as a gate does that does not know them yet.
async fn lookups(name: &str, registry: &dyn Registry) {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let mut ids = Vec::new();
    let began = Instant::now();
    for n in 0..DEVICES {
        let row = secret("a", &format!("d{n}"));
        ids.push(registry.create_credential(row, &origin()).await.unwrap().row.id);
    }
    let changes = DEVICES as f64 / began.elapsed().as_secs_f64();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let (mut credentials, mut tenants) = (Vec::new(), Vec::new());
        for id in &ids {
            let began = Instant::now();
            assert!(registry.credential(*id).await.unwrap().is_some());
            credentials.push(began.elapsed());
            let began = Instant::now();
            assert!(registry.tenant("a").await.unwrap().is_some());
            tenants.push(began.elapsed());
        }
        let (credential, tenant) = (percentile(&mut credentials, 99), percentile(&mut tenants, 99));
        println!(
            "{name}: {changes:.0} changes a second; a credential p50 {:?}, p99 {credential:?}; a tenant p99 {tenant:?}",
            percentile(&mut credentials, 50)
        );
        best = best.min(credential.max(tenant));
    }
    assert!(best < Duration::from_millis(10), "{name}: a lookup takes less than 10 ms: {best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_lookups() {
    let dir = tempfile::tempdir().unwrap();
    lookups("embedded", &EmbeddedRegistry::open(dir.path().join("registry.redb")).unwrap()).await;
    let server = Postgres::start(&[]);
    let url = server.database("d").await;
    lookups("PostgreSQL", &PostgresRegistry::connect(&url, PostgresOptions::default()).await.unwrap()).await;
    let server = Mongod::start(true);
    lookups("MongoDB", &MongoRegistry::connect(&server.uri(), "d", MongoOptions::default()).await.unwrap()).await;
}
