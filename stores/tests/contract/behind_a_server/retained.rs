//! Retained messages of several writers.

use weir_stores::contract::{Retained, RetainedMessage};
use weir_stores::testing::load_retained;

use super::shared_world;
use crate::world::World;

#[tokio::test]
async fn a_retained_message_of_a_writer_that_was_left_behind_changes_nothing() {
    let mut world = shared_world!();
    let store = world.open().await;
    let message = |received, payload: &str| RetainedMessage {
        tenant: "default".into(),
        topic: "a/b".into(),
        qos: 1,
        payload: payload.into(),
        properties: Vec::new(),
        received,
    };
    store.apply(vec![message(5, "new")]).await.unwrap();
    store.apply(vec![message(3, "old")]).await.unwrap();
    assert_eq!(load_retained(store).await.unwrap(), [message(5, "new")]);
    store.apply(vec![message(7, "")]).await.unwrap();
    store.apply(vec![message(5, "new")]).await.unwrap();
    assert_eq!(load_retained(store).await.unwrap(), [], "what was cleared stays so");
    store.apply(vec![message(8, "again")]).await.unwrap();
    assert_eq!(load_retained(store).await.unwrap(), [message(8, "again")]);
}
