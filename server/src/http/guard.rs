//! The checks and headers around every answer, for browsers: the page shows data of devices, and
//! any site that an operator visits can send requests to an address in the operator's network.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::listener::Caller;

/// The page loads its script, its styles and its figures from this process, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Answers requests to known hosts only, and adds the headers.
pub(super) async fn guard(
    State(hosts): State<Arc<[String]>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    // One connection of HTTP/2 would ask for any number of answers at a time. Its requests are not
    // noted, so that it is bounded as one that has not asked yet.
    if request.version() > Version::HTTP_11 {
        let mut response = (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1\n").into_response();
        response.headers_mut().extend(HEADERS);
        return response;
    }
    caller.request();
    let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    // The target through a proxy.
    let target = request.uri().authority().map(|authority| authority.as_str());
    let unknown = named.chain(target).find(|host| !is_known(host, &hosts));
    let mut response = match unknown {
        None => next.run(request).await,
        Some(host) => {
            let text =
                format!("unknown host {host:?}: use the address of the process, or add the name to `http.hosts`\n");
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    };
    response.headers_mut().extend(HEADERS);
    response
}

/// True for addresses, names that the public DNS does not have (`localhost`, one label), and the
/// configured names. Another name can be made to point here by its owner.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || (!name.is_empty() && !name.contains('.') && !name.contains(':'))
        || name.ends_with(".localhost")
        || hosts.iter().any(|known| known == "*" || known.trim_end_matches('.').eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_local_names_and_configured_names_are_known() {
        let hosts = ["weir.example".to_owned()];
        for known in
            ["127.0.0.1:8080", "10.0.0.7", "[::1]:8080", "localhost:8080", "weir", "a.localhost", "Weir.Example.:80"]
        {
            assert!(is_known(known, &hosts), "{known}");
        }
        for unknown in
            ["evil.example:8080", "127.0.0.1.evil.example", "weir.example.evil.example", "", "[evil.example]"]
        {
            assert!(!is_known(unknown, &hosts), "{unknown}");
        }
        assert!(is_known("anything.example", &["*".to_owned()]));
    }
}
