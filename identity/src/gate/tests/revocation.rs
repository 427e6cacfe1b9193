//! The end of sessions.

use super::*;

#[tokio::test]
async fn the_deletion_of_a_tenant_in_another_process_ends_its_sessions_and_is_known_here() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    world.remote.delete_tenant("t", "", Some(START), None, &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled());
    assert!(connect(&world.gate, "d1", secret.expose()).await.is_err());
    assert!(world.gate.purged().borrow().is_empty(), "its data is there still");
    world.remote.undelete_tenant("t", &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(connect(&world.gate, "d1", secret.expose()).await.is_ok());
    world.remote.delete_tenant("t", "", Some(START), None, &By::local()).await.unwrap();
    let other = Gate::bounded(world.registry.clone(), world.peppers.clone(), topics(), world.clock.clone(), BOUNDS);
    let purger = crate::Purger::new(&other, Vec::new(), "p".into(), std::time::Duration::from_secs(60));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let stop = stop.clone();
        async move { purger.run(stop).await }
    });
    let mut known = other.purged();
    known.wait_for(|known| known.contains("t")).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(world.gate.purged().borrow().contains("t"));
    stop.cancel();
    run.await.unwrap();
}

#[tokio::test]
async fn a_deleted_secret_ends_its_sessions_at_once_and_no_others() {
    let world = World::new().await;
    let (first, one) = world.device("d1", None).await;
    let (_, two) = world.device("d1", None).await;
    let ended = admitted(&world.gate, "d1", &one).await;
    let other = admitted(&world.gate, "d1", &two).await;
    world.admin.delete_device_credential("t", "d1", first, &By::local()).await.unwrap();
    assert!(ended.is_cancelled() && !other.is_cancelled());
    assert_eq!(refused(&world.gate, "d1", &one).await, RefusalKind::BadCredentials);
    admitted(&world.gate, "d1", &two).await;
}

#[tokio::test]
async fn a_suspended_tenant_ends_its_sessions_and_no_others() {
    let world = World::new().await;
    world.admin.create_tenant("u", "", &By::local()).await.unwrap();
    let other = world.admin.create_device_secret("u", "d1", None, &By::local()).await.unwrap().secret.unwrap();
    let (_, secret) = world.device("d1", None).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let neighbour = admitted(&world.gate, "d1", &other).await;
    world.admin.suspend_tenant("t", &By::local()).await.unwrap();
    assert!(ended.is_cancelled() && !neighbour.is_cancelled());
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::NotAuthorized);
    world.admin.resume_tenant("t", &By::local()).await.unwrap();
    assert!(!admitted(&world.gate, "d1", &secret).await.is_cancelled());
}

#[tokio::test]
async fn an_expired_credential_ends_its_sessions() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", Some(START + 10 * SECOND)).await;
    let (_, later) = world.device("d1", Some(START + 20 * SECOND)).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let other = admitted(&world.gate, "d1", &later).await;
    let mut position = Position::default();
    world.pass(9);
    world.gate.step(&mut position).await;
    assert!(!ended.is_cancelled());
    world.pass(1);
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::BadCredentials);
    world.registry.set_away(true);
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled() && !other.is_cancelled());
    world.pass(10);
    world.gate.step(&mut position).await;
    assert!(other.is_cancelled());
}

#[tokio::test]
async fn a_device_that_connects_before_its_creation_is_read_stays_connected() {
    let world = World::new().await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let (_, secret) = world.device("d1", None).await;
    let session = admitted(&world.gate, "d1", &secret).await;
    world.gate.step(&mut position).await;
    assert!(!session.is_cancelled());
}

#[tokio::test]
async fn changes_of_another_process_end_sessions() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    let (_, second) = world.device("d2", None).await;
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let other = admitted(&world.gate, "d2", &second).await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    assert!(!ended.is_cancelled());
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled() && !other.is_cancelled());
    world.remote.suspend_tenant("t", &By::local()).await.unwrap();
    world.gate.step(&mut position).await;
    assert!(other.is_cancelled());
}

#[tokio::test]
async fn credentials_that_were_verified_before_the_log_is_followed_are_looked_up_again() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    let (_, second) = world.device("d2", None).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    let other = admitted(&world.gate, "d2", &second).await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.gate.step(&mut Position::default()).await;
    assert!(ended.is_cancelled() && !other.is_cancelled());
}

#[tokio::test]
async fn a_gate_without_the_control_log_asks_the_registry_each_time() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    world.gate.step(&mut Position::default()).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.pass(29);
    admitted(&world.gate, "d1", &secret).await;
    world.pass(1);
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::BadCredentials);
    assert!(ended.is_cancelled());
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stand_in_for_the_control_log() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    world.gate.step(&mut Position::default()).await;
    let ended = admitted(&world.gate, "d1", &secret).await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.pass(-3600);
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::BadCredentials);
    assert!(ended.is_cancelled());
}

