//! The bytes of a tenant's readings: those of the blocks that can be found, after anything that
//! happens to these.

use model::{DeviceKey, TimeRange};
use proptest::prelude::*;
use weir_stores::Block;
use weir_stores::block::PARTITION;
use weir_stores::contract::{History, Store, TenantData};

use crate::data::{START, any_block, block, some};
use crate::history::all;
use crate::world::World;

const TENANTS: [&str; 2] = ["north", "north.2"];
const DEVICES: [&str; 2] = ["a", "line/1"];

fn device(tenant: &str, id: &str) -> DeviceKey {
    DeviceKey::new(tenant, id).unwrap()
}

/// Counts again, from the blocks.
async fn recount(store: &impl Store, tenant: &str) -> u64 {
    let mut sum = 0;
    for id in DEVICES {
        sum += all(store, &device(tenant, id), TimeRange::ALL).await.iter().map(Block::size).sum::<u64>();
    }
    sum
}

async fn check(store: &impl Store, after: &str) {
    for tenant in TENANTS {
        assert_eq!(store.size_of(tenant).await.unwrap(), recount(store, tenant).await, "{tenant} after {after}");
    }
}

pub(crate) async fn the_size_of_a_tenant_is_that_of_its_readings(mut world: impl World) {
    let store = world.open().await;
    assert_eq!(store.size_of(TENANTS[0]).await.unwrap(), 0);
    let first = block(&device(TENANTS[0], "a"), 0, 10);
    store.write(vec![first.clone(), block(&device(TENANTS[1], "a"), 0, 3)]).await.unwrap();
    // A value named `v`, of 8 bytes, in each reading.
    assert_eq!(store.size_of(TENANTS[0]).await.unwrap(), 10 * (32 + 1 + 8));
    store.write(vec![first]).await.unwrap();
    store.sync().await.unwrap();
    assert_eq!(store.size_of(TENANTS[0]).await.unwrap(), 10 * (32 + 1 + 8), "written again");
    let store = world.open_again().await;
    assert_eq!(store.size_of(TENANTS[0]).await.unwrap(), 10 * (32 + 1 + 8));
    assert_eq!(store.size_of(TENANTS[1]).await.unwrap(), 3 * (32 + 1 + 8));
}

/// A change of what is held.
#[derive(Debug, Clone)]
enum Step {
    /// Blocks of a device, in some week; written twice, the second time perhaps under another
    /// identity, so that a merge finds equal readings.
    Write {
        tenant: usize,
        device: usize,
        week: i64,
        again: bool,
    },
    Merge,
    ExpireOf {
        tenant: usize,
        week: i64,
    },
    Expire {
        week: i64,
    },
    Delete {
        tenant: usize,
    },
    OpenAgain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 0..2_usize, 0..3_i64, any::<bool>())
            .prop_map(|(tenant, device, week, again)| Step::Write { tenant, device, week, again }),
        4 => Just(Step::Merge),
        1 => (0..2_usize, 0..3_i64).prop_map(|(tenant, week)| Step::ExpireOf { tenant, week }),
        1 => (0..2_i64).prop_map(|week| Step::Expire { week }),
        1 => (0..2_usize).prop_map(|tenant| Step::Delete { tenant }),
        1 => Just(Step::OpenAgain),
    ]
}

fn blocks(device: &DeviceKey, week: i64, again: bool, offset: &mut u64) -> Vec<Block> {
    let mut blocks = Vec::new();
    for _ in 0..2 {
        *offset += 100;
        let mut block = some(any_block(device.clone(), *offset), 1).remove(0);
        block.times.iter_mut().for_each(|time| *time += week * PARTITION);
        // Of equal readings all but one leave, if their time is the device's own.
        block.device_timed.clear();
        if again {
            *offset += 100;
            let mut copy = block.clone();
            copy.id.first_offset = *offset;
            blocks.push(copy);
        }
        blocks.push(block);
    }
    blocks
}

pub(crate) async fn sizes_are_those_of_a_recount_after_any_changes(mut world: impl World) {
    let mut offset = 0;
    for step in some(step(), 60) {
        let store = world.open().await;
        match &step {
            Step::Write { tenant, device: id, week, again } => {
                let blocks = blocks(&device(TENANTS[*tenant], DEVICES[*id]), *week, *again, &mut offset);
                store.write(blocks.clone()).await.unwrap();
                store.write(blocks).await.unwrap();
                store.sync().await.unwrap();
            }
            Step::Merge => {
                store.done("log-1", u64::MAX);
                while store.merge().await.unwrap() {}
            }
            Step::ExpireOf { tenant, week } => {
                let half = START + week * PARTITION + PARTITION / 2;
                store.expire_of(TENANTS[*tenant], half).await.unwrap();
            }
            Step::Expire { week } => {
                store.expire(START + week * PARTITION).await.unwrap();
            }
            Step::Delete { tenant } => while store.delete_some_of(TENANTS[*tenant], 3).await.unwrap() {},
            Step::OpenAgain => drop(world.open_again().await),
        }
        check(world.open().await, &format!("{step:?}")).await;
    }
}
