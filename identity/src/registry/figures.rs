//! Figures: `cargo test --release -p weir-identity registry::figures -- --nocapture`, with
//! `WEIR_FIGURE_DEVICES=1000000` for that many registered devices.

use std::time::{Duration, Instant};

use super::contract::{device, origin, secret, tenant};
use super::servers::{Mongod, Postgres};
use super::{
    Device, DeviceQuery, EmbeddedRegistry, MongoOptions, MongoRegistry, PostgresOptions, PostgresRegistry, Registry,
    Term, search,
};

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

/// Devices that one call imports.
const IMPORTED: usize = 1000;
/// Calls of each kind that are measured.
const CALLS: usize = 200;

fn registered(n: usize) -> Device {
    Device {
        display_name: format!("Pump {} of hall {}", n % 977, n % 31),
        labels: [("site", format!("site-{}", n % 100)), ("rack", format!("r{}", n % 5000))]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        ..device("a", &format!("plant-{}/pump-{n:07}", n % 10))
    }
}

/// Returns the terms of a search; none: a device by its id.
type Terms = Box<dyn Fn(usize) -> Vec<Term>>;

/// Imports devices, and gets, lists and searches them.
async fn devices(name: &str, registry: &dyn Registry, count: usize) {
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let began = Instant::now();
    for first in (0..count).step_by(IMPORTED) {
        let devices = (first..count.min(first + IMPORTED)).map(registered).collect();
        registry.import_devices("a", devices, &origin()).await.unwrap();
    }
    println!("{name}: {count} devices imported in {:?}", began.elapsed());
    let began = Instant::now();
    let (mut listed, mut after) = (0, Some(String::new()));
    while let Some(from) = after {
        let page = search(registry, "a", &DeviceQuery::default(), &from, 1000).await.unwrap();
        listed += page.devices.len();
        after = page.after;
    }
    assert_eq!(listed, count);
    println!("{name}: all paged through in {:?}", began.elapsed());
    let words = |text: &str| Term::words(text).collect::<Vec<_>>();
    let searches: [(&str, Terms); 7] = [
        ("get", Box::new(|_| Vec::new())),
        ("a label of one in 5000", Box::new(|n| vec![Term::label("rack", &format!("r{}", n % 5000))])),
        ("a label of one in 100", Box::new(|n| vec![Term::label("site", &format!("site-{}", n % 100))])),
        (
            "both",
            Box::new(|n| {
                vec![Term::label("site", &format!("site-{}", n % 100)), Term::label("rack", &format!("r{}", n % 5000))]
            }),
        ),
        ("the type of all", Box::new(|_| vec![Term::device_type("pump")])),
        ("a beginning of one", Box::new(move |n| words(&format!("{n:07}")))),
        ("words of many", Box::new(move |n| words(&format!("pump hall {}", n % 31)))),
    ];
    for (what, terms) in searches {
        let mut times = Vec::new();
        let mut found = 0;
        for call in 0..CALLS {
            let n = call * 7919 % count;
            let query = DeviceQuery { terms: terms(n).into_iter().collect(), with_deleted: false };
            let began = Instant::now();
            if query.terms.is_empty() {
                found += registry.devices("a", &[registered(n).id]).await.unwrap().len();
            } else {
                found += search(registry, "a", &query, "", 50).await.unwrap().devices.len();
            }
            times.push(began.elapsed());
        }
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("{name}: {what}: {} found, p50 {p50:?}, p99 {p99:?}", found / CALLS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_devices() {
    let count = std::env::var("WEIR_FIGURE_DEVICES").map_or(2000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    devices("embedded", &EmbeddedRegistry::open(path.clone()).unwrap(), count).await;
    println!("embedded: a file of {} MiB", std::fs::metadata(path).unwrap().len() >> 20);
    let server = Postgres::start(&[]);
    let url = server.database("d").await;
    devices("PostgreSQL", &PostgresRegistry::connect(&url, PostgresOptions::default()).await.unwrap(), count).await;
    let server = Mongod::start(true);
    let registry = MongoRegistry::connect(&server.uri(), "d", MongoOptions::default()).await.unwrap();
    devices("MongoDB", &registry, count).await;
}
