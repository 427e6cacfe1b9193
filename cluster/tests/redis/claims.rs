//! Claims, messages and arrivals between two nodes.

use broker::fleet::{Arrival, Change, SessionStore, Taking};

use crate::node::{append, client, options, quick, shown, until};
use crate::server::Server;

#[tokio::test]
async fn a_session_follows_its_client_to_another_node_with_its_messages() {
    let Some(server) = Server::start(&[]) else { return };
    let (a, b) = (server.node("a", quick()).await, server.node("b", quick()).await);
    let owned = a.lasting("c", 1 << 60, 60).await;
    b.apply(vec![append(&[&owned], "one"), append(&[&owned], "two")]).await;
    until(vec![(1, "one".into()), (2, "two".into())], || a.arrived(&owned)).await;
    a.apply(vec![
        Change::Subscribe(owned.clone(), "a/+".into(), options()),
        Change::Progress(owned.clone(), broker::fleet::Progress { done_to: 1, sent_to: 2, ..Default::default() }),
    ])
    .await;
    let claimed = b.claim("c", false, 5).await;
    assert!(claimed.taken_over && claimed.owned.session == 1 << 60);
    let session = claimed.session.unwrap();
    assert_eq!(session.messages.iter().map(shown).collect::<Vec<_>>(), [(2, "two".into())]);
    assert_eq!((session.last, session.expiry_secs, session.subscriptions.len()), (2, 60, 1));
    let taken = Arrival::Taken(owned.clone(), Taking::Continues);
    until(true, || a.arrivals().contains(&taken)).await;
    a.apply(vec![append(&[&claimed.owned], "three")]).await;
    until(vec![(3, "three".into())], || b.arrived(&claimed.owned)).await;
    b.apply(vec![Change::End(claimed.owned)]).await;
    let again = a.fleet.claim(&client("c"), false, 9, None).await.unwrap();
    assert_eq!((again.owned.session, again.session), (9, None));
    assert_eq!(server.keys("q:") + server.keys("m:") + server.keys("expiry"), 0);
}
