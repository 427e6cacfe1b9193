use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::registry::{Class, INSTALLATION, RegistryWrites};
use crate::{Admin, By, EmbeddedRegistry, Peppers, Topics};

const START: Nanos = 1_700_000_000 * SECOND;
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// Contents of the places. They outlive the processes that remove it.
#[derive(Default)]
struct Disk {
    entries: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    /// Calls of all places, and the call at which the process is killed: before its effect, or
    /// after it.
    calls: AtomicUsize,
    killed_at: AtomicUsize,
    after: std::sync::atomic::AtomicBool,
    away: Mutex<Option<&'static str>>,
}

impl Disk {
    fn full() -> Arc<Self> {
        let disk = Self { killed_at: AtomicUsize::new(usize::MAX), ..Self::default() };
        for tenant in ["a", "b"] {
            for (place, count) in [("store", 5), ("export", 3), ("key", 1)] {
                disk.entries.lock().insert((place, tenant), count);
            }
        }
        Arc::new(disk)
    }

    fn held(&self, tenant: &str) -> u64 {
        self.entries.lock().iter().filter(|((_, of), _)| *of == tenant).map(|(_, count)| count).sum()
    }

    /// Waits for ever when the process is killed here.
    async fn call<T>(&self, effect: impl FnOnce() -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let is_killed = call >= self.killed_at.load(Ordering::SeqCst);
        if is_killed && !self.after.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let result = effect();
        if is_killed {
            std::future::pending::<()>().await;
        }
        result
    }
}

struct Shelf(&'static str, Arc<Disk>);

#[async_trait]
impl Place for Shelf {
    fn name(&self) -> String {
        self.0.to_owned()
    }

    async fn settle(&self, _: &str) -> Result<(), String> {
        self.1.call(|| ()).await;
        match *self.1.away.lock() {
            Some(away) if away == self.0 => Err("it is away".to_owned()),
            _ => Ok(()),
        }
    }

    async fn count(&self, tenant: &str) -> Result<Vec<(String, u64)>, String> {
        let is_own = |place: &str, of: &str| (place, of) == (self.0, tenant);
        let held = || *self.1.entries.lock().iter().find(|((place, of), _)| is_own(place, of)).unwrap().1;
        Ok(vec![("entries".to_owned(), self.1.call(held).await)])
    }

    async fn remove_some(&self, tenant: &str) -> Result<bool, String> {
        let remove = || {
            let mut entries = self.1.entries.lock();
            let held = entries.iter_mut().find(|((place, of), _)| (*place, *of) == (self.0, tenant)).unwrap().1;
            let had = *held > 0;
            *held = held.saturating_sub(2);
            had
        };
        Ok(self.1.call(remove).await)
    }

    async fn residuals(&self, _: &str) -> Vec<Residual> {
        let residual = Residual { place: self.0.to_owned(), reason: "copies".to_owned(), expires: None };
        if self.0 == "export" { vec![residual] } else { Vec::new() }
    }
}

struct World {
    _dir: tempfile::TempDir,
    clock: Arc<Hand>,
    registry: EmbeddedRegistry,
    peppers: Arc<Peppers>,
    disk: Arc<Disk>,
}

impl World {
    /// Two tenants with data and credentials; `a` is to be deleted at once.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = EmbeddedRegistry::open(dir.path().join("registry.redb")).unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(START)));
        let world =
            Self { _dir: dir, clock, registry, peppers: Arc::new(Peppers::generate().unwrap()), disk: Disk::full() };
        let admin = world.admin();
        for tenant in ["a", "b"] {
            admin.create_tenant(tenant, "", &By::local()).await.unwrap();
            for device in ["d1", "d2"] {
                admin.create_device_secret(tenant, device, None, &By::local()).await.unwrap();
            }
        }
        admin.delete_tenant("a", "contract ended", Some(START), None, &By::local()).await.unwrap();
        world
    }

    fn admin(&self) -> Admin {
        Admin::new(Arc::new(self.registry.clone()), self.peppers.clone(), self.clock.clone())
    }

    fn gate(&self) -> Gate {
        Gate::new(Arc::new(self.registry.clone()), self.peppers.clone(), Topics::default(), self.clock.clone()).unwrap()
    }

    fn places(&self) -> Vec<Arc<dyn Place>> {
        ["store", "export", "key"].map(|name| Arc::new(Shelf(name, Arc::clone(&self.disk))) as Arc<dyn Place>).into()
    }

    /// A process that has just started.
    fn purger(&self, worker: &str) -> Purger {
        Purger::new(&self.gate(), self.places(), worker.to_owned(), GRACE)
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }

    async fn tenant(&self, id: &str) -> Tenant {
        self.registry.tenant(id).await.unwrap().unwrap()
    }

    async fn check_report(&self) {
        let tenant = self.tenant("a").await;
        assert_eq!((tenant.state, self.disk.held("a"), self.disk.held("b")), (TenantState::Deleted, 0, 9));
        let deletion = tenant.deletion.unwrap();
        let counts: Vec<(&str, u64)> =
            deletion.counts.as_ref().unwrap().iter().map(|count| (&*count.place, count.count)).collect();
        assert_eq!(counts, [("store", 5), ("export", 3), ("key", 1), ("registry", 2)]);
        assert_eq!(deletion.residuals.len(), 1);
        assert!(deletion.trouble.is_none() && deletion.ended.is_some());
        assert_eq!(self.registry.count_rows("a").await.unwrap(), 0);
        assert_eq!(self.registry.count_rows("b").await.unwrap(), 2);
        let events = self.registry.audit(INSTALLATION, None, 9).await.unwrap();
        assert_eq!(events.len(), 1, "the report is written once");
        for chain in ["a", INSTALLATION] {
            assert_eq!(self.registry.verify_audit(chain, None).await.unwrap().fault, None);
        }
        assert!(self.registry.tenant_credentials("b", Class::ApiKey, None, 9).await.unwrap().is_empty());
    }
}

