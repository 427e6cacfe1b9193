//! The table of credentials when it is full.

use super::*;
use crate::gate::live::{Entry, Live, Subject, shard_of};
use crate::gate::proof::Proof;

/// Of the whole table: all entries of these tests are in one shard.
const SHARDS: usize = 16;

/// A table with room for so many of the entries.
fn table(entries: usize) -> Live {
    Live::new(Bounds { entries: SHARDS * entries, bytes: SHARDS << 20 })
}

/// Adds an entry of a tenant that was used at a time, with a name of so many bytes.
fn add_long(live: &Live, tenant: &str, n: usize, used: Nanos, name: usize) -> Arc<Entry> {
    let mut ids = (0..).map(|salt: u32| CredentialId::derived(&[tenant, &n.to_string(), &salt.to_string()]));
    let entry = Entry {
        id: ids.find(|id| shard_of(id) == 0).unwrap(),
        tenant: tenant.into(),
        stamp: crate::registry::Stamp::default(),
        proof: Proof::None,
        expires: None,
        subject: Subject::Caller {
            name: "x".repeat(name).into(),
            role: Role::Viewer,
            scopes: None,
            networks: Arc::default(),
            reach: crate::DeviceReach::default(),
        },
        authority: None,
        meter: None,
        ended: CancellationToken::new(),
        used: AtomicI64::new(used),
        recorded: AtomicI64::new(used),
        is_registered: AtomicBool::new(false),
    };
    let epoch = live.epoch_of(&entry.id);
    live.insert(entry, epoch).unwrap()
}

fn add(live: &Live, tenant: &str, n: usize) -> Arc<Entry> {
    add_long(live, tenant, n, START, 1)
}

fn add_all(live: &Live, tenant: &str, count: usize) -> Vec<Arc<Entry>> {
    (0..count).map(|n| add(live, tenant, n)).collect()
}

fn count_of_ended(entries: &[Arc<Entry>]) -> usize {
    let count = entries.iter().take_while(|entry| entry.ended.is_cancelled()).count();
    assert!(entries[count..].iter().all(|entry| !entry.ended.is_cancelled()), "the oldest leave first");
    count
}

#[test]
fn a_tenant_that_fills_the_table_ends_its_own_sessions_and_no_others() {
    let live = table(40);
    let mut others: Vec<_> = ["a", "b", "c"].into_iter().flat_map(|tenant| add_all(&live, tenant, 2)).collect();
    let own = add_all(&live, "t", 200);
    assert_eq!((count_of_ended(&others), count_of_ended(&own)), (0, 166));
    // Small tenants have room again, until the large one has its share.
    for n in 0..24 {
        others.extend([add(&live, &format!("small{n}"), 0)]);
    }
    assert_eq!((count_of_ended(&others), count_of_ended(&own)), (0, 190));
    others.extend([add(&live, "d", 0), add(&live, "e", 0)]);
    assert_eq!((count_of_ended(&others), count_of_ended(&own)), (2, 190), "no tenant has more than its share");
    assert_eq!(live.ids().len(), 40);
    live.revoke_tenant("t");
    assert_eq!(count_of_ended(&own), 200);
    let again = add_all(&live, "t", 10);
    assert_eq!((count_of_ended(&others), count_of_ended(&again)), (2, 0), "what has left takes no part");
}

#[test]
fn a_tenant_with_large_entries_ends_its_own_sessions_and_no_others() {
    let live = Live::new(Bounds { entries: SHARDS * 1000, bytes: SHARDS * 100_000 });
    let others: Vec<_> = ["a", "b", "c"].into_iter().flat_map(|tenant| add_all(&live, tenant, 10)).collect();
    let own: Vec<_> = (0..100).map(|n| add_long(&live, "t", n, START, 4000)).collect();
    assert_eq!(count_of_ended(&others), 0);
    let ended = count_of_ended(&own);
    assert!((80..95).contains(&ended), "{ended}: those that stay take no more than 100 kB");
}

#[test]
fn one_tenant_alone_uses_the_whole_table() {
    let live = table(40);
    let own = add_all(&live, "t", 40);
    assert_eq!((count_of_ended(&own), live.ids().len()), (0, 40));
    add(&live, "t", 40);
    assert_eq!((count_of_ended(&own), live.ids().len()), (1, 40));
}

#[test]
fn places_of_entries_that_have_left_end_no_session_that_was_used_lately() {
    let live = table(40);
    let left = add_all(&live, "t", 30);
    let entries: Vec<_> = (30..40).map(|n| add(&live, "t", n)).collect();
    for entry in &left {
        live.revoke(&entry.id);
    }
    entries[0].used.store(START + SECOND, Ordering::Relaxed);
    let later: Vec<_> = (40..71).map(|n| add(&live, "t", n)).collect();
    let ended: Vec<_> = entries.iter().map(|entry| entry.ended.is_cancelled()).collect();
    assert_eq!(ended, [false, true, false, false, false, false, false, false, false, false]);
    assert_eq!(count_of_ended(&later), 0);
}

#[test]
fn an_entry_that_has_ended_leaves_before_others_that_were_used_longer_ago() {
    let live = table(4);
    let entries = add_all(&live, "t", 4);
    entries[0].used.store(START + SECOND, Ordering::Relaxed);
    entries[0].ended.cancel();
    add(&live, "t", 4);
    assert_eq!(count_of_ended(&entries), 1);
    assert!(live.get(&entries[0].id).is_none());
}
