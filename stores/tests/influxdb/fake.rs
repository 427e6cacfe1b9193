//! A server with chosen answers, which keeps the requests that it received.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weir_stores::influxdb::Config;

/// The answer of the fake to a write.
#[derive(Clone)]
pub(crate) enum Say {
    /// Status line, further header lines, body.
    This(&'static str, &'static str, &'static str),
    /// No answer, ever.
    Nothing,
    /// The connection is closed.
    HangUp,
}

pub(crate) const TAKEN: Say = Say::This("204 No Content", "", "");

#[derive(Default)]
struct Script {
    /// The answer to a request that reads the bucket, instead of an empty list.
    shown: Option<Say>,
    /// Further headers of answers that are not chosen.
    named: &'static str,
    answers: VecDeque<Say>,
    written: Vec<String>,
    at_once: usize,
    most_at_once: usize,
}

pub(crate) struct Fake {
    port: u16,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Accepts the check that every writer makes first, then gives these answers to its writes, in
    /// order, and accepts the rest.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(Script { answers: answers.into_iter().collect(), ..Script::default() }));
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, script, task }
    }

    /// Names itself by these headers in every answer that is not chosen.
    pub(crate) fn naming(self, headers: &'static str) -> Self {
        self.script.lock().named = headers;
        self
    }

    /// Gives this answer to every request that reads the bucket.
    pub(crate) fn showing(self, say: Say) -> Self {
        self.script.lock().shown = Some(say);
        self
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            url: format!("http://127.0.0.1:{}/", self.port),
            token: "t".to_owned(),
            org: "plant".to_owned(),
            bucket: "iot".to_owned(),
            timeout_secs: 5.0,
            ..Config::default()
        }
    }

    /// Returns the bodies of the writes, uncompressed.
    pub(crate) fn written(&self) -> Vec<String> {
        self.script.lock().written.clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.script.lock().most_at_once
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let length = |line: &str| line.to_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok());
        let mut body = vec![0; head.lines().find_map(length).unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        let say = if head.starts_with("POST /api/v2/write?org=plant&bucket=iot&precision=ns ") {
            answer(&head, &body, &script).await
        } else if head.starts_with("GET /api/v2/buckets") {
            let script = script.lock();
            script.shown.clone().unwrap_or(Say::This("200 OK", script.named, r#"{"buckets":[]}"#))
        } else {
            Say::This("200 OK", script.lock().named, r#"{"results":[{"statement_id":0}]}"#)
        };
        match say {
            Say::This(status, headers, body) => {
                let length = body.len();
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
                stream.write_all(text.as_bytes()).await.ok()?;
            }
            Say::Nothing => std::future::pending().await,
            Say::HangUp => return None,
        }
    }
}

async fn answer(head: &str, body: &[u8], script: &Mutex<Script>) -> Say {
    assert!(head.to_lowercase().contains("content-encoding: gzip"), "{head}");
    assert!(head.contains("Token t"), "{head}");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(body), &mut text).unwrap();
    if text.is_empty() {
        return Say::This("204 No Content", script.lock().named, "");
    }
    {
        let mut script = script.lock();
        script.written.push(text);
        script.at_once += 1;
        script.most_at_once = script.most_at_once.max(script.at_once);
    }
    // Other requests under way arrive meanwhile.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let mut script = script.lock();
    script.at_once -= 1;
    let named = script.named;
    script.answers.pop_front().unwrap_or(Say::This("204 No Content", named, ""))
}
