//! Calls whose credentials are being checked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use identity::Denied;
use tls::Strangers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls whose credentials are being checked, at one time. Each holds the headers of its call.
const WAITING: usize = 1_024;
/// Time for a check while others wait for its place.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls whose credentials are being checked: as many as memory is meant for, and those of one
/// source keep no others out.
pub(super) struct Waiting {
    places: Arc<Semaphore>,
    callers: Strangers<OwnedSemaphorePermit>,
}

impl Waiting {
    fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), callers: Strangers::new(PATIENCE) }
    }

    /// Returns the outcome of a check, unless there are too many.
    pub(super) async fn check<T>(
        &self,
        from: Option<IpAddr>,
        check: impl Future<Output = Result<T, Denied>>,
    ) -> Result<T, Denied> {
        let busy = || Denied::Unavailable("too many others are being checked: try again".into());
        let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = free.or_else(|| self.callers.displace(from)).ok_or_else(busy)?;
        let guest = self.callers.enter(from, place);
        tokio::select! {
            biased;
            checked = check => checked,
            () = guest.displaced() => Err(busy()),
        }
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new(WAITING)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn checks_of_one_source_leave_room_for_others() {
        let waiting = Arc::new(Waiting::new(8));
        let from = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let flood: Vec<_> = (0..8)
            .map(|_| {
                let waiting = Arc::clone(&waiting);
                tokio::spawn(async move { waiting.check(from(1), pending::<Result<(), Denied>>()).await })
            })
            .collect();
        while waiting.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = waiting.check(from(1), async { Ok(()) }).await;
        assert!(matches!(refused, Err(Denied::Unavailable(_))), "{refused:?}");
        for last in 2..5 {
            assert_eq!(waiting.check(from(last), async { Ok(last) }).await, Ok(last));
        }
        let ended = flood.iter().filter(|task| task.is_finished()).count();
        assert!(ended <= 3 && waiting.places.available_permits() > 0);
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
