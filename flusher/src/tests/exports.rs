//! Exports as the configuration has them: several of a kind, with filters, with transactions.

use buffer::Log;
use model::glob::Glob;
use stores::StoreError;
use stores::contract::BookLine;

use crate::testing::{BUS, World, stage, stage_letter, stage_retained};
use crate::{DEAD_LETTERS, HISTORY, Projections, StartAt, projections};

fn line<'a>(lines: &'a [BookLine], sink: &str, tenant: &str) -> Option<&'a BookLine> {
    lines.iter().find(|line| line.sink == sink && &*line.tenant == tenant)
}

pub(super) fn append(world: &World, from: u64) {
    world.log.append(|staged| {
        (from..from + 100).for_each(|n| stage(staged, if n % 5 == 0 { "acme" } else { "default" }, n, 10));
        stage_letter(staged, "no JSON");
        stage_retained(staged, b"on");
    });
}

#[tokio::test(start_paused = true)]
async fn two_exports_of_a_kind_have_cursors_filters_and_books_of_their_own() {
    let mut world = World::new();
    let (acme, some, even) = (world.add_series_as("acme"), world.add_series_as("some"), world.add_series_as("even"));
    world.exports[0].filter.tenants = vec!["acme".to_owned()];
    world.exports[1].filter.devices = vec![Glob::new("d*7"), Glob::new("d3")];
    world.exports[2].filter.names = vec![Glob::new("ev*"), Glob::new("n")];
    acme.set_down(Some(StoreError::busy("away")));
    let running = world.start().await;
    append(&world, 0);
    append(&world, 100);
    let end = world.log.end();
    world.done_to("some", end).await;
    world.done_to("even", end).await;
    world.done_to(HISTORY, end).await;
    world.done_to(DEAD_LETTERS, end).await;
    assert_eq!(world.log.cursor("acme").done_to, 0, "one that is away stops no other of its kind");
    acme.set_down(None);
    world.done_to("acme", end).await;
    assert_eq!(acme.numbers(), (0..200).filter(|n| n % 5 == 0).collect::<Vec<_>>());
    assert_eq!(some.numbers(), (0..200).filter(|n| n % 10 == 3 || n % 10 == 7).collect::<Vec<_>>());
    assert_eq!(even.numbers(), (0..200).collect::<Vec<_>>());
    let lines = running.handle.books().books(true).await.unwrap();
    for line in &lines {
        assert!(line.balances() && line.agrees(), "{line:?}");
    }
    assert!(line(&lines, "acme", "default").is_none(), "not its tenant");
    let of_acme = line(&lines, "acme", "acme").unwrap();
    assert_eq!((of_acme.accepted, of_acme.stored, of_acme.held), (40, 40, Some(40)));
    let of_some = line(&lines, "some", "default").unwrap();
    assert_eq!((of_some.accepted, of_some.stored, of_some.dead_lettered, of_some.held), (42, 40, 2, Some(40)));
    assert_eq!(line(&lines, "some", "acme").unwrap().accepted, 0);
    assert_eq!(world.log.cursor("some").tallies["default"].filtered, 120);
    let exports = running.handle.exports();
    assert_eq!(
        exports.iter().map(|status| (&*status.sink, &*status.kind)).collect::<Vec<_>>(),
        [("acme", "fake"), ("some", "fake"), ("even", "fake")]
    );
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_export_that_begins_now_misses_what_is_in_the_log_and_its_books_balance() {
    let mut world = World::new();
    world.history.set_down(Some(StoreError::busy("away")));
    let running = world.start().await;
    append(&world, 0);
    world.done_to(DEAD_LETTERS, 102).await;
    running.kill().await;
    let series = world.add_series_as("late");
    world.exports[0].start = StartAt::Now;
    let running = world.start().await;
    append(&world, 100);
    world.done_to("late", 204).await;
    world.history.set_down(None);
    world.done_to(HISTORY, 204).await;
    world.done_to(DEAD_LETTERS, 204).await;
    assert_eq!(series.numbers(), (100..200).collect::<Vec<_>>());
    let lines = running.handle.books().books(true).await.unwrap();
    for line in &lines {
        assert!(line.balances() && line.agrees(), "{line:?}");
    }
    assert_eq!(line(&lines, "late", "default").unwrap().stored, 80);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_aborted_is_written_again_as_a_whole() {
    let mut world = World::new();
    let bus = world.add_bus();
    bus.abort_next("log");
    let running = world.start().await;
    append(&world, 0);
    world.done_to(BUS, 102).await;
    assert_eq!(bus.numbers(), (0..100).collect::<Vec<_>>());
    bus.abort_next("log");
    append(&world, 100);
    world.done_to(BUS, 204).await;
    assert_eq!(bus.numbers(), (0..200).collect::<Vec<_>>());
    running.stop().await.unwrap();
}

#[test]
fn two_projections_of_one_name_are_refused() {
    let world = World::new();
    let twice = [world.stores(), world.stores()].iter().map(|s| projections::retained(s.retained.clone())).collect();
    let error = Projections::new(twice).err().unwrap().to_string();
    assert_eq!(error, "two projections have the name \"retained\": give every export a name of its own");
}
