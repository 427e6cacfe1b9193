//! The newest dead letters, for the status page.

use std::collections::BTreeSet;
use std::sync::Arc;

use stores::contract::{DeadLetters, Deadletter, Result, is_last};

/// Dead letters of one call.
const PAGE: usize = 100;
/// Calls for the dead letters of other logs.
const PAGES: usize = 50;

/// At most `most` of the newest dead letters of all tenants, the newest first: of the process's own
/// `log`, then of other logs, as it had before a repair or at an earlier start on Redis.
///
/// # Errors
/// Errors of the store.
pub(super) async fn newest(letters: &dyn DeadLetters, log: Option<&str>, most: usize) -> Result<Vec<Deadletter>> {
    let mut tenants: BTreeSet<Arc<str>> = letters.count().await?.into_iter().map(|(tenant, _)| tenant).collect();
    tenants.insert(model::DEFAULT_TENANT.into());
    let mut found = Vec::new();
    for tenant in &tenants {
        let mut own = match log {
            Some(log) => letters.newest(tenant, log, most).await?,
            None => Vec::new(),
        };
        if own.len() < most {
            own.extend(of_other_logs(letters, tenant, log, most).await?);
        }
        found.extend(own);
    }
    found.sort_by_key(|letter| std::cmp::Reverse(letter.received));
    found.truncate(most);
    Ok(found)
}

/// The newest among the first dead letters of other logs.
async fn of_other_logs(
    letters: &dyn DeadLetters,
    tenant: &str,
    own: Option<&str>,
    most: usize,
) -> Result<Vec<Deadletter>> {
    let mut found: Vec<Deadletter> = Vec::new();
    let mut after: Option<(Arc<str>, u64, String)> = None;
    for _ in 0..PAGES {
        let from = after.as_ref().map(|(log, offset, stage)| (&**log, *offset, stage.as_str()));
        let page = letters.list(tenant, from, PAGE).await?;
        let ends = is_last(&page, PAGE);
        after = page.last().map(|last| (Arc::clone(&last.log), last.offset, last.stage.clone()));
        found.extend(page.into_iter().filter(|letter| Some(&*letter.log) != own));
        found.sort_by_key(|letter| letter.received);
        found.drain(..found.len().saturating_sub(most));
        if ends {
            break;
        }
    }
    Ok(found)
}
