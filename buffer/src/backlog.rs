//! The unflushed bytes of each tenant in a log, and the share that each may have.
//!
//! A tenant may hold as much of the log as a fixed proportion of what is free: with a share of one
//! half, as much as is free. One tenant alone fills half of the log, two fill two thirds, and there
//! is always room for a tenant that holds nothing. Further records of a tenant that holds its share
//! wait; they are neither refused nor dropped.
//!
//! A task that waits looks again after it is noted, and room is made before those that wait are
//! looked up: with one order of both, none is missed. Hence `SeqCst`.
//!
//! Only the writer's process knows these numbers, so that they begin anew with it: what the log
//! held before is counted for no tenant, and is not free.
//!
//! A log on Redis has a second place, the spill: while records go there, the share is one of its
//! free bytes. A spilled record is counted in both: in the spill until it is drained, and in the
//! log until it is flushed, so that nothing has to be counted when it moves.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::backend::Placed;
use crate::batcher::TaskId;
use crate::log::now;

/// Bytes are known for this many parts of the log: a tenant counts as holding a part until all of
/// the part is flushed.
const PARTS: u64 = 64;
/// The table of tenants is cleared of those that hold nothing when it has grown to this size, and
/// to twice the size that was left then.
const LEAST_TABLE: usize = 1024;
/// Time between two log lines about one tenant.
const QUIET: i64 = 60 * model::time::SECOND;

/// Unflushed bytes by the part of the log in which they are.
#[derive(Default)]
struct Ledger {
    /// Bytes that are not known to be flushed.
    bytes: AtomicU64,
    /// Ends of parts, in order, each with its bytes.
    parts: Mutex<VecDeque<(u64, u64)>>,
}

impl Ledger {
    /// Adds bytes that end at `end`. Parts are at least `least` bytes long, but for the last one.
    fn add(&self, end: u64, bytes: u64, least: u64) {
        let mut parts = self.parts.lock();
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        match parts.back_mut() {
            Some((last, held)) if *held < least => (*last, *held) = (end, *held + bytes),
            _ => parts.push_back((end, bytes)),
        }
    }

