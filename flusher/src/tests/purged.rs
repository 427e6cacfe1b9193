//! A tenant that is deleted while its readings are on their way.

use std::time::Duration;

use buffer::Log;
use stores::StoreError;

use super::exports::append;
use crate::accounting::replay::replay_into_store;
use crate::testing::{SERIES, World, numbers};
use crate::{DEAD_LETTERS, HISTORY, LATEST};

#[tokio::test(start_paused = true)]
async fn readings_of_a_deleted_tenant_reach_no_store_and_the_books_balance() {
    let mut world = World::new();
    let series = world.add_series();
    world.exports[0].flush = Duration::from_secs(3600);
    world.config.history.flush_secs = 3600.0;
    let running = world.start().await;
    append(&world, 0);
    world.done_to(LATEST, world.log.end()).await;
    // Its readings are in memory, to be written with the next flush.
    running.handle.books.projections.purged().add(["acme".into()]);
    append(&world, 100);
    running.stop().await.unwrap();
    let end = world.log.end();
    assert_eq!((world.log.cursor(HISTORY).done_to, world.log.cursor(SERIES).done_to), (end, end));
    let others: Vec<i64> = (0..200).filter(|n| n % 5 != 0).collect();
    assert_eq!(numbers(&world.history.blocks()).into_keys().collect::<Vec<_>>(), others);
    assert_eq!(series.numbers(), others);
    for sink in [HISTORY, SERIES] {
        let cursor = world.log.cursor(sink);
        assert_eq!((cursor.tallies["acme"].filtered, cursor.tallies["acme"].stored), (40, 0), "{sink}");
    }
    let running = world.start().await;
    let projections = &running.handle.books.projections;
    projections.purged().add(["acme".into()]);
    world.done_to(DEAD_LETTERS, end).await;
    let lines = running.handle.books().books(true).await.unwrap();
    for line in &lines {
        assert!(line.balances() && line.agrees(), "{line:?}");
        assert!(&*line.tenant != "acme" || line.held.is_none(), "the store is not asked about it: {line:?}");
    }
    let mut letter = running.handle.dead_letters().list("default", None, 1).await.unwrap().remove(0);
    letter.tenant = "acme".into();
    letter.stage = HISTORY.to_owned();
    let replayed = replay_into_store(projections, &letter).await;
    assert!(matches!(replayed, Err(StoreError::Refused(_))), "{replayed:?}");
    running.stop().await.unwrap();
}
