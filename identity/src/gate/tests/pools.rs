//! The pools of tenants.

use door::RefusalKind;

use super::*;
use crate::{Error, PlaceError};

async fn device_of(admin: &Admin, tenant: &str) -> Secret {
    admin.create_device_secret(tenant, "d1", None, &By::local()).await.unwrap().secret.unwrap()
}

#[tokio::test]
async fn a_device_is_admitted_only_where_the_pool_of_its_tenant_is() {
    let world = World::new().await;
    let gate = world.gate.clone().with_pools(vec!["gold".into()]);
    for (tenant, pool) in [("here", Some("gold")), ("there", Some("silver")), ("shared", None)] {
        world.remote.create_tenant_in(tenant, "", pool, &By::local()).await.unwrap();
        let secret = device_of(&world.remote, tenant).await;
        for _ in 0..2 {
            let admitted = connect(&gate, "d1", secret.expose()).await;
            match tenant {
                "there" => assert_eq!(admitted.unwrap_err().kind, RefusalKind::Unavailable),
                _ => assert_eq!(&*admitted.unwrap().tenant, tenant),
            }
        }
        match (gate.known_pool(tenant), gate.pool(tenant).await) {
            (Ok(known), Ok(found)) => assert_eq!((known, found.as_deref()), (Some(found.clone()), pool)),
            (Err(error), Err(PlaceError::NotHere(same))) => {
                assert_eq!((&error, tenant), (&same, "there"));
                assert!(error.to_string().contains("there") && error.to_string().contains("silver"), "{error}");
            }
            other => panic!("{tenant}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_tenant_that_is_registered_later_is_not_taken_for_one_of_the_shared_pool() {
    let world = World::new().await;
    let gate = world.gate.clone().with_pools(vec!["gold".into()]);
    assert_eq!((gate.known_pool("later"), gate.pool("later").await), (Ok(None), Ok(None)));
    world.remote.create_tenant_in("later", "", Some("gold"), &By::local()).await.unwrap();
    assert_eq!(gate.pool("later").await.unwrap().as_deref(), Some("gold"));
}

#[tokio::test]
async fn a_pool_that_the_process_does_not_have_is_refused_at_the_creation() {
    let world = World::new().await;
    let refused = world.admin.create_tenant_in("u", "", Some("gold"), &By::local()).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { field: "pool", reason } if reason.contains("gold")), "{refused}");
    let _gate = world.gate.clone().with_pools(vec!["gold".into()]);
    world.admin.create_tenant_in("u", "", Some("gold"), &By::local()).await.unwrap();
    let refused = world.admin.create_tenant_in("v", "", Some("silver"), &By::local()).await.unwrap_err();
    assert!(refused.to_string().contains("gold"), "{refused}");
}

#[tokio::test]
async fn a_tenant_whose_row_cannot_be_read_is_refused_and_never_taken_for_one_of_the_shared_pool() {
    let world = World::new().await;
    let gate = world.gate.clone().with_pools(vec!["gold".into()]);
    world.remote.create_tenant_in("u", "", Some("gold"), &By::local()).await.unwrap();
    let secret = device_of(&world.remote, "u").await;
    let hide: [fn(&Paused, &[&str]); 2] = [Paused::hide, Paused::damage];
    for hide in hide {
        hide(&world.registry, &["u"]);
        assert_eq!(refused(&gate, "d1", &secret).await, RefusalKind::Unavailable);
        assert_eq!(gate.known_pool("u"), Ok(None), "nothing is remembered of it");
        hide(&world.registry, &[]);
    }
    admitted(&gate, "d1", &secret).await;
    assert_eq!(gate.known_pool("u"), Ok(Some(Some("gold".into()))));
}