async fn steps(purger: &Purger, count: usize) {
    let mut reported = BTreeMap::new();
    for _ in 0..count {
        purger.step(&mut reported).await;
    }
}

#[tokio::test]
async fn data_is_removed_when_its_time_has_come_and_all_processes_know() {
    let world = World::new().await;
    let admin = world.admin();
    admin.undelete_tenant("a", &By::local()).await.unwrap();
    admin.delete_tenant("a", "contract ended", Some(START + 100 * SECOND), None, &By::local()).await.unwrap();
    let purger = world.purger("p");
    world.pass(99);
    steps(&purger, 2).await;
    assert_eq!((world.tenant("a").await.state, world.disk.held("a")), (TenantState::Deleting, 9));
    world.pass(1);
    steps(&purger, 2).await;
    assert_eq!((world.tenant("a").await.state, world.disk.held("a")), (TenantState::Purging, 9));
    let known = purger.gate.purged();
    assert!(known.borrow().contains("a") && !known.borrow().contains("b"));
    world.pass(10);
    steps(&purger, 1).await;
    world.check_report().await;
    // Looked at again, nothing changes; a process that starts later knows.
    steps(&purger, 1).await;
    world.check_report().await;
    let gate = world.gate();
    gate.load_purged().await.unwrap();
    assert!(gate.purged().borrow().contains("a"));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_killed_at_any_step_leaves_the_rest_to_the_next_one() {
    let mut kills = 0;
    for at in 0.. {
        for after in [false, true] {
            let world = World::new().await;
            steps(&world.purger("p"), 1).await;
            world.pass(10);
            world.disk.calls.store(0, Ordering::SeqCst);
            world.disk.killed_at.store(at, Ordering::SeqCst);
            world.disk.after.store(after, Ordering::SeqCst);
            let purger = world.purger("p");
            // Dropped where it waits, as a process that is killed there.
            let ended = tokio::time::timeout(Duration::from_secs(3600), steps(&purger, 1)).await;
            drop(purger);
            if ended.is_ok() {
                world.check_report().await;
                assert!(kills > 20, "{kills}");
                return;
            }
            kills += 1;
            world.disk.killed_at.store(usize::MAX, Ordering::SeqCst);
            // Another process waits until the time of the claim has passed.
            let other = world.purger("q");
            steps(&other, 1).await;
            assert_eq!(world.tenant("a").await.state, TenantState::Purging);
            world.pass(61);
            steps(&other, 1).await;
            world.check_report().await;
        }
    }
}

#[tokio::test]
async fn a_place_that_is_away_holds_up_its_tenant_alone_and_is_named() {
    let world = World::new().await;
    world.admin().delete_tenant("b", "", Some(START), None, &By::local()).await.unwrap();
    let purger = world.purger("p");
    steps(&purger, 1).await;
    world.pass(10);
    *world.disk.away.lock() = Some("export");
    steps(&purger, 2).await;
    for tenant in ["a", "b"] {
        let deletion = world.tenant(tenant).await.deletion.unwrap();
        assert_eq!(deletion.trouble.as_deref(), Some("export: it is away"));
    }
    *world.disk.away.lock() = None;
    steps(&purger, 1).await;
    assert_eq!((world.disk.held("a"), world.disk.held("b")), (0, 0));
}

#[tokio::test]
async fn two_processes_do_not_remove_the_same() {
    let world = World::new().await;
    let (one, two) = (world.purger("p"), world.purger("q"));
    steps(&one, 1).await;
    world.pass(10);
    tokio::join!(steps(&one, 1), steps(&two, 1));
    world.check_report().await;
}

#[tokio::test]
async fn a_tenant_whose_pool_is_in_no_process_has_the_reason_in_its_deletion_and_is_removed_when_it_is_back() {
    let world = World::new().await;
    let admin = world.admin();
    admin.create_tenant_in("c", "", Some("gold"), &By::local()).await.unwrap();
    admin.delete_tenant("c", "", Some(START), None, &By::local()).await.unwrap();
    world.disk.entries.lock().extend(["store", "export", "key"].map(|place| ((place, "c"), 1)));
    let trouble = async || world.tenant("c").await.deletion.unwrap().trouble;
    let shared = world.purger("p");
    // A process that has the pool may begin within a minute.
    world.pass(59);
    steps(&shared, 1).await;
    assert_eq!(trouble().await, None);
    world.pass(1);
    steps(&shared, 2).await;
    let reason = trouble().await.unwrap();
    assert!(reason.contains("\"gold\"") && reason.contains("[[pool]]"), "{reason}");
    let waiting = world.tenant("c").await;
    assert_eq!((waiting.state, world.disk.held("c")), (TenantState::Deleting, 3));
    // It can still be restored, and asked for again.
    admin.undelete_tenant("c", &By::local()).await.unwrap();
    admin.delete_tenant("c", "", Some(START), None, &By::local()).await.unwrap();
    world.pass(60);
    steps(&shared, 1).await;
    assert_eq!(trouble().await, Some(reason));
    let gate = world.gate().with_pools(vec!["gold".to_owned()]);
    let of_pool = Purger::new(&gate, world.places(), "q".to_owned(), Duration::ZERO).of_pool(Some("gold"));
    steps(&of_pool, 1).await;
    assert_eq!((trouble().await, world.disk.held("c")), (None, 0));
    assert_eq!(world.tenant("c").await.state, TenantState::Deleted);
    // The purger of the shared pool of a process that has the pool says nothing.
    admin.create_tenant_in("d", "", Some("gold"), &By::local()).await.unwrap();
    admin.delete_tenant("d", "", Some(START), None, &By::local()).await.unwrap();
    world.pass(600);
    steps(&Purger::new(&gate, world.places(), "q".to_owned(), GRACE), 1).await;
    assert_eq!(world.tenant("d").await.deletion.unwrap().trouble, None);
}

#[tokio::test]
async fn a_removal_that_a_lost_pool_has_interrupted_is_named_too() {
    let world = World::new().await;
    let admin = world.admin();
    admin.create_tenant_in("c", "", Some("gold"), &By::local()).await.unwrap();
    admin.delete_tenant("c", "", Some(START), None, &By::local()).await.unwrap();
    let gate = world.gate().with_pools(vec!["gold".to_owned()]);
    // It waits for the grace.
    steps(&Purger::new(&gate, world.places(), "q".to_owned(), GRACE).of_pool(Some("gold")), 1).await;
    assert_eq!(world.tenant("c").await.state, TenantState::Purging);
    let shared = world.purger("p");
    world.pass(100);
    steps(&shared, 1).await;
    assert!(!world.tenant("c").await.deletion.unwrap().trouble.unwrap().contains("[[pool]]"), "it may go on");
    world.pass(60);
    steps(&shared, 1).await;
    assert!(world.tenant("c").await.deletion.unwrap().trouble.unwrap().contains("[[pool]]"));
}
