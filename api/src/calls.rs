//! The layer around every call: permission, deadline, metrics.
//!
//! tonic's interceptors see neither the method nor the end of a stream, so this is a tower layer.
//! The deadline covers the stream too: when it passes, the stream's source is dropped and the call
//! ends with DEADLINE_EXCEEDED.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use model::trace::Tracer;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::auth::{Caller, Principal, Rule, Rules};
use crate::traces::Call;
use crate::{errors, metrics};

/// The layer that wraps a service in [`Calls`].
#[derive(Debug, Clone)]
pub(crate) struct CallsLayer {
    rules: Arc<Rules>,
    metrics: metrics::Metrics,
    call_timeout: Duration,
    tracer: Option<Tracer>,
}

impl CallsLayer {
    pub(crate) fn new(rules: Rules, metrics: metrics::Metrics, call_timeout: Duration) -> Self {
        Self { rules: Arc::new(rules), metrics, call_timeout, tracer: None }
    }

    /// Records traced calls with `tracer`.
    pub(crate) fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    /// The time at which a call must have ended: the client's deadline; for calls that are not
    /// streams, the limit of the server if that is earlier.
    fn deadline(&self, headers: &HeaderMap, rule: &Rule) -> Option<Instant> {
        let asked = headers.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse_timeout);
        let limit = (!rule.streaming).then_some(self.call_timeout);
        let least = match (asked, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // A deadline beyond the range of the clock is not a deadline.
        least.and_then(|wait| Instant::now().checked_add(wait))
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, shared: self.clone() }
    }
}

/// A service behind the checks.
#[derive(Debug, Clone)]
pub(crate) struct Calls<S> {
    inner: S,
    shared: CallsLayer,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Error> {
        let path = request.uri().path().to_owned();
        // Health and reflection are public; the router answers UNIMPLEMENTED for unknown paths.
        let Some(rule) = self.shared.rules.get(&path).cloned() else { return Box::pin(self.inner.call(request)) };
        let metrics = self.shared.metrics.clone();
        let method = path.trim_start_matches("/weir.v1.").to_owned();
        let principal = Principal::local();
        if !principal.holds(&rule.permission) {
            metrics.ended(&method, Code::PermissionDenied);
            let denied = errors::denied(&rule.permission, &path);
            return Box::pin(async move { Ok(denied.into_http()) });
        }
        let traced = Call::begin(self.shared.tracer.as_ref(), principal.tenant(), &path, request.headers());
        let deadline = self.shared.deadline(request.headers(), &rule);
        request.extensions_mut().insert(Caller::new(principal, rule));
        let answer = self.inner.call(request);
        let end = CallEnd { method, metrics, code: None, traced };
        let traced = end.traced.clone();
        let answered = async move {
            let began = Instant::now();
            let answer = match deadline {
                None => answer.await,
                Some(at) => match tokio::time::timeout_at(at, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(errors::deadline().into_http()),
                },
            };
            end.metrics.answered(&end.method, began.elapsed());
            Ok(watch(answer?, end, deadline))
        };
        match traced {
            Some(call) => Box::pin(call.during(answered)),
            None => Box::pin(answered),
        }
    }
}

/// Wraps an answer, so that its end is counted and its deadline holds.
fn watch(answer: Response<Body>, mut end: CallEnd, deadline: Option<Instant>) -> Response<Body> {
    end.code = code_in(answer.headers());
    let sleep = deadline.map(tokio::time::sleep_until);
    answer.map(|inner| Body::new(Watched { inner, sleep, end, over: false }))
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// Counts a call when it is dropped: a call without a code, because its client has gone, counts as
/// cancelled.
#[derive(Debug)]
struct CallEnd {
    method: String,
    metrics: metrics::Metrics,
    code: Option<Code>,
    traced: Option<Arc<Call>>,
}

impl Drop for CallEnd {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.metrics.ended(&self.method, code);
        if let Some(call) = &self.traced {
            call.end(code);
        }
    }
}

pin_project! {
    /// A body that ends at a deadline and records the code of the call.
    struct Watched {
        #[pin]
        inner: Body,
        #[pin]
        sleep: Option<Sleep>,
        end: CallEnd,
        over: bool,
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        let polled = match &this.end.traced {
            Some(call) => call.within(|| this.inner.as_mut().poll_frame(cx)),
            None => this.inner.as_mut().poll_frame(cx),
        };
        if let Poll::Ready(frame) = polled {
            if let Some(Ok(frame)) = &frame
                && let Some(trailers) = frame.trailers_ref()
            {
                this.end.code = code_in(trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(sleep) = this.sleep.as_mut().as_pin_mut() else { return Poll::Pending };
        ready!(sleep.poll(cx));
        *this.over = true;
        this.inner.set(Body::empty());
        this.end.code = Some(Code::DeadlineExceeded);
        let mut trailers = HeaderMap::new();
        let added = errors::deadline().add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_parsed_by_the_rules_of_the_protocol() {
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("2H"), Some(Duration::from_secs(7200)));
        for bad in ["", "m", "100", "123456789S", "-1S", "1x", "+1S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
