//! The layer around every call: identity, limits, permission, deadline, metrics.
//!
//! tonic's interceptors see neither the method nor the end of a stream, so this is a tower layer.
//! It denies by default: a path that has no rule and is not public is refused. The deadline and the
//! end of the credential cover the stream too: when either comes, the stream's source is dropped
//! and the call ends with DEADLINE_EXCEEDED or UNAUTHENTICATED. A single answer that is ready is
//! sent although the credential has ended meanwhile, since the call was carried out: a key may
//! delete itself.

mod body;
mod waiting;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use identity::quota::{Exceeded, Moment, StreamPermit};
use identity::{Authenticator, Denied, Presented, Principal, Role};
use model::trace::Tracer;
use tls::Peer;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::auth::{Bearer, Caller, Rule, Rules, peer};
use crate::health::REQUEST_TIME;
use crate::metrics::{self, Refused};
use crate::traces::Call;
use crate::{Config, errors};
use body::{CallEnd, code_in, watch};
use waiting::Waiting;

/// Services that need no credential: a load balancer has none.
const PUBLIC: [&str; 1] = ["/grpc.health.v1.Health/"];
/// Services without rules that any valid credential may call.
const DESCRIPTIVE: [&str; 2] = ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
/// Name in metrics of methods that have no rule.
const OTHER: &str = "other";

/// The layer that wraps a service in [`Calls`].
#[derive(Clone)]
pub(crate) struct CallsLayer(Arc<Checks>);

struct Checks {
    rules: Rules,
    metrics: metrics::Metrics,
    call_timeout: Duration,
    tracer: Option<Tracer>,
    authenticator: Option<Arc<dyn Authenticator>>,
    waiting: Waiting,
}

/// A call that may go on.
struct Admitted {
    principal: Principal,
    /// `None` for a method without a rule.
    caller: Option<Caller>,
    /// Of a stream whose tenant has limits.
    permit: Option<StreamPermit>,
}

impl CallsLayer {
    pub(crate) fn new(rules: Rules, config: &Config, metrics: metrics::Metrics) -> Self {
        Self(Arc::new(Checks {
            rules,
            metrics,
            call_timeout: config.limits.call_timeout,
            tracer: config.tracer.clone(),
            authenticator: config.authenticator.clone(),
            waiting: Waiting::default(),
        }))
    }
}

impl Checks {
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

    /// Identifies the caller of a request and removes its credential.
    async fn authenticate(&self, request: &mut Request<Body>) -> Result<Principal, Denied> {
        let known = |request: &Request<Body>| request.extensions().get::<Peer>().map_or((), Peer::admit);
        let Some(authenticator) = &self.authenticator else {
            known(request);
            return Ok(Principal::local());
        };
        let bearer = Bearer::take(request.headers_mut())?;
        let presented = Presented { bearer: bearer.token(), peer: peer(request.extensions()) };
        let principal = self.waiting.check(presented.peer, authenticator.authenticate(&presented)).await?;
        known(request);
        Ok(principal)
    }

    /// Decides whether a call may go on.
    async fn admit(&self, path: &str, rule: Option<&Rule>, request: &mut Request<Body>) -> Result<Admitted, Refusal> {
        let principal = self.authenticate(request).await?;
        let permit = self.limit(&principal, rule)?;
        let caller = match rule {
            Some(rule) => {
                let tenants = self.authenticator.is_some();
                let caller = Caller::new(principal.clone(), rule.clone(), path, tenants);
                let caller = caller.map_err(|status| {
                    self.audit(&principal, path, rule, peer(request.extensions()));
                    Refusal { reason: Refused::Permission, status }
                })?;
                self.limit_changes(&principal, rule)?;
                Some(caller.at(peer(request.extensions())))
            }
            // The router answers UNIMPLEMENTED for unknown methods.
            None if starts_with_any(path, &DESCRIPTIVE) || self.rules.has_service(path) => None,
            None => return Err(Refusal { reason: Refused::Method, status: errors::unknown_service() }),
        };
        Ok(Admitted { principal, caller, permit })
    }

    /// Holds a caller to the limits of its tenant. Refused calls count, too.
    fn limit(&self, principal: &Principal, rule: Option<&Rule>) -> Result<Option<StreamPermit>, Refusal> {
        let Some(meter) = &principal.meter else { return Ok(None) };
        let is_stream = rule.is_some_and(|rule| rule.streaming);
        let permit = meter.call(Moment::now()).and_then(|()| is_stream.then(|| meter.stream()).transpose());
        permit.map_err(|exceeded| self.limited(principal, &exceeded))
    }

    /// Holds callers of a tenant to its rate of changes: each is an event that is kept for ever.
    /// Operators of the installation are not.
    fn limit_changes(&self, principal: &Principal, rule: &Rule) -> Result<(), Refusal> {
        match &principal.meter {
            Some(meter) if principal.role < Role::Installation && rule.is_change() => {
                meter.change(Moment::now()).map_err(|exceeded| self.limited(principal, &exceeded))
            }
            _ => Ok(()),
        }
    }

