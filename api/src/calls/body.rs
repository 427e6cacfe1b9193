//! The body of an answer: its end, its deadline and the end of the caller's credential.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use identity::quota::StreamPermit;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::errors;
use crate::metrics::{Metrics, Refused};
use crate::traces::Call;

/// Wraps an answer, so that its end is counted, that its deadline holds,
/// and that it ends when `ended` is cancelled.
pub(super) fn watch(
    answer: Response<Body>,
    mut end: CallEnd,
    deadline: Option<Instant>,
    ended: Option<CancellationToken>,
) -> Response<Body> {
    end.code = code_in(answer.headers());
    let sleep = deadline.map(tokio::time::sleep_until);
    let ended = ended.map(CancellationToken::cancelled_owned);
    answer.map(|inner| Body::new(Watched { inner, sleep, ended, end, over: false }))
}

/// The code of a call in its headers or trailers.
pub(super) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// Counts a call when it is dropped: a call without a code, because its client has gone, counts as
/// cancelled.
#[derive(Debug)]
pub(super) struct CallEnd {
    pub(super) method: String,
    pub(super) metrics: Metrics,
    code: Option<Code>,
    traced: Option<Arc<Call>>,
    /// A stream counts until its end.
    pub(super) permit: Option<StreamPermit>,
}

impl CallEnd {
    pub(super) fn new(method: &str, metrics: Metrics, traced: Option<Arc<Call>>) -> Self {
        Self { method: method.to_owned(), metrics, code: None, traced, permit: None }
    }
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
    /// A body that ends at a deadline or with the caller's credential, and records the code of the
    /// call.
    struct Watched {
        #[pin]
        inner: Body,
        #[pin]
        sleep: Option<Sleep>,
        #[pin]
        ended: Option<WaitForCancellationFutureOwned>,
        end: CallEnd,
        over: bool,
    }
}

/// The last frame of a call that ends with this status.
fn last(end: &mut CallEnd, status: &Status) -> Result<Frame<Bytes>, Status> {
    end.code = Some(status.code());
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        // First, since a source may be ready each time.
        if let Some(ended) = this.ended.as_mut().as_pin_mut()
            && ended.poll(cx).is_ready()
        {
            this.end.metrics.refused(Refused::Ended);
            *this.over = true;
            this.inner.set(Body::empty());
            return Poll::Ready(Some(last(this.end, &errors::ended())));
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
        Poll::Ready(Some(last(this.end, &errors::deadline())))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// A body that is ready each time it is polled.
    struct Busy;

    impl http_body::Body for Busy {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn a_busy_stream_ends_with_the_credential() {
        let ended = CancellationToken::new();
        let end = CallEnd::new("S/M", Metrics::new(), None);
        let mut body = watch(Response::new(Body::new(Busy)), end, None, Some(ended.clone())).into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        ended.cancel();
        let last = body.frame().await.unwrap().unwrap();
        assert_eq!(code_in(last.trailers_ref().unwrap()), Some(Code::Unauthenticated));
        assert!(body.frame().await.is_none());
    }
}
