//! Servers that are not there yet when Weir starts.

use std::time::Duration;

/// Between two attempts, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Tries until it works. What a person has to change ends it at once; a server that does not answer is waited for, and that is
/// said.
///
/// # Errors
/// The first error that is not `passing`.
pub(super) async fn until_there<T, E, F>(
    server: &str,
    passing: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut wait = WAIT.0;
    let mut said = false;
    loop {
        match attempt().await {
            Ok(there) => {
                if said {
                    tracing::info!(server, "answers");
                }
                return Ok(there);
            }
            Err(error) if passing(&error) => {
                if !said {
                    tracing::warn!(server, %error, "waiting for a server before the start");
                    said = true;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT.1);
            }
            Err(error) => return Err(error),
        }
    }
}