    /// Removes what lies below `passed`.
    fn settle(&self, passed: u64) {
        if self.bytes.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut parts = self.parts.lock();
        while parts.front().is_some_and(|(end, _)| *end <= passed) {
            let (_, bytes) = parts.pop_front().unwrap_or_default();
            self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

/// A place where records wait for the sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Log,
    Spill,
}

/// Unflushed bytes of all tenants in a place.
struct Room {
    capacity: u64,
    /// Every sink, or the drain of the spill, has passed this offset of the place.
    passed: AtomicU64,
    all: Ledger,
}

impl Room {
    fn of(capacity: u64) -> Self {
        Self { capacity, passed: AtomicU64::new(0), all: Ledger::default() }
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    fn add(&self, end: u64, bytes: u64) {
        self.all.add(end, bytes, self.least());
    }

    fn least(&self) -> u64 {
        self.capacity / PARTS
    }
}

/// The backlog of a log. One for each writer.
pub struct Backlog {
    /// Bytes that a tenant may hold for each free byte.
    per_free_byte: f64,
    /// By [`Place`].
    rooms: [Room; 2],
    /// Records go to the spill.
    spills: AtomicBool,
    accounts: Mutex<Accounts>,
    /// Accounts with tasks that wait.
    waiting: Mutex<Vec<Arc<Account>>>,
    has_waiting: AtomicBool,
}

#[derive(Default)]
struct Accounts {
    by_tenant: HashMap<Arc<str>, Arc<Account>>,
    /// Size at which accounts that hold nothing leave.
    full: usize,
}

/// The account of a tenant in a log. It outlives the tenant's connections for as long as it holds
/// bytes.
pub struct Account {
    tenant: Arc<str>,
    /// By [`Place`].
    ledgers: [Ledger; 2],
    /// Bytes that were submitted and are not appended yet.
    pending: AtomicU64,
    tasks: Mutex<HashMap<TaskId, Waker>>,
    /// It is among those that wait. Changed while they are locked.
    waits: AtomicBool,
    reported: AtomicI64,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("tenant", &self.tenant).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [log, spill] = &self.rooms;
        let (log, spill) = ((log.all.bytes(), log.capacity), (spill.all.bytes(), spill.capacity));
        f.debug_struct("Backlog").field("log", &log).field("spill", &spill).finish_non_exhaustive()
    }
}

impl Backlog {
    /// A log of `capacity` bytes, with a spill or without one, of which a tenant may hold `percent`
    /// alone; `None` when one may hold all.
    pub(crate) fn new(capacity: u64, spill: Option<u64>, percent: u32) -> Option<Arc<Self>> {
        let share = f64::from(percent.clamp(1, 100)) / 100.0;
        (share < 1.0).then(|| {
            Arc::new(Self {
                per_free_byte: share / (1.0 - share),
                rooms: [capacity, spill.unwrap_or(0)].map(Room::of),
                spills: AtomicBool::new(false),
                accounts: Mutex::default(),
                waiting: Mutex::default(),
                has_waiting: AtomicBool::new(false),
            })
        })
    }

    /// Counts bytes that end at `end` and were in this place before.
    pub(crate) fn found(&self, place: Place, end: u64, bytes: u64) {
        self.room(place).add(end, bytes);
    }

    fn room(&self, place: Place) -> &Room {
        &self.rooms[place as usize]
    }

    /// The place to which records go now.
    fn place(&self) -> Place {
        if self.spills.load(Ordering::SeqCst) { Place::Spill } else { Place::Log }
    }

    /// Notes where records go from now on.
    pub(crate) fn goes_to(&self, place: Place) {
        self.spills.store(place == Place::Spill, Ordering::SeqCst);
        self.wake(false);
    }

    /// True while tasks wait for the share of their tenants.
    pub(crate) fn has_waiting(&self) -> bool {
        self.has_waiting.load(Ordering::SeqCst)
    }

    /// Returns the account of a tenant.
    pub(crate) fn account(&self, tenant: &Arc<str>) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.by_tenant.get(tenant) {
            return Arc::clone(account);
        }
        if accounts.by_tenant.len() >= accounts.full.max(LEAST_TABLE) {
            accounts.by_tenant.retain(|_, account| {
                let holds = |place| account.settled(place, self.room(place).passed()) > 0;
                Arc::strong_count(account) > 1 || holds(Place::Log) || holds(Place::Spill)
            });
            accounts.full = 2 * accounts.by_tenant.len();
        }
        let account = Arc::new(Account {
            tenant: Arc::clone(tenant),
            ledgers: Default::default(),
            pending: AtomicU64::new(0),
            tasks: Mutex::default(),
            waits: AtomicBool::new(false),
            reported: AtomicI64::new(i64::MIN),
        });
        accounts.by_tenant.insert(Arc::clone(tenant), Arc::clone(&account));
        account
    }

    /// Bytes of this place that a tenant may hold now.
    fn share(&self, place: Place) -> u64 {
        let room = self.room(place);
        let free = room.capacity.saturating_sub(room.all.bytes());
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a bound that need not be exact"
        )]
        let share = (free as f64 * self.per_free_byte) as u64;
        share
    }

    /// True when a tenant holds no more than its share: it may add a batch of any size.
    fn has_room(&self, account: &Account) -> bool {
        let place = self.place();
        let share = self.share(place);
        // Without a settlement first: most tenants hold little.
        account.held(place) <= share || account.settled(place, self.room(place).passed()) <= share
    }

    /// True when a tenant of this log may submit now. Else the task is woken when it may.
    pub(crate) fn may_submit(&self, account: &Arc<Account>, waker: &Waker) -> bool {
        if self.has_room(account) {
            return true;
        }
        {
            let mut waiting = self.waiting.lock();
            account.tasks.lock().insert(TaskId::of(waker), waker.clone());
            if !account.waits.swap(true, Ordering::SeqCst) {
                waiting.push(Arc::clone(account));
            }
            self.has_waiting.store(true, Ordering::SeqCst);
        }
        // Room that was made meanwhile has woken no task.
        let has_room = self.has_room(account);
        if !has_room {
            account.report(self);
        }
        has_room
    }

    /// Notes that every sink has passed this offset of the log, or the drain this one of the spill,
    /// and wakes tasks whose tenants have room now.
    pub(crate) fn pass(&self, place: Place, offset: u64) {
        let room = self.room(place);
        room.passed.fetch_max(offset, Ordering::SeqCst);
        room.all.settle(room.passed());
        self.wake(false);
    }

    /// Counts a batch: the bytes that each tenant submitted, and the bytes that were used for all
    /// `submitted` bytes.
    pub(crate) fn appended(&self, batch: &mut Vec<(Arc<Account>, u64)>, submitted: u64, placed: Placed) {
        let Placed { end, spilled, bytes: used } = placed;
        let places = [Some((Place::Log, end)), spilled.map(|end| (Place::Spill, end))];
        let places = || places.iter().flatten().map(|(place, end)| (*place, self.room(*place), *end));
        places().for_each(|(_, room, end)| room.add(end, used));
        let mut waits = false;
        for (account, bytes) in batch.drain(..) {
            let cost = u128::from(bytes) * u128::from(used) / u128::from(submitted.max(1));
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            if cost > 0 {
                places().for_each(|(place, room, end)| account.ledgers[place as usize].add(end, cost, room.least()));
            }
            account.pending.fetch_sub(bytes, Ordering::SeqCst);
            waits |= account.waits.load(Ordering::SeqCst);
        }
        if waits {
            // Records that were in the log already have made room.
            self.wake(false);
        }
    }

    /// Wakes waiting tasks of tenants that have room; with `all`, every one.
    pub(crate) fn wake(&self, all: bool) {
        if !self.has_waiting.load(Ordering::SeqCst) {
            return;
        }
        let place = self.place();
        let (passed, share) = (self.room(place).passed(), self.share(place));
        let mut woken = Vec::new();
        let mut waiting = self.waiting.lock();
        waiting.retain(|account| {
            let waits = !all && account.settled(place, passed) > share;
            if !waits {
                account.waits.store(false, Ordering::SeqCst);
                woken.extend(account.tasks.lock().drain().map(|(_, waker)| waker));
            }
            waits
        });
        self.has_waiting.store(!waiting.is_empty(), Ordering::SeqCst);
        drop(waiting);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Account {
    /// Bytes that the tenant has submitted and that are not known to be flushed.
    pub fn bytes(&self) -> u64 {
        self.held(Place::Log)
    }

    fn held(&self, place: Place) -> u64 {
        self.ledgers[place as usize].bytes() + self.pending.load(Ordering::SeqCst)
    }

    fn settled(&self, place: Place, passed: u64) -> u64 {
        self.ledgers[place as usize].settle(passed);
        self.held(place)
    }

    /// Forgets a task that waits for room.
    pub(crate) fn no_longer_waits(&self, task: TaskId) -> Option<Waker> {
        self.tasks.lock().remove(&task)
    }

    /// Counts bytes that were submitted.
    pub(crate) fn submitted(&self, bytes: u64) {
        self.pending.fetch_add(bytes, Ordering::SeqCst);
    }

    fn report(&self, log: &Backlog) {
        let (now, last) = (now(), self.reported.load(Ordering::SeqCst));
        let is_due = last.saturating_add(QUIET) <= now;
        if is_due && self.reported.compare_exchange(last, now, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let place = log.place();
            let room = log.room(place);
            tracing::warn!(
                tenant = %self.tenant, ?place, bytes = self.held(place), unflushed = room.all.bytes(),
                capacity = room.capacity,
                "the tenant holds its share of the log with records that a sink has not stored yet; its devices wait \
                 (log.tenant_share_percent)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn backlog(percent: u32) -> Arc<Backlog> {
        Backlog::new(6400, Some(3200), percent).unwrap()
    }

    fn placed(end: u64, bytes: u64) -> Placed {
        Placed { end, spilled: None, bytes }
    }

    /// Appends `bytes` of a tenant as a batch that ends at `end`, if it may.
    fn append(log: &Arc<Backlog>, tenant: &str, bytes: u64, end: u64) -> bool {
        let account = log.account(&tenant.into());
        if !log.may_submit(&account, Waker::noop()) {
            return false;
        }
        account.submitted(bytes);
        log.appended(&mut vec![(account, bytes)], bytes, placed(end, bytes));
        true
    }

    /// Appends batches of 100 bytes in turns until no tenant may append. Returns the bytes of each.
    fn fill(log: &Arc<Backlog>, tenants: &[&str]) -> Vec<u64> {
        for end in 1..1000 {
            let mut any = false;
            for tenant in tenants {
                any |= append(log, tenant, 100, end);
            }
            if !any {
                return tenants.iter().map(|tenant| log.account(&(*tenant).into()).bytes()).collect();
            }
        }
        panic!("the log is never full");
    }

    #[test]
    fn one_tenant_fills_its_share_and_several_leave_room_for_others() {
        let near = |bytes: u64, wanted: u64| bytes >= wanted && bytes <= wanted + 100;
        let log = backlog(50);
        assert!(near(fill(&log, &["a"])[0], 3200));
        assert!(append(&log, "quiet", 50, 2000), "a tenant without a backlog has room");
        let log = backlog(50);
        let held = fill(&log, &["a", "b"]);
        assert!(near(held[0], 2100) && near(held[1], 2100), "{held:?}");
        assert!(append(&log, "quiet", 50, 2000));
        assert!(near(fill(&backlog(75), &["a"])[0], 4800));
        assert!(Backlog::new(6400, None, 100).is_none(), "no limit");
    }

    #[test]
    fn passed_bytes_are_no_longer_held_and_waiting_tasks_are_woken_once() {
        let log = backlog(50);
        fill(&log, &["a"]);
        let (count, account) = (Arc::new(Count::default()), log.account(&"a".into()));
        let waker = Waker::from(Arc::clone(&count));
        for _ in 0..3 {
            assert!(!log.may_submit(&account, &waker));
        }
        let woken = || count.0.load(Ordering::Relaxed);
        log.pass(Place::Log, 0);
        assert_eq!(woken(), 0, "nothing was passed");
        log.pass(Place::Log, 20);
        assert_eq!(woken(), 1);
        assert!(account.bytes() < 1500 && log.may_submit(&account, &waker));
        log.pass(Place::Log, 1000);
        assert_eq!((account.settled(Place::Log, 1000), log.room(Place::Log).all.bytes(), woken()), (0, 0, 1));
    }

    #[test]
    fn what_the_log_held_before_is_not_free_until_it_is_passed() {
        let log = backlog(50);
        log.found(Place::Log, 10, 4400);
        let held = fill(&log, &["a"])[0];
        assert!((1000..=1100).contains(&held), "{held}");
        log.pass(Place::Log, 10);
        assert!(append(&log, "a", 100, 2000));
    }

    #[test]
    fn records_that_were_in_the_log_already_take_no_room() {
        let log = backlog(50);
        let account = log.account(&"a".into());
        account.submitted(6500);
        let count = Arc::new(Count::default());
        assert!(!log.may_submit(&account, &Waker::from(Arc::clone(&count))));
        log.appended(&mut vec![(Arc::clone(&account), 6500)], 6500, placed(5, 0));
        assert_eq!((account.bytes(), count.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn costs_are_divided_by_the_bytes_that_each_submitted() {
        let log = backlog(50);
        let (a, b) = (log.account(&"a".into()), log.account(&"b".into()));
        a.submitted(300);
        b.submitted(100);
        log.appended(&mut vec![(Arc::clone(&a), 300), (Arc::clone(&b), 100)], 400, placed(1, 800));
        assert_eq!((a.bytes(), b.bytes()), (600, 200));
    }

    #[test]
    fn the_share_is_one_of_the_place_to_which_records_go() {
        let log = backlog(50);
        fill(&log, &["a"]);
        let (count, account) = (Arc::new(Count::default()), log.account(&"a".into()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(!log.may_submit(&account, &waker));
        log.goes_to(Place::Spill);
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "there is room in the spill");
        let spill = |tenant: &str, end: u64| {
            let account = log.account(&tenant.into());
            let may_submit = log.may_submit(&account, Waker::noop());
            if may_submit {
                account.submitted(100);
                log.appended(&mut vec![(account, 100)], 100, Placed { spilled: Some(end), ..placed(100 + end, 100) });
            }
            may_submit
        };
        let spilled = (1..100).take_while(|end| spill("a", *end)).count();
        assert!((16..=17).contains(&spilled), "half of the spill: {spilled}");
        assert!(spill("quiet", 50));
        log.pass(Place::Spill, 10);
        assert!(spill("a", 51));
        // What was drained is still unflushed in the log.
        log.pass(Place::Spill, 51);
        log.goes_to(Place::Log);
        assert!(!append(&log, "a", 100, 2000));
        log.pass(Place::Log, 151);
        assert!(append(&log, "a", 100, 2000));
    }

    #[test]
    fn tenants_that_hold_nothing_leave_the_table_and_one_that_reconnects_has_its_account() {
        let log = backlog(50);
        fill(&log, &["a"]);
        for number in 0..10 * LEAST_TABLE {
            log.account(&number.to_string().into());
        }
        let accounts = log.accounts.lock().by_tenant.len();
        assert!(accounts <= LEAST_TABLE, "{accounts}");
        assert!(!append(&log, "a", 1, 2000));
    }
}
