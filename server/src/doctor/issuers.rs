//! Checks of the issuers of access tokens: their keys, and their clocks.

use std::sync::Arc;

use identity::{Fetch, Issuer, TokenIssuer};
use model::SystemClock;
use model::time::SECOND;
use proto::v1::issuer_service_client::IssuerServiceClient;
use proto::v1::tenant_service_client::TenantServiceClient;
use proto::v1::{ListIssuersRequest, ListTenantsRequest};

use super::Finding;
use crate::client::{Connection, client, time};
use crate::config::Auth;

const WHAT: &str = "issuers";
/// Difference above which tokens may be refused: they are valid from their time on, within 30 s.
const CLOCK_SECONDS: i64 = 20;
/// Tenants, and issuers of each, that are checked.
const MOST: i32 = 100;

/// Reads the keys of the issuers that the caller may list, from this machine.
pub(super) async fn issuers(channel: Connection, auth: &Auth) -> Vec<Finding> {
    let fetch: Arc<dyn Fetch> = match auth.fetch() {
        Ok(fetch) => Arc::new(fetch),
        Err(error) => return vec![Finding::fail(WHAT, format!("{error:#}"))],
    };
    let mut findings = Vec::new();
    for (name, issuer) in listed(channel).await {
        let url = issuer.url.clone();
        let probed = TokenIssuer::new(issuer, Arc::clone(&fetch), Arc::new(SystemClock)).probe().await;
        findings.push(match probed {
            Err(reason) => {
                Finding::fail(WHAT, format!("{reason}; tokens of {url} are not accepted without its keys ({name})"))
            }
            Ok((keys, date)) => match date.as_deref().and_then(ahead).filter(|ahead| ahead.abs() > CLOCK_SECONDS) {
                Some(ahead) => {
                    let text =
                        format!("the clocks of {url} and this machine differ by {} s: set both by NTP", ahead.abs());
                    Finding::warn(WHAT, text)
                }
                None => Finding::ok(WHAT, format!("{url} has {keys} keys")),
            },
        });
    }
    findings
}

/// Returns the issuers of all tenants if the caller may list tenants, or else of its own.
async fn listed(channel: Connection) -> Vec<(String, Issuer)> {
    let mut tenants = client!(TenantServiceClient<_>, channel.clone());
    let request = ListTenantsRequest { page_size: MOST, ..Default::default() };
    let parents = match tenants.list_tenants(request).await {
        Ok(page) => page.into_inner().tenants.into_iter().map(|tenant| tenant.name).collect(),
        Err(_) => vec!["tenants/-".to_owned()],
    };
    let mut client = client!(IssuerServiceClient<_>, channel);
    let mut all = Vec::new();
    for parent in parents {
        let request = ListIssuersRequest { parent, page_size: MOST, ..Default::default() };
        // Without authentication there are none.
        let Ok(page) = client.list_issuers(request).await else { continue };
        all.extend(page.into_inner().issuers.into_iter().map(|issuer| {
            let (url, audience, is_operated) = (issuer.url, issuer.audience, issuer.operated);
            (issuer.name, Issuer { url, audience, is_operated, ..Issuer::default() })
        }));
    }
    all
}

/// Returns the seconds by which a date of HTTP is ahead of this machine.
fn ahead(date: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(date.timestamp().as_second() - time::now() / SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_http_is_compared_with_the_clock() {
        let past = ahead("Sun, 29 Nov 2020 06:00:00 GMT").unwrap();
        assert!(past < -100_000_000, "{past}");
        assert_eq!(ahead("yesterday"), None);
    }
}
