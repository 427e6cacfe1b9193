//! Readings of tenants that fill their share of a log.

use std::sync::Arc;
use std::task::Waker;

use model::{DeviceKey, Schema, ValueRef};
use weir_buffer::frame::Staged;
use weir_buffer::{Account, Batcher, Cursor, Log, SubmitError};

use crate::common::{Bell, header, until_durable};

/// Bytes of a reading.
pub(crate) const READING: u64 = 64 << 10;

/// A log, its writer, and the view of its sinks.
pub(crate) struct Form {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sinks: Arc<dyn Log>,
    pub(crate) batcher: Batcher,
}

/// A reading of 64 KiB.
pub(crate) fn stage(tenant: &str, n: i64) -> Staged {
    let mut staged = Staged::default();
    let text = "x".repeat(64 << 10);
    let (device, schema) = (Arc::new(DeviceKey::new(tenant, "d").unwrap()), Arc::new(Schema::new(["n"])));
    staged.reading(&device, &schema, &header(n), [Some(ValueRef::Str(&text))]);
    staged
}

/// Appends readings of a tenant until it has to wait. Returns the number of them.
pub(crate) fn fill(batcher: &Batcher, account: Option<&Arc<Account>>, tenant: &str, from: i64, most: i64) -> i64 {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    for n in from..from + most {
        match batcher.submit_of(account, &mut stage(tenant, n), &waker) {
            Ok(ticket) => until_durable(batcher, ticket, &bell).unwrap(),
            Err(SubmitError::Full) => return n - from,
            Err(error) => panic!("{error}"),
        }
    }
    most
}

/// Moves the only cursor of a log, as a sink does.
pub(crate) async fn pass(log: &dyn Log, offset: u64) {
    let cursor = Cursor { done_to: offset, sealed_to: offset, epoch: 1, ..Cursor::default() };
    log.move_cursor("history", cursor).await.unwrap();
    log.trim().await.unwrap();
}
