//! Browsers: which pages may call the services over gRPC-Web (CORS).
//!
//! A browser names the page's origin in each such call; other clients do not. A call with an origin
//! that the configuration does not list is refused before it reaches a service: a page of any site
//! can send requests to addresses that its reader can reach.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tower::{Layer, Service};

const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization,content-type,grpc-timeout,traceparent,tracestate,x-grpc-web,x-user-agent");
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("grpc-status,grpc-message,grpc-status-details-bin,grpc-encoding");
const METHODS: HeaderValue = HeaderValue::from_static("POST");
/// Seconds for which a browser remembers the answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");

/// Wraps a service in [`Browsers`].
#[derive(Debug, Clone)]
pub(crate) struct BrowsersLayer(Arc<[String]>);

impl BrowsersLayer {
    pub(crate) fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }
}

impl<S> Layer<S> for BrowsersLayer {
    type Service = Browsers<S>;

    fn layer(&self, inner: S) -> Browsers<S> {
        Browsers { inner, origins: Arc::clone(&self.0) }
    }
}

/// A service that only listed pages may call from a browser.
#[derive(Debug, Clone)]
pub(crate) struct Browsers<S> {
    inner: S,
    origins: Arc<[String]>,
}

/// Whether a request may go on.
enum Decision {
    /// It does not come from a page.
    Other,
    /// It comes from a listed page.
    Listed(HeaderValue),
    /// A browser asks before it calls.
    Preflight(HeaderValue),
    Refused,
}

fn decide<B>(request: &Request<B>, origins: &[String]) -> Decision {
    let Some(origin) = request.headers().get(ORIGIN) else { return Decision::Other };
    let text = origin.to_str().unwrap_or_default();
    if !origins.iter().any(|listed| listed == "*" || listed.trim_end_matches('/').eq_ignore_ascii_case(text)) {
        return Decision::Refused;
    }
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if asks { Decision::Preflight(origin.clone()) } else { Decision::Listed(origin.clone()) }
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Browsers<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Answer<S::Error> {
        match decide(&request, &self.origins) {
            Decision::Other => Box::pin(self.inner.call(request)),
            Decision::Listed(origin) => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(open_to(answer.await?, origin)) })
            }
            Decision::Preflight(origin) => {
                let mut response = empty(StatusCode::NO_CONTENT);
                let headers = response.headers_mut();
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
                headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
                Box::pin(std::future::ready(Ok(open_to(response, origin))))
            }
            Decision::Refused => Box::pin(std::future::ready(Ok(empty(StatusCode::FORBIDDEN)))),
        }
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Lets the page read the answer.
fn open_to(mut response: Response<Body>, origin: HeaderValue) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    headers.append(VARY, HeaderValue::from_static("origin"));
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn ask(origins: &[&str], method: Method, headers: &[(&str, &str)]) -> Response<Body> {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let answer = |_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())));
        let mut service = BrowsersLayer::new(&origins).layer(tower::service_fn(answer));
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        service.call(request.body(()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn pages_that_are_not_listed_are_refused_and_other_clients_are_not() {
        let listed = ["https://dashboard.example"];
        let plain = ask(&listed, Method::POST, &[]).await;
        assert!(plain.status() == StatusCode::OK && !plain.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        for origin in
            ["https://evil.example", "null", "https://dashboard.example.evil.example", "http://dashboard.example"]
        {
            for method in [Method::POST, Method::OPTIONS] {
                let asks = [("origin", origin), ("access-control-request-method", "POST")];
                assert_eq!(ask(&listed, method, &asks).await.status(), StatusCode::FORBIDDEN, "{origin}");
            }
        }
    }

    #[tokio::test]
    async fn a_listed_page_may_ask_call_and_read_the_answer() {
        let (listed, origin) = (["https://dashboard.example"], ("origin", "https://dashboard.example"));
        let asked = ask(&listed, Method::OPTIONS, &[origin, ("access-control-request-method", "POST")]).await;
        assert_eq!(asked.status(), StatusCode::NO_CONTENT);
        assert_eq!(asked.headers()[ACCESS_CONTROL_ALLOW_METHODS], "POST");
        let allowed = asked.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(allowed.contains("x-grpc-web") && allowed.contains("content-type"), "{allowed}");
        let called = ask(&listed, Method::POST, &[origin]).await;
        assert_eq!(called.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://dashboard.example");
        assert!(called.headers()[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().contains("grpc-status"));
    }
}
