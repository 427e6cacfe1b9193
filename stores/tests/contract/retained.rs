//! Promises of a store of retained messages.

use weir_stores::contract::{Retained, RetainedMessage};
use weir_stores::testing::{load_in_parts, load_retained};

use crate::world::World;

fn message(topic: &str, payload: &[u8]) -> RetainedMessage {
    RetainedMessage {
        tenant: "default".into(),
        topic: topic.into(),
        qos: 1,
        payload: payload.into(),
        properties: vec![2, 0],
        received: 3,
    }
}

async fn load(store: &impl Retained) -> Vec<RetainedMessage> {
    let mut all = load_retained(store).await.unwrap();
    all.sort_by(|a, b| a.topic.cmp(&b.topic));
    all
}

pub(crate) async fn the_last_change_of_a_topic_stays(mut world: impl World) {
    let store = world.open().await;
    let at = |received, message: RetainedMessage| RetainedMessage { received, ..message };
    let changes = [message("a", b"1"), message("b", b"1"), message("a", b""), message("a", b"2"), message("b", b"")];
    let changes: Vec<_> = (1..).zip(changes).map(|(received, message)| at(received, message)).collect();
    for _ in 0..2 {
        store.apply(changes.clone()).await.unwrap();
        assert_eq!(load(store).await, [at(4, message("a", b"2"))]);
    }
    store.apply(vec![at(6, message("a", b"")), at(6, message("never", b""))]).await.unwrap();
    assert_eq!(load(store).await, []);
    store.apply(Vec::new()).await.unwrap();
}

pub(crate) async fn retained_messages_come_back_as_they_were(mut world: impl World) {
    let store = world.open().await;
    let all: Vec<RetainedMessage> =
        ["$a.b", "+not a filter here", "a/b", "ü"].iter().map(|topic| message(topic, &[0, 255])).collect();
    store.apply(all.clone()).await.unwrap();
    assert_eq!(load(store).await, all);
    assert_eq!(load(world.open_again().await).await, all);
}

pub(crate) async fn retained_messages_are_read_in_parts_and_by_their_topics(mut world: impl World) {
    let store = world.open().await;
    let topics: Vec<String> = (0..700).map(|n| format!("$weir/messages/n/{n:016x}")).collect();
    let of =
        |tenant: &str, topic: &String| RetainedMessage { tenant: tenant.into(), ..message(topic, topic.as_bytes()) };
    let all: Vec<_> = ["a", "b"].iter().flat_map(|tenant| topics.iter().map(|topic| of(tenant, topic))).collect();
    store.apply(all.clone()).await.unwrap();
    let cleared = RetainedMessage { payload: Vec::new(), received: 4, ..of("a", &topics[3]) };
    store.apply(vec![cleared]).await.unwrap();
    let kept: Vec<_> = all.iter().filter(|message| **message != of("a", &topics[3])).cloned().collect();

    for most_bytes in [1, 20_000, 1 << 30] {
        let (found, parts) = load_in_parts(store, most_bytes).await.unwrap();
        assert_eq!(found, kept, "in the order of tenants and topics");
        assert!(if most_bytes == 1 { parts >= kept.len() } else { parts < 50 }, "{parts} of {most_bytes} bytes");
    }

    let asked =
        [&topics[2], &topics[3], &topics[4], &"$weir/messages/n/none".to_owned(), &topics[5]].map(String::clone);
    assert_eq!(store.holds("a", &asked).await.unwrap(), [true, false, true, false, true]);
    assert_eq!(store.holds("b", &asked).await.unwrap(), [true, true, true, false, true]);
    assert_eq!(store.holds("c", &asked).await.unwrap(), [false; 5]);
    let read = store.read("a", &asked, 1 << 20).await.unwrap();
    let wanted = [Some(2), None, Some(4), None, Some(5)].map(|n: Option<usize>| n.map(|n| of("a", &topics[n])));
    assert_eq!(read, wanted);
    assert_eq!(store.read("a", &asked, 1).await.unwrap(), wanted[..1], "no more than asked for, and one at least");
    assert!(store.read("a", &topics, 10_000).await.unwrap().len() < 300);
    assert_eq!(store.read("a", &[], 10).await.unwrap(), []);
}
