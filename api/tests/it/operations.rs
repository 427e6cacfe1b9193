//! Books and status.

use model::Value;
use proto::v1::{GetBooksRequest, GetStatusRequest};
use stores::contract::BookLine;

use crate::world::{PARENT, World};

fn line(tenant: &str, stored: u64, held: u64) -> BookLine {
    BookLine {
        hours: Vec::new(),
        tenant: tenant.into(),
        sink: "history".into(),
        accepted: 10,
        stored,
        merged: 1,
        pending: 2,
        dead_lettered: 1,
        held: Some(held),
        expected: stored,
    }
}

#[tokio::test]
async fn the_books_are_those_of_the_tenant_and_report_whether_they_balance() {
    let world = World::start().await;
    let books = async |check| {
        let request = GetBooksRequest { parent: PARENT.into(), check };
        world.operations().get_books(request).await.unwrap().into_inner()
    };
    *world.books.lines.lock() = vec![line("default", 6, 6), line("other", 99, 0)];
    let good = books(true).await;
    assert_eq!((good.lines.len(), good.lines[0].stored_count, good.lines[0].held_count), (1, 6, Some(6)));
    assert!(good.balanced && good.lines[0].balanced);
    *world.books.lines.lock() = vec![line("default", 6, 5)];
    assert!(!books(true).await.balanced, "the store lost one");
    assert!(books(false).await.balanced, "the store was not asked");
    *world.books.lines.lock() = vec![line("default", 5, 5)];
    assert!(!books(false).await.balanced, "one is nowhere");
}

#[tokio::test]
async fn the_status_lists_the_logs() {
    let world = World::start().await;
    world.append("d", "t", Value::Int(1)).await;
    let status = world.operations().get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.version.as_str(), status.ready), ("1.2.3", true));
    assert_eq!((status.logs[0].log.as_str(), status.logs[0].start_offset, status.logs[0].end_offset), ("log1", 0, 1));
}
