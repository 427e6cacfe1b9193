//! Promises of a store of retained messages.

use weir_stores::contract::{Retained, RetainedMessage};

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
    let mut all = store.load().await.unwrap();
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
