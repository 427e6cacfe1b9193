//! The rules of the audit.

use super::*;

pub(crate) async fn each_change_has_its_audit_event(registry: &dyn Registry) {
    let address: IpAddr = [10, 0, 0, 1].into();
    let by = Origin { address: Some(address), request_id: Some("r".into()), by: "apiKeys/x".into(), ..origin() };
    with_tenants(registry, &["a"]).await;
    let id = registry.create_credential(key("a"), &by).await.unwrap().row.id;
    registry.delete_credential("a", KEYS, id, &origin()).await.unwrap();
    registry.delete_credential("a", KEYS, id, &origin()).await.unwrap_err();
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    registry.set_tenant_state("a", TenantState::Suspended, &origin()).await.unwrap();
    let events = registry.audit("a", None, 9).await.unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event.sequence, event.resource.as_str())).collect();
    let name = format!("apiKeys/{id}");
    assert_eq!(seen, [(4, "tenants/a"), (3, &name), (2, &name), (1, "tenants/a")]);
    let created = &events[2];
    assert!(created.granted && created.count == 1 && created.at == NOW && created.method == "Test");
    assert_eq!((created.principal.as_str(), created.address.as_deref()), ("apiKeys/x", Some("10.0.0.1")));
    assert_eq!(created.request_id.as_deref(), Some("r"));
    assert!(created.detail.contains("telemetry.read") && created.detail.contains("10.0.0.0/8"));
    assert_eq!(registry.audit("a", Some(3), 1).await.unwrap(), events[2..3]);
    let report = registry.verify_audit("a", None).await.unwrap();
    assert_eq!((report.verified.sequence, report.fault), (4, None));
    assert_eq!(report.verified.hash, events[0].hash);
}

pub(crate) async fn denials_are_audited(registry: &dyn Registry) {
    let denial = |tenant: &str, count| Denial {
        tenant: tenant.into(),
        principal: "devices/d".into(),
        method: "Connect".into(),
        address: Some([10, 0, 0, 1].into()),
        reason: "wrong".into(),
        at: NOW,
        count,
    };
    registry.record_denials(&[denial(INSTALLATION, 1), denial("a", 40), denial("a", 2)]).await.unwrap();
    let events = registry.audit("a", None, 9).await.unwrap();
    let counts: Vec<_> = events.iter().map(|event| (event.sequence, event.count, event.granted)).collect();
    assert_eq!(counts, [(2, 2, false), (1, 40, false)]);
    assert_eq!(registry.audit(INSTALLATION, None, 9).await.unwrap().len(), 1);
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

pub(crate) async fn actions_are_audited(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let by = Origin { address: Some([10, 0, 0, 1].into()), by: "apiKeys/x".into(), method: "Act", ..origin() };
    for detail in ["first", "second"] {
        registry.record_action("a", "sessions/d", detail, &by).await.unwrap();
    }
    let events = registry.audit("a", None, 9).await.unwrap();
    let seen: Vec<_> = events.iter().map(|event| (event.sequence, &*event.detail, event.granted)).collect();
    assert_eq!(seen[..2], [(3, "second", true), (2, "first", true)]);
    let first = &events[1];
    assert_eq!((&*first.resource, &*first.principal, &*first.method), ("sessions/d", "apiKeys/x", "Act"));
    assert_eq!((first.at, first.address.as_deref(), first.count), (NOW, Some("10.0.0.1"), 1));
    assert_eq!(registry.changes(1, 9).await.unwrap().entries, [], "nothing of the registry changes");
    assert_eq!(registry.verify_audit("a", None).await.unwrap().fault, None);
}

pub(crate) async fn a_chain_contains_its_checkpoints(registry: &dyn Registry) {
    with_tenants(registry, &["a"]).await;
    let noted = registry.verify_audit("a", None).await.unwrap().verified;
    assert_eq!(noted.sequence, 1);
    create(registry, secret("a", "d")).await.unwrap();
    assert_eq!(registry.verify_audit("a", Some(noted)).await.unwrap().fault, None);
    let other = Checkpoint { hash: [1; 32], ..noted };
    assert_eq!(registry.verify_audit("a", Some(other)).await.unwrap().fault, Some(Fault::Checkpoint(1)));
    let beyond = Checkpoint { sequence: 3, ..noted };
    let report = registry.verify_audit("a", Some(beyond)).await.unwrap();
    assert_eq!(report.fault, Some(Fault::End { ends: 2, head: 3 }));
    let empty = registry.verify_audit("b", None).await.unwrap();
    assert_eq!((empty.verified, empty.fault), (Checkpoint::default(), None));
}

pub(crate) async fn a_part_of_a_chain_is_checked(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    for _ in 0..4 {
        create(registry, key("a")).await.unwrap();
    }
    let mut events: Vec<_> = registry.audit("a", None, 9).await.unwrap();
    events.reverse();
    let at = |n: usize| Checkpoint { sequence: events[n - 1].sequence, hash: events[n - 1].hash };
    let other = |n: usize| Checkpoint { hash: [9; 32], ..at(n) };
    let check = async |from: Checkpoint, to: Option<u64>, known: &[Checkpoint]| {
        let report = registry.check_audit("a", &AuditRange { from, to, known: known.to_vec() }).await.unwrap();
        (report.verified.sequence, report.fault)
    };
    let first = Checkpoint::default();
    for n in 1..=5 {
        assert_eq!(check(at(n), None, &[]).await, (5, None), "from {n}");
        assert_eq!(check(first, Some(n as u64), &[at(1), at(5)]).await, (n as u64, None), "to {n}");
        assert_eq!(check(at(1), None, &[at(n)]).await, (5, None));
        assert_eq!(check(other(n), None, &[]).await.1, Some(Fault::Checkpoint(n as u64)));
        assert_eq!(check(first, None, &[at(5), other(n)]).await.1, Some(Fault::Checkpoint(n as u64)));
    }
    let missing = Checkpoint { sequence: 6, hash: [9; 32] };
    for (from, known) in [(missing, vec![]), (at(5), vec![missing]), (first, vec![at(2), missing])] {
        assert_eq!(check(from, None, &known).await.1, Some(Fault::End { ends: 5, head: 6 }));
    }
    let none = registry.check_audit("c", &AuditRange { from: at(3), ..AuditRange::default() }).await.unwrap();
    assert_eq!(none.fault, Some(Fault::End { ends: 0, head: 3 }));
    assert_eq!(at(5).to_string().parse(), Ok(at(5)));
}

pub(crate) async fn the_ends_of_chains_are_listed(registry: &dyn Registry) {
    assert!(registry.audit_heads("", 9).await.unwrap().is_empty());
    with_tenants(registry, &["b", "a"]).await;
    create(registry, key("a")).await.unwrap();
    let denial = Denial {
        tenant: INSTALLATION.into(),
        principal: String::new(),
        method: "Connect".into(),
        address: None,
        reason: "wrong".into(),
        at: NOW,
        count: 1,
    };
    registry.record_denials(&[denial]).await.unwrap();
    let heads = registry.audit_heads("", 9).await.unwrap();
    assert_eq!(
        heads.iter().map(|(tenant, head)| (tenant.as_str(), head.sequence)).collect::<Vec<_>>(),
        [(INSTALLATION, 1), ("a", 2), ("b", 1)]
    );
    for (tenant, head) in &heads {
        assert_eq!(registry.verify_audit(tenant, None).await.unwrap().verified, *head);
    }
    assert_eq!(registry.audit_heads("", 2).await.unwrap(), heads[..2]);
    assert_eq!(registry.audit_heads("a", 9).await.unwrap(), heads[2..]);
}
