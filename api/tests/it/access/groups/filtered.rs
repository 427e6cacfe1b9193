//! A caller of groups gets the answers of a caller of the tenant, without all other devices.

use std::collections::BTreeSet;

use identity::Role;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost::Message;
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::{CreateDeviceCredentialRequest, ReplayDeadLettersRequest, SeriesSelector, StreamReadingsRequest};
use stores::contract::DeadLetters as _;
use tonic::{Code, Status};

use super::super::gate::with;
use super::Plant;
use crate::dead_letters::letter;
use crate::paged::{self, CALLS, SECOND, START};
use crate::world::{PARENT, assert_status, device_name, own_device, range};

/// Returns each item of a call as its device and its bytes, with the tokens of the pages.
async fn items(
    plant: &Plant,
    token: &str,
    name: &str,
    page_size: i32,
    selector: &SeriesSelector,
) -> Result<(Vec<(String, Vec<u8>)>, Vec<String>), Status> {
    if name == "stream" {
        return Ok((streamed(plant, token, selector).await?, Vec::new()));
    }
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let (next, next_token) =
            paged::page(plant.world(), Some(token), name, (page_size, page_token), selector).await?;
        all.extend(next);
        if next_token.is_empty() {
            return Ok((all, tokens));
        }
        tokens.push(next_token.clone());
        page_token = next_token;
    }
}

async fn streamed(plant: &Plant, token: &str, selector: &SeriesSelector) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let (selector, range) = (Some(selector.clone()), Some(range(START, START + 3600 * SECOND)));
    let request = StreamReadingsRequest { parent: PARENT.into(), selector, range, ..Default::default() };
    let mut stream = plant.telemetry().stream_readings(with(token, request)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.extend(message.chunks.into_iter().map(|chunk| (chunk.device.clone(), chunk.encode_to_vec())));
    }
    Ok(all)
}

fn everything() -> SeriesSelector {
    SeriesSelector::default()
}

#[tokio::test]
async fn results_of_a_bound_caller_are_those_of_the_tenant_filtered_by_membership() {
    let ids: Vec<String> = (0..6).flat_map(|n| ["pump-", "valve-", "x"].map(|kind| format!("{kind}{n}"))).collect();
    let plant = Plant::start(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut of_none = letter(7, "x");
    of_none.device = None;
    plant.world().letters.put(vec![of_none]).await.unwrap();
    let whole = plant.key(Role::Admin, &[]).await;
    let mut runner = TestRunner::deterministic();
    let members = proptest::collection::btree_set(proptest::sample::select(ids.clone()), 0..5);
    let patterns = proptest::collection::btree_set("(pump|valve|x)(-[0-3])?\\*|\\*[0-5]|x[0-9]|none\\*", 0..3);
    let strategy = (members, patterns, 1..5_i32, any::<bool>());
    for round in 0..20 {
        let (members, patterns, page_size, are_two) = strategy.new_tree(&mut runner).unwrap().current();
        let (members, patterns) = (as_texts(&members), as_texts(&patterns));
        let (first, second) = (format!("a{round}"), format!("b{round}"));
        let token = if are_two {
            plant.group(&first, &patterns, &[]).await;
            plant.group(&second, &[], &members).await;
            plant.key(Role::Admin, &[&first, &second]).await
        } else {
            plant.group(&first, &patterns, &members).await;
            plant.key(Role::Admin, &[&first]).await
        };
        let globs: Vec<_> = patterns.iter().map(|pattern| model::glob::Glob::new(pattern)).collect();
        let is_inside = |id: &str| members.contains(&id) || globs.iter().any(|glob| glob.matches(id));
        let inside: BTreeSet<String> = ids.iter().filter(|id| is_inside(id)).map(|id| device_name(id)).collect();
        for name in CALLS.into_iter().chain(["stream"]) {
            let (all, _) = items(&plant, &whole, name, page_size, &everything()).await.unwrap();
            let (own, tokens) = items(&plant, &token, name, page_size, &everything()).await.unwrap();
            let expected: Vec<_> = all.into_iter().filter(|(device, _)| inside.contains(device)).collect();
            assert_eq!(own, expected, "{name} of {members:?} and {patterns:?} in pages of {page_size}");
            assert!(tokens.len() <= own.len(), "{name}: no page is there for devices that are not seen");
        }
    }
}

fn as_texts(texts: &BTreeSet<String>) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn the_token_of_another_caller_leads_to_no_device_out_of_group() {
    let plant = Plant::start(&["a1", "a2", "b1", "b2", "c1"]).await;
    plant.group("g", &["b*"], &[]).await;
    plant.group("h", &[], &["b1", "b2"]).await;
    let whole = plant.key(Role::Admin, &[]).await;
    let inside = BTreeSet::from(["b1", "b2"].map(device_name));
    for group in ["g", "h"] {
        let token = plant.key(Role::Admin, &[group]).await;
        for name in CALLS {
            let (_, tokens) = items(&plant, &whole, name, 1, &everything()).await.unwrap();
            assert!(tokens.len() >= 4, "{name}");
            for given in tokens {
                let asked = paged::page(plant.world(), Some(&token), name, (1, given), &everything()).await;
                let (found, _) = asked.unwrap();
                assert!(found.iter().all(|(device, _)| inside.contains(device)), "{name}: {found:?}");
            }
        }
        let request = |resume_token| StreamReadingsRequest {
            parent: PARENT.into(),
            selector: Some(everything()),
            resume_token,
            limit: 1,
            ..Default::default()
        };
        let mut stream =
            plant.telemetry().stream_readings(with(&whole, request(Vec::new()))).await.unwrap().into_inner();
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.chunks[0].device, device_name("a1"));
        let resumed = request(message.resume_token);
        let mut stream = plant.telemetry().stream_readings(with(&token, resumed)).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().chunks[0].device, device_name("b1"));
    }
}

