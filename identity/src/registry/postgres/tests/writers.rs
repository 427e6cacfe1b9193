//! Several processes on one database.

use super::*;

const WRITERS: usize = 8;
const CHANGES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_many_writers_are_read_in_order_and_without_gaps() {
    let (_, url) = database().await;
    let reader = connect(&url).await;
    for id in ["a", "b"] {
        reader.create_tenant(tenant(id), &origin()).await.unwrap();
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let url = url.clone();
            tokio::spawn(async move {
                let registry = connect(&url).await;
                let of = if writer % 2 == 0 { "a" } else { "b" };
                for n in 0..CHANGES {
                    registry.create_credential(secret(of, &format!("{writer}-{n}")), &origin()).await.unwrap();
                }
            })
        })
        .collect();
    let all = 2 + (WRITERS * CHANGES) as u64;
    let mut last = 0;
    while last < all {
        let changes = reader.changes(last, 7).await.unwrap();
        assert!(!changes.has_gap);
        for change in changes.entries {
            assert_eq!(change.number, last + 1, "no number is skipped, and none appears late");
            last = change.number;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for id in ["a", "b"] {
        let report = reader.verify_audit(id, None).await.unwrap();
        assert_eq!((report.verified.sequence, report.fault), (1 + (WRITERS * CHANGES / 2) as u64, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_once_do_not_pass_a_limit() {
    let (_, url) = database().await;
    connect(&url).await.create_tenant(tenant("a"), &origin()).await.unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(
                async move { connect(&url).await.create_credential(secret("a", "d"), &origin()).await.is_ok() },
            )
        })
        .collect();
    let mut created = 0;
    for writer in writers {
        created += usize::from(writer.await.unwrap());
    }
    assert_eq!(created, Class::Device.most());
}

#[tokio::test]
async fn a_control_log_is_trimmed_and_a_reader_that_fell_behind_learns_of_the_gap() {
    let (name, url) = database().await;
    let registry = connect(&url).await;
    registry.create_tenant(tenant("a"), &origin()).await.unwrap();
    let superuser = shared().superuser(&name).await;
    let fill = "INSERT INTO weir.control SELECT n, 'a', jsonb_build_object('number', n, 'tenant', 'a', 'kind', \
                'tenant_active') FROM generate_series(2, 10047) n; UPDATE weir.control_head SET newest = 10047";
    superuser.batch_execute(fill).await.unwrap();
    // The number that this one has is divisible by 64.
    registry.create_credential(key("a"), &origin()).await.unwrap();
    let changes = async |after| registry.changes(after, 1).await.unwrap();
    assert_eq!(changes(0).await.newest, 10_048);
    assert!(changes(0).await.has_gap && changes(47).await.has_gap);
    let first = changes(48).await;
    assert!(!first.has_gap && first.entries[0].number == 49);
    let kept: i64 = superuser.query_one("SELECT count(*) FROM weir.control", &[]).await.unwrap().get(0);
    assert_eq!(kept, 10_000);
}
