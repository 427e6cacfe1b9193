//! Documents over HTTP from a server of the test.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers every request with these bytes; returns its address and the first request.
async fn server(answer: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        // A client that has seen enough closes before all is written.
        stream.write_all(answer.as_bytes()).await.ok();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (url, served)
}

fn local() -> HttpFetch {
    HttpFetch::new(vec!["127.0.0.0/8".parse().unwrap()], None).unwrap()
}

#[tokio::test]
async fn a_document_is_read_with_its_age_and_date() {
    let answer = "HTTP/1.1 200 OK\r\ncache-control: max-age=900\r\ndate: Sun, 29 Nov 2026 06:00:00 GMT\r\n\
                  content-length: 2\r\n\r\n{}";
    let (url, served) = server(answer.into()).await;
    let fetched = local().get(&format!("{url}/keys?a=1"), Reach::Operator).await.unwrap();
    assert_eq!((fetched.status, &*fetched.body), (200, &b"{}"[..]));
    assert_eq!(fetched.max_age, Some(Duration::from_secs(900)));
    assert_eq!(fetched.date.as_deref(), Some("Sun, 29 Nov 2026 06:00:00 GMT"));
    let request = served.await.unwrap();
    assert!(request.starts_with("GET /keys?a=1 HTTP/1.1\r\n"), "{request}");
    let host = format!("host: {}\r\n", url.trim_start_matches("http://"));
    assert!(request.contains(&host) && request.contains("connection: close"), "{request}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (url, _served) =
        server("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".into()).await;
    assert_eq!(local().get(&url, Reach::Operator).await.unwrap().status, 302);
}

#[tokio::test]
async fn a_document_without_end_is_refused() {
    let (url, _served) = server(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20))).await;
    let refused = local().get(&url, Reach::Operator).await.unwrap_err();
    assert!(refused.to_string().contains("length limit exceeded"), "{refused}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::time::pause();
    let refused = local().get(&url, Reach::Operator).await.unwrap_err();
    assert!(refused.to_string().ends_with("no answer within 5 s"), "{refused}");
}

#[tokio::test]
async fn the_issuer_of_a_tenant_reaches_no_private_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let fetch = local();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"] {
        for scheme in ["http", "https"] {
            let refused = fetch.get(&format!("{scheme}://{host}:{port}/keys"), Reach::Public).await.unwrap_err();
            let refused = refused.to_string();
            let is_told = refused.contains("not a public address") || refused.contains("cannot look up");
            assert!(is_told, "{host}: {refused}");
        }
    }
    let refused = fetch.get(&format!("https://10.0.0.1:{port}/"), Reach::Operator).await.unwrap_err();
    assert!(refused.to_string().contains("auth.issuer_networks"), "{refused}");
    let refused =
        HttpFetch::new(Vec::new(), None).unwrap().get(&format!("http://127.0.0.1:{port}"), Reach::Operator).await;
    assert!(refused.unwrap_err().to_string().contains("auth.issuer_networks"));
    let accepted = listener.accept().map_err(|error| error.kind());
    assert_eq!(accepted.err(), Some(std::io::ErrorKind::WouldBlock), "no connection was made");
}

#[tokio::test]
async fn a_private_network_is_read_over_https_only() {
    let fetch = HttpFetch::new(vec!["10.0.0.0/8".parse().unwrap()], None).unwrap();
    let refused = fetch.get("http://10.0.0.1:1/", Reach::Operator).await.unwrap_err();
    assert!(refused.to_string().contains("with https"), "{refused}");
}

#[tokio::test]
async fn keys_come_from_the_document_of_oauth_when_there_is_none_of_openid() {
    let key = TestKey::new("k1", Algorithm::Es256);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let url = format!("{base}/realm");
    let (issuer, keys) = (url.clone(), json!({ "keys": [key.jwk()] }));
    let serve = async move {
        let mut paths = Vec::new();
        while paths.len() < 3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let (status, body) = match &*path {
                "/.well-known/oauth-authorization-server/realm" => {
                    (200, json!({ "issuer": issuer, "jwks_uri": format!("{base}/keys") }))
                }
                "/keys" => (200, keys.clone()),
                _ => (404, Value::Null),
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            paths.push(path);
        }
        paths
    };
    let settings = Issuer { url, is_operated: true, ..settings() };
    let clock = Arc::new(Hand(AtomicI64::new(NOW * SECOND)));
    let issuer = TokenIssuer::new(settings.checked().unwrap(), Arc::new(local()), clock);
    let (probed, paths) = tokio::join!(issuer.probe(), serve);
    assert_eq!(probed.unwrap().0, 1);
    let expected =
        ["/realm/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realm", "/keys"];
    assert_eq!(paths, expected);
}