#[tokio::test]
async fn a_named_device_out_of_group_refuses_the_call_and_a_filter_finds_none() {
    let plant = Plant::start(&["mine", "theirs"]).await;
    plant.group("g", &[], &["mine"]).await;
    let token = plant.key(Role::Admin, &["g"]).await;
    for name in ["latest", "aggregates", "gaps", "stream"] {
        let named = |id: &str| {
            let devices = vec![own_device("mine"), own_device(id)];
            SeriesSelector { devices, ..Default::default() }
        };
        let (found, _) = items(&plant, &token, name, 10, &named("mine")).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|(device, _)| *device == device_name("mine")), "{name}");
        for id in ["theirs", "missing"] {
            let status = items(&plant, &token, name, 10, &named(id)).await.unwrap_err();
            assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
            assert!(status.message().contains(&own_device(id)), "{name}: {status:?}");
        }
    }
    for name in ["devices", "latest", "aggregates", "gaps", "stream"] {
        let filter = SeriesSelector { device_filter: "device_id = theirs".into(), ..Default::default() };
        assert_eq!(items(&plant, &token, name, 10, &filter).await.unwrap(), (Vec::new(), Vec::new()), "{name}");
    }
}

#[tokio::test]
async fn dead_letters_of_other_devices_are_neither_replayed_nor_counted() {
    let plant = Plant::start(&["mine", "theirs"]).await;
    plant.group("g", &[], &["mine"]).await;
    let token = plant.key(Role::Operator, &["g"]).await;
    let name = |id: &str| format!("tenants/-/deadLetters/{id}:1:ingest");
    let replay = async |names: Vec<String>, filter: &str| {
        let (parent, filter) = (PARENT.into(), filter.into());
        let request = ReplayDeadLettersRequest { parent, names, filter, page_token: String::new() };
        plant.world().dead_letters().replay_dead_letters(with(&token, request)).await
    };
    for id in ["theirs", "missing"] {
        let status = replay(vec![name("mine"), name(id)], "").await.unwrap_err();
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    assert!(plant.world().replay.taken.lock().is_empty(), "a wrong name changes nothing");
    let answer = replay(Vec::new(), "*").await.unwrap().into_inner();
    assert_eq!((answer.replayed_count, answer.failures.len(), &*answer.next_page_token), (1, 0, ""));
    let answer = replay(vec![name("mine")], "").await.unwrap().into_inner();
    assert_eq!(answer.replayed_count, 1);
}

#[tokio::test]
async fn a_clash_of_client_ids_names_no_device_out_of_group() {
    let plant = Plant::start(&[]).await;
    plant.group("g", &[], &["pump"]).await;
    let by = identity::By::local();
    plant.0.admin.create_device_secret(super::TENANT, "pump:hidden", None, &by).await.unwrap();
    let mut access = AccessServiceClient::new(plant.world().channel.clone());
    let mut create = async |token: &str| {
        let request = CreateDeviceCredentialRequest { parent: own_device("pump"), ..Default::default() };
        access.create_device_credential(with(token, request)).await.unwrap_err()
    };
    let (bound, whole) = (plant.key(Role::Admin, &["g"]).await, plant.key(Role::Admin, &[]).await);
    assert!(create(&whole).await.message().contains("hidden"));
    let status = create(&bound).await;
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    let all = format!("{} {:?}", status.message(), tonic_types::StatusExt::get_error_details(&status));
    assert!(!all.contains("hidden") && all.contains("client ids"), "{all}");
}
