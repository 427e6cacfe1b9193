//! Dead letters.

use proto::v1::{GetDeadLetterRequest, ListDeadLettersRequest, ReplayDeadLettersRequest};
use stores::contract::{DeadLetters, Deadletter};
use tonic::Code;

use crate::world::{PARENT, World, assert_status, device_name};

pub(crate) fn letter(offset: u64, payload: &str) -> Deadletter {
    Deadletter {
        log: "log1".into(),
        offset,
        tenant: "default".into(),
        device: Some(format!("d{}", offset % 2).into()),
        client: "client".into(),
        topic: "devices/d/telemetry".into(),
        payload: payload.into(),
        received: i64::try_from(offset).unwrap(),
        stage: "ingest".into(),
        reason: "not JSON: line 1".into(),
        replayed: None,
    }
}

async fn world(letters: impl IntoIterator<Item = Deadletter>) -> World {
    let world = World::start().await;
    world.letters.put(letters.into_iter().collect()).await.unwrap();
    world
}

fn replay(names: Vec<String>, filter: &str) -> ReplayDeadLettersRequest {
    ReplayDeadLettersRequest { parent: PARENT.into(), names, filter: filter.into(), ..Default::default() }
}

#[tokio::test]
async fn letters_are_listed_in_pages_and_found_by_name() {
    let world = world((0..450).map(|i| letter(i, "{"))).await;
    let mut request = ListDeadLettersRequest {
        parent: PARENT.into(),
        filter: "device_id = d1 AND json".into(),
        page_size: 40,
        ..Default::default()
    };
    request.filter = "device_id = d1 AND JSON".into();
    let mut all = Vec::new();
    loop {
        let answer = world.dead_letters().list_dead_letters(request.clone()).await.unwrap().into_inner();
        assert!(answer.dead_letters.len() <= 40);
        all.extend(answer.dead_letters);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(all.len(), 225);
    assert!(all.iter().all(|l| l.device == device_name("d1")));
    assert_eq!(all[3].name, "tenants/default/deadLetters/log1:7:ingest");
    let got = world.dead_letters().get_dead_letter(GetDeadLetterRequest { name: all[3].name.clone() }).await;
    assert_eq!(got.unwrap().into_inner(), all[3]);
    let get = async |name: &str| {
        world.dead_letters().get_dead_letter(GetDeadLetterRequest { name: name.into() }).await.expect_err("an error")
    };
    let missing = get("tenants/-/deadLetters/log1:999:ingest").await;
    assert_status(&missing, Code::NotFound, "DEAD_LETTER_NOT_FOUND");
    assert_status(&get("tenants/-/deadLetters/log1").await, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn a_page_of_large_letters_ends_early() {
    let payload = "x".repeat(400 << 10);
    let world = world((0..6).map(|i| letter(i, &payload))).await;
    let request = ListDeadLettersRequest { parent: PARENT.into(), ..Default::default() };
    let first = world.dead_letters().list_dead_letters(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.dead_letters.len(), 2);
    let request = ListDeadLettersRequest { page_token: first.next_page_token, ..request };
    let second = world.dead_letters().list_dead_letters(request).await.unwrap().into_inner();
    assert!(second.dead_letters[0].name.contains(":2:"), "{}", second.dead_letters[0].name);
}

#[tokio::test]
async fn letters_are_replayed_by_name_and_refused_ones_carry_the_reason() {
    let world = world([letter(1, "{}"), letter(2, "hopeless")]).await;
    let names: Vec<String> = (1..=2).map(|i| format!("tenants/-/deadLetters/log1:{i}:ingest")).collect();
    let answer = world.dead_letters().replay_dead_letters(replay(names.clone(), "")).await.unwrap().into_inner();
    assert_eq!(answer.replayed_count, 1);
    assert_eq!(answer.failures[0].reason, "no object");
    let got = world.dead_letters().get_dead_letter(GetDeadLetterRequest { name: names[0].clone() }).await.unwrap();
    assert!(got.into_inner().replay_time.is_some());
    let missing = vec![names[0].clone(), "tenants/-/deadLetters/log1:9:ingest".into()];
    let status = world.dead_letters().replay_dead_letters(replay(missing, "")).await.expect_err("a wrong name");
    assert_status(&status, Code::NotFound, "DEAD_LETTER_NOT_FOUND");
    assert_eq!(*world.replay.taken.lock(), [1], "a wrong name among them replays none");
}

#[tokio::test]
async fn a_filter_replays_each_letter_once_over_all_pages() {
    let world = world((0..2500).map(|i| letter(i, "{}"))).await;
    let mut request = replay(vec![], "*");
    let mut replayed = 0;
    loop {
        let answer = world.dead_letters().replay_dead_letters(request.clone()).await.unwrap().into_inner();
        replayed += answer.replayed_count;
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(replayed, 2500);
    let again = world.dead_letters().replay_dead_letters(replay(vec![], "device_id = d1")).await.unwrap();
    assert_eq!(again.into_inner().replayed_count, 0, "all were replayed before");
    assert_eq!(*world.replay.taken.lock(), (0..2500).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_replay_into_a_full_log_is_unavailable() {
    let world = world([letter(1, "full")]).await;
    let status = world.dead_letters().replay_dead_letters(replay(vec![], "*")).await.expect_err("full");
    assert_status(&status, Code::Unavailable, "LOG_UNAVAILABLE");
    let status = world.dead_letters().replay_dead_letters(replay(vec![], "")).await.expect_err("neither");
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn letters_are_read_within_the_memory_for_all_calls() {
    let budget = model::Budget::new("queries", 12 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    world.letters.put((0..3).map(|i| letter(i, "{")).collect()).await.unwrap();
    let list = async || {
        let request = ListDeadLettersRequest { parent: PARENT.into(), ..Default::default() };
        world.dead_letters().list_dead_letters(request).await
    };
    assert_eq!(list().await.unwrap().into_inner().dead_letters.len(), 3);
    assert_eq!(budget.held(), 0);
    let others = budget.acquire(10 << 20).unwrap();
    assert_status(&list().await.expect_err("full"), Code::ResourceExhausted, "MEMORY_EXHAUSTED");
    drop(others);
    assert_eq!(list().await.unwrap().into_inner().dead_letters.len(), 3);
}