    fn limited(&self, principal: &Principal, exceeded: &Exceeded) -> Refusal {
        self.metrics.limited(exceeded.quota);
        Refusal { reason: Refused::Limit, status: errors::limited(&principal.tenant, exceeded) }
    }

    /// Notes that a caller lacks the permission of a method, on any resource or on the one it
    /// named.
    fn audit(&self, principal: &Principal, path: &str, rule: &Rule, peer: Option<IpAddr>) {
        if let Some(authenticator) = &self.authenticator {
            let method = path.rsplit('/').next().unwrap_or(path);
            let reason = format!("permission {} denied", rule.permission);
            authenticator.refused(principal, method, peer, &reason);
        }
    }

    fn refuse(&self, method: &str, refusal: Refusal) -> Response<Body> {
        self.metrics.refused(refusal.reason);
        self.metrics.ended(method, refusal.status.code());
        refusal.status.into_http()
    }
}

/// The reason why a call does not go on.
struct Refusal {
    reason: Refused,
    status: Status,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self { reason: (&denied).into(), status: errors::not_admitted(&denied) }
    }
}

fn starts_with_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, checks: Arc::clone(&self.0) }
    }
}

/// A service behind the checks.
#[derive(Clone)]
pub(crate) struct Calls<S> {
    inner: S,
    checks: Arc<Checks>,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answer<S::Error> {
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.request();
        }
        if starts_with_any(request.uri().path(), &PUBLIC) {
            let answer = timeout(REQUEST_TIME, self.inner.call(request));
            return Box::pin(async { answer.await.unwrap_or_else(|_| Ok(errors::deadline().into_http())) });
        }
        // The clone may not be ready; the service that was polled is.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(answer(Arc::clone(&self.checks), inner, request))
    }
}

/// Answers a call that is not public.
async fn answer<S>(checks: Arc<Checks>, mut inner: S, mut request: Request<Body>) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let checks: &Checks = &checks;
    let path = request.uri().path().to_owned();
    let rule = checks.rules.get(&path);
    let method = rule.map_or(OTHER, |_| path.trim_start_matches("/weir.v1."));
    let deadline = rule.and_then(|rule| checks.deadline(request.headers(), rule));
    let admitted = {
        let checked = checks.admit(&path, rule, &mut request);
        let by = deadline.unwrap_or_else(|| Instant::now() + checks.call_timeout);
        match timeout_at(by, checked).await {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(refusal)) => return Ok(checks.refuse(method, refusal)),
            Err(_) => {
                checks.metrics.ended(method, Code::DeadlineExceeded);
                return Ok(errors::deadline().into_http());
            }
        }
    };
    let Admitted { principal, caller, permit } = admitted;
    let traced = rule.and_then(|_| Call::begin(checks.tracer.as_ref(), &principal.tenant, &path, request.headers()));
    if let Some(caller) = &caller {
        request.extensions_mut().insert(caller.clone());
    }
    let mut end = CallEnd::new(method, checks.metrics.clone(), traced.clone());
    end.permit = permit;
    let ended = principal.ended.clone();
    // Of the methods without a rule, reflection answers with a stream.
    let is_stream = rule.is_none_or(|rule| rule.streaming);
    let answered = async move {
        let began = Instant::now();
        let answer = inner.call(request);
        let in_time = async {
            match deadline {
                None => answer.await,
                Some(at) => match timeout_at(at, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(errors::deadline().into_http()),
                },
            }
        };
        let answer = tokio::select! {
            biased;
            // First, since the call may have ended the credential itself.
            answer = in_time => answer,
            () = ended.cancelled() => {
                end.metrics.refused(Refused::Ended);
                return Ok(watch(errors::ended().into_http(), end, None, None));
            }
        };
        end.metrics.answered(&end.method, began.elapsed());
        let answer = authorized(answer?, caller.as_ref());
        if let (Some(rule), Some(caller)) = (rule, &caller)
            && code_in(answer.headers()) == Some(Code::PermissionDenied)
        {
            end.metrics.refused(Refused::Permission);
            checks.audit(&principal, &path, rule, caller.peer());
        }
        Ok(watch(answer, end, deadline, is_stream.then_some(ended)))
    };
    match traced {
        Some(call) => call.during(answered).await,
        None => answered.await,
    }
}

/// Withholds the answer of a service that did not authorize the resource of its call.
fn authorized(answer: Response<Body>, caller: Option<&Caller>) -> Response<Body> {
    let discloses =
        || matches!(code_in(answer.headers()), None | Some(Code::Ok | Code::NotFound | Code::AlreadyExists));
    if caller.is_some_and(|caller| !caller.is_checked()) && discloses() {
        return errors::internal("a call was answered without authorization of its resource").into_http();
    }
    answer
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