#[tokio::test]
async fn a_disk_that_hangs_in_a_write_delays_no_end_of_a_session() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    let (_, expiring) = world.device("d2", Some(START + 10 * SECOND)).await;
    let revoked = admitted(&world.gate, "d1", &secret).await;
    let expired = admitted(&world.gate, "d2", &expiring).await;
    world.registry.hang_writes();
    let gate = world.gate.clone();
    let follower = tokio::spawn(async move { gate.follow(CancellationToken::new()).await });
    world.registry.writing().await;
    world.remote.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    world.pass(10);
    let both = async { tokio::join!(revoked.cancelled(), expired.cancelled()) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the sessions end");
    follower.abort();
}

#[tokio::test]
async fn a_credential_that_is_revoked_during_its_lookup_is_refused() {
    let world = World::new().await;
    for from_here in [true, false] {
        let (id, secret) = world.device("d1", None).await;
        let mut position = Position::default();
        world.gate.step(&mut position).await;
        world.registry.pause();
        let (gate, password) = (world.gate.clone(), secret.clone());
        let admission = tokio::spawn(async move { connect(&gate, "d1", password.expose()).await });
        world.registry.arrived().await;
        let admin = if from_here { &world.admin } else { &world.remote };
        admin.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
        if !from_here {
            world.gate.step(&mut position).await;
        }
        world.registry.release();
        let refusal = admission.await.unwrap().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BadCredentials, "revoked here: {from_here}");
    }
}

#[tokio::test]
async fn a_tenant_that_is_suspended_during_a_lookup_is_refused() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    world.registry.pause();
    let (gate, password) = (world.gate.clone(), secret.clone());
    let admission = tokio::spawn(async move { connect(&gate, "d1", password.expose()).await });
    world.registry.arrived().await;
    world.admin.suspend_tenant("t", &By::local()).await.unwrap();
    world.registry.release();
    assert_eq!(admission.await.unwrap().unwrap_err().kind, RefusalKind::NotAuthorized);
}

#[tokio::test]
async fn two_lookups_of_one_credential_share_its_end() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    world.registry.pause();
    let (gate, password) = (world.gate.clone(), secret.clone());
    let slow = tokio::spawn(async move { connect(&gate, "d1", password.expose()).await });
    world.registry.arrived().await;
    let quick = admitted(&world.gate, "d1", &secret).await;
    world.registry.release();
    let slow = slow.await.unwrap().unwrap().ended.unwrap();
    world.admin.delete_device_credential("t", "d1", id, &By::local()).await.unwrap();
    assert!(quick.is_cancelled() && slow.is_cancelled());
}

#[tokio::test]
async fn a_full_table_ends_the_sessions_that_began_the_longest_ago() {
    let world = World::bounded(Bounds { entries: 16, bytes: 1 << 20 }).await;
    let mut sessions = Vec::new();
    for n in 0..60 {
        let device = format!("d{n}");
        let (_, secret) = world.device(&device, None).await;
        world.pass(1);
        sessions.push(admitted(&world.gate, &device, &secret).await);
    }
    let live = sessions.iter().filter(|session| !session.is_cancelled()).count();
    assert_eq!(live, world.gate.0.live.ids().len(), "each session that goes on can be ended");
    assert!(live <= 16 && !sessions[59].is_cancelled());
}

#[tokio::test]
async fn the_table_is_bounded_in_bytes() {
    let world = World::bounded(Bounds { entries: 1000, bytes: 16 * 4000 }).await;
    let long = "x".repeat(200);
    let mut sessions = Vec::new();
    for n in 0..100 {
        let device = format!("{long}{n}");
        let (_, secret) = world.device(&device, None).await;
        sessions.push(admitted(&world.gate, &device, &secret).await);
    }
    let live = sessions.iter().filter(|session| !session.is_cancelled()).count();
    assert!((16..70).contains(&live), "{live} sessions of about 1.1 kB in shards of 4 kB");
}

#[tokio::test]
async fn following_ends_when_it_is_stopped_and_writes_what_it_holds() {
    let world = World::new().await;
    connect(&world.gate, "d1", "wrong").await.unwrap_err();
    let stop = CancellationToken::new();
    let (gate, stopped) = (world.gate.clone(), stop.clone());
    let follower = tokio::spawn(async move { gate.follow(stopped).await });
    stop.cancel();
    follower.await.unwrap();
    let events = world.admin.list_audit(INSTALLATION, None, 9).await.unwrap();
    assert_eq!((events.len(), events[0].count), (1, 1));
}

#[tokio::test]
async fn the_changes_of_one_tenant_repeat_few_lookups_of_others() {
    let world = World::new().await;
    let (id, secret) = world.device("d1", None).await;
    let shard = crate::gate::live::shard_of;
    let mut others = (0..).map(|n: u32| CredentialId::derived(&["other", &n.to_string()]));
    let same = others.find(|other| shard(other) == shard(&id)).unwrap();
    for (revoked, lookups) in [(others.find(|other| shard(other) != shard(&id)).unwrap(), 1), (same, 2)] {
        world.gate.revoke(&id);
        let before = world.registry.lookups();
        world.registry.pause();
        let (gate, secret) = (world.gate.clone(), secret.clone());
        let connects = tokio::spawn(async move { admitted(&gate, "d1", &secret).await });
        world.registry.arrived().await;
        world.gate.revoke(&revoked);
        world.registry.release();
        connects.await.unwrap();
        assert_eq!(world.registry.lookups() - before, lookups);
    }
}
