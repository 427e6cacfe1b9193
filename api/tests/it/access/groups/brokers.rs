//! Sessions of clients, for callers of groups; the audit of what is done about them.

use api::names;
use identity::Role;
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::{
    ClearRetainedMessagesRequest, DisconnectSessionRequest, ListAuditEventsRequest, ListSessionsRequest,
    ListSubscriptionsRequest, Subscription,
};
use tonic::Code;

use super::super::gate::with;
use super::Plant;
use crate::brokers::{ids, name, session};
use crate::world::{PARENT, assert_status};

#[tokio::test]
async fn callers_of_groups_have_the_sessions_of_their_devices_and_actions_are_audited() {
    let plant = Plant::start(&["mine", "theirs"]).await;
    plant.group("g", &[], &["mine"]).await;
    let (bound, whole) = (plant.key(Role::Operator, &["g"]).await, plant.key(Role::TenantAdmin, &[]).await);
    let brokers = &plant.world().brokers;
    *brokers.sessions.lock() =
        vec![session("mine:1", "mine", true), session("restored", "", false), session("theirs", "theirs", true)];
    let of = |client: &str, device: &str| Subscription {
        client_id: client.into(),
        device: names::device("default", device),
        filter: "#".into(),
        ..Subscription::default()
    };
    *brokers.subscriptions.lock() = vec![of("mine:1", "mine"), of("theirs", "theirs")];
    let mut client = plant.world().broker_service();
    for (token, expected) in [(&bound, vec!["mine:1"]), (&whole, vec!["mine:1", "restored", "theirs"])] {
        let request = ListSessionsRequest { parent: PARENT.into(), ..Default::default() };
        let listed = client.list_sessions(with(token, request)).await.unwrap().into_inner();
        assert_eq!(ids(&listed.sessions), expected);
        let request = ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
        let listed = client.list_subscriptions(with(token, request)).await.unwrap().into_inner();
        assert_eq!(listed.subscriptions.len(), expected.len().min(2));
    }
    for other in ["theirs", "restored", "missing"] {
        let request = DisconnectSessionRequest { name: name(other), end_session: true };
        let status = client.disconnect_session(with(&bound, request)).await.unwrap_err();
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    let request = DisconnectSessionRequest { name: name("mine:1"), end_session: true };
    client.disconnect_session(with(&bound, request)).await.unwrap();
    let clear = |token| {
        let topic_filter = "t/#".to_owned();
        with(token, ClearRetainedMessagesRequest { parent: PARENT.into(), topic_filter, page_token: String::new() })
    };
    let status = client.clear_retained_messages(clear(&bound)).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    client.clear_retained_messages(clear(&whole)).await.unwrap();
    let mut audit = AuditServiceClient::new(plant.world().channel.clone());
    let request = ListAuditEventsRequest { parent: PARENT.into(), page_size: 2, ..Default::default() };
    let events = audit.list_audit_events(with(&whole, request)).await.unwrap().into_inner().audit_events;
    let seen: Vec<_> = events.iter().map(|event| (&*event.method, &*event.resource)).collect();
    assert_eq!(
        seen,
        [("ClearRetainedMessages", "retainedMessages/t%2F%23"), ("DisconnectSession", "sessions/mine%3A1")]
    );
    assert!(events[1].detail.starts_with("end_session true") && events[1].principal.starts_with("apiKeys/"));
}
