use std::num::NonZeroU64;
use std::sync::Arc;

use super::*;

fn limited(bytes: u64) -> Limits {
    Limits { storage_bytes: NonZeroU64::new(bytes), ..Limits::default() }
}

#[test]
fn readings_are_refused_beyond_the_storage_and_admitted_again_when_there_is_room() {
    let tenant = TenantMeter::new(&limited(100));
    let device = tenant.device("d");
    assert!(device.checks_readings() && device.limits_storage() && !device.counts_series());
    assert!(device.store(1_000).is_ok(), "the store was not asked yet");
    assert_eq!((tenant.knows_storage(), tenant.usage().storage), (false, None));
    tenant.mark_storage(1);
    tenant.mark_storage(1);
    tenant.stored(60, Some(1));
    assert_eq!(tenant.usage().storage, Some(60), "what was below the mark is in the store, or nowhere");
    assert!(device.store(30).is_ok());
    let refused = device.store(11).unwrap_err();
    assert_eq!((refused.quota, refused.limit, refused.retry_after), (Quota::Storage, 100, None));
    let text = "the limit storage_bytes = 100 of the tenant is reached: readings are accepted again when older ones are \
                deleted; shorten retention_seconds, or raise it";
    assert_eq!(refused.to_string(), text);
    assert!(!refused.quota.is_rate());
    assert!(device.store(10).is_ok(), "a smaller one fits");
    assert!(device.store(0).is_ok(), "a message without a reading needs no room");
    assert_eq!(tenant.usage().storage, Some(100));
    device.unstore(10);
    assert!(device.store(10).is_ok());
    // Deleted readings make room, once the store was asked.
    tenant.stored(10, Some(1));
    assert_eq!(tenant.usage().storage, Some(50));
    assert!(device.store(50).is_ok() && device.store(1).is_err());
    let refused = tenant.usage().limited.iter().find(|(quota, _)| *quota == Quota::Storage).unwrap().1;
    assert_eq!(refused, 2);
}

#[test]
fn a_limit_below_the_use_refuses_all_and_one_above_it_admits_again() {
    let tenant = TenantMeter::new(&limited(100));
    let device = tenant.device("d");
    tenant.stored(80, None);
    assert!(device.store(10).is_ok());
    tenant.set(&limited(50));
    assert!(device.store(1).is_err());
    assert_eq!(tenant.usage().storage, Some(90), "what was admitted still counts");
    tenant.set(&limited(91));
    assert!(device.store(1).is_ok() && device.store(1).is_err());
    tenant.set(&Limits::default());
    assert!(!device.checks_readings() && device.store(u64::MAX / 2).is_ok() && tenant.usage().storage.is_none());
    tenant.stored(80, None);
    assert!(!tenant.knows_storage(), "an answer that is late counts no more");
    // What was admitted meanwhile was not counted, and is in the next answer.
    tenant.set(&limited(100));
    assert!(device.checks_readings() && device.store(1_000).is_ok());
    tenant.stored(80, None);
    assert!(device.store(1).is_err());
}

#[test]
fn threads_together_admit_no_more_than_the_limit() {
    let tenant = TenantMeter::new(&limited(1_000_000));
    tenant.stored(0, None);
    let admitted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5)
            .map(|n| {
                let device = tenant.device("d");
                scope.spawn(move || (0..200_000).filter(|_| device.store(n).is_ok()).count() as u64 * n)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(tenant.usage().storage, Some(admitted));
    assert!((999_990..=1_000_000).contains(&admitted), "{admitted}");
}

/// A log, a store behind it, and the tenant's messages in both.
struct World {
    tenant: Arc<TenantMeter>,
    /// Bytes of each message in the log.
    log: Vec<u64>,
    /// Messages that are in the store, and those that the cursor has passed.
    written: usize,
    done_to: usize,
    deleted: u64,
}

impl World {
    fn stored(&self) -> u64 {
        self.log[..self.written].iter().sum::<u64>() - self.deleted
    }

    fn held(&self) -> u64 {
        self.log.iter().sum::<u64>() - self.deleted
    }
}

/// A sequence of numbers for a seed (xorshift64).
fn next(random: &mut u64, below: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % below
}

#[test]
fn the_limit_holds_however_late_the_store_is_asked_and_all_room_is_used_in_the_end() {
    for seed in 1..200 {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed);
        let limit = 10_000;
        let tenant = TenantMeter::new(&limited(limit));
        tenant.stored(0, Some(0));
        let mut world = World { tenant, log: Vec::new(), written: 0, done_to: 0, deleted: 0 };
        let device = world.tenant.device("d");
        let mut refused = 0;
        for _ in 0..2_000 {
            match next(&mut random, 20) {
                0..=11 => {
                    let bytes = 1 + next(&mut random, 100);
                    if device.store(bytes).is_ok() {
                        world.log.push(bytes);
                    } else {
                        refused += 1;
                    }
                }
                12 => world.written = world.log.len(),
                13 => world.done_to = world.written,
                14..=16 => world.tenant.mark_storage(world.log.len() as u64),
                17 => {
                    // The cursor is read first; the store may get more before it is asked.
                    let done_to = world.done_to as u64;
                    if next(&mut random, 2) == 0 {
                        world.written = world.log.len();
                    }
                    world.tenant.stored(world.stored(), Some(done_to));
                }
                18 if next(&mut random, 10) == 0 => {
                    world.deleted += next(&mut random, world.stored() + 1);
                }
                _ => {}
            }
            assert!(world.held() <= limit, "seed {seed}: {} of {limit}", world.held());
            let used = world.tenant.usage().storage.unwrap();
            assert!(used >= world.held(), "seed {seed}: {used} are known of {}", world.held());
        }
        assert!(refused > 0, "seed {seed}: {} bytes were admitted", world.held());
        // Everything is in the store, and was there when it is asked.
        (world.written, world.done_to) = (world.log.len(), world.log.len());
        for _ in 0..2 {
            world.tenant.mark_storage(world.log.len() as u64);
        }
        world.tenant.stored(world.stored(), Some(world.done_to as u64));
        assert_eq!(world.tenant.usage().storage, Some(world.held()), "seed {seed}");
        let state = world.tenant.storage.state.lock();
        assert!(state.marks.len() <= MARKS);
    }
}

#[test]
fn marks_are_bounded_and_the_rest_still_counts() {
    let tenant = TenantMeter::new(&limited(1_000_000));
    let device = tenant.device("d");
    tenant.stored(0, Some(0));
    // The store is away for long.
    for end in 0..10_000 {
        device.store(1).unwrap();
        tenant.mark_storage(end);
    }
    assert!(tenant.storage.state.lock().marks.len() <= MARKS);
    assert_eq!(tenant.usage().storage, Some(10_000));
    tenant.mark_storage(10_000);
    tenant.stored(10_000, Some(10_000));
    assert_eq!(tenant.usage().storage, Some(10_000));
}
