//! Page tokens that were changed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::v1::{ListReadingsRequest, SeriesSelector};
use stores::contract::DeadLetters as _;
use tonic::{Code, Status};

use crate::dead_letters::letter;
use crate::fakes::{Row, block, row};
use crate::paged::{self, CALLS, SECOND, START};
use crate::world::{World, assert_status, key, own_device};

/// Makes a paged call for its next token.
async fn call(world: &World, call: &str, filter: &str, page_token: String) -> Result<String, Status> {
    if call == "readings" {
        let request = ListReadingsRequest { parent: own_device("a1"), page_size: 1, page_token, ..Default::default() };
        return Ok(world.telemetry().list_readings(request).await?.into_inner().next_page_token);
    }
    let selector = SeriesSelector { device_filter: filter.to_owned(), ..Default::default() };
    paged::page(world, None, call, (1, page_token), &selector).await.map(|(_, next)| next)
}

async fn world() -> World {
    let world = World::start().await;
    for id in ["a1", "a2", "b1", "b2"] {
        let rows: Vec<Row> = (0..3).map(|i| row(START + i * 60 * SECOND, "t", 1.0)).collect();
        world.history.put_block(block(&key(id), 0, &rows));
        world.device(id, START, 3, &["t"]);
    }
    world.letters.put((0..4).map(|i| letter(i, "x")).collect()).await.unwrap();
    world
}

#[tokio::test]
async fn a_page_token_with_any_byte_changed_is_refused_by_every_call() {
    let world = world().await;
    for name in CALLS.into_iter().chain(["readings"]) {
        let token = call(&world, name, "", String::new()).await.unwrap();
        assert!(!token.is_empty(), "{name} has a second page");
        call(&world, name, "", token.clone()).await.unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let status = call(&world, name, "", URL_SAFE_NO_PAD.encode(changed)).await.expect_err("a changed token");
            assert_status(&status, Code::InvalidArgument, "TOKEN_INVALID");
        }
    }
}

#[tokio::test]
async fn no_token_shows_the_device_at_which_a_page_ended() {
    let world = world().await;
    for id in ["hall-1", "hall-2"] {
        world.history.put_block(block(&key(id), 0, &[row(START, "t", 1.0), row(START + 60 * SECOND, "t", 1.0)]));
        world.device(id, START, 2, &["t"]);
    }
    for name in ["devices", "latest", "aggregates", "gaps"] {
        let token = call(&world, name, "device_id = \"hall*\"", String::new()).await.unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert!(!bytes.windows(4).any(|bytes| bytes == b"hall"), "{name}");
    }
}
