//! A real influxd in a folder and on a port of its own.

#[path = "../../../buffer/tests/common/free_port.rs"]
mod ports;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const TOKEN: &str = "token-of-the-tests";

pub(crate) struct Influxd {
    program: PathBuf,
    dir: TempDir,
    port: u16,
    child: Child,
}

impl Drop for Influxd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server with organization `plant` and bucket `iot`; `None`, with a message, where there
/// is no influxd. CI must have one.
pub(crate) async fn influxd() -> Option<Influxd> {
    influxd_keeping(0).await
}

/// As [`influxd`], with a bucket that keeps points this long; zero keeps them for ever.
pub(crate) async fn influxd_keeping(seconds: u64) -> Option<Influxd> {
    let Some(program) = find() else {
        assert!(std::env::var_os("CI").is_none(), "influxd is not there, and this is CI");
        println!("skipped: no influxd in PATH, WEIR_SERVICES or ~/.cache/weir-services/bin");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = ports::free_port().unwrap();
    let child = spawn(&program, &dir, port);
    let server = Influxd { program, dir, port, child };
    server.is_up().await;
    let setup = json!({
        "username": "weir", "password": "weir-of-the-tests", "org": "plant", "bucket": "iot", "token": TOKEN,
        "retentionPeriodSeconds": seconds,
    });
    let (status, body) = server.ask("POST", "/api/v2/setup", None, &setup.to_string()).await.unwrap();
    assert_eq!(status, 201, "{body}");
    Some(server)
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = std::env::var_os("WEIR_SERVICES").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/weir-services/bin"));
    std::env::split_paths(&path).chain(folder).chain(home).map(|dir| dir.join("influxd")).find(|file| file.is_file())
}

fn spawn(program: &PathBuf, dir: &TempDir, port: u16) -> Child {
    let path = |name: &str| dir.path().join(name);
    Command::new(program)
        .arg("--http-bind-address")
        .arg(format!("127.0.0.1:{port}"))
        .arg("--bolt-path")
        .arg(path("bolt"))
        .arg("--sqlite-path")
        .arg(path("sqlite"))
        .arg("--engine-path")
        .arg(path("engine"))
        .args(["--reporting-disabled", "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Influxd {
    /// Returns its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.dir, self.port);
        self.is_up().await;
    }

    async fn is_up(&self) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !matches!(self.ask("GET", "/health", None, "").await, Ok((200, _))) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.expect("influxd is up within a minute");
    }

    /// Returns status and body of an answer.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let token = token.map(|token| format!("Authorization: Token {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\n{token}Content-Type: application/json\r\n");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, body.to_owned()))
    }

    /// Returns the series that InfluxQL selects: `{"tags": {…}, "columns": […], "values": [[…]]}`
    /// each.
    pub(crate) async fn select(&self, query: &str) -> Vec<Json> {
        let mut path = "/query?db=iot&epoch=ns&q=".to_owned();
        query.bytes().for_each(|byte| path.push_str(&format!("%{byte:02X}")));
        let (status, body) = self.ask("GET", &path, Some(TOKEN), "").await.unwrap();
        assert_eq!(status, 200, "{body}");
        let answer: Json = serde_json::from_str(&body).unwrap();
        assert!(answer["results"][0].get("error").is_none(), "{answer}");
        answer["results"][0]["series"].as_array().cloned().unwrap_or_default()
    }

    /// Returns field names and their types.
    pub(crate) async fn fields(&self) -> Vec<(String, String)> {
        let series = self.select("SHOW FIELD KEYS FROM telemetry").await;
        let text = |value: &Json| value.as_str().unwrap().to_owned();
        let rows = series.iter().flat_map(|table| table["values"].as_array().unwrap());
        rows.map(|row| (text(&row[0]), text(&row[1]))).collect()
    }

    /// Creates another bucket.
    pub(crate) async fn bucket(&self, name: &str) {
        let (_, orgs) = self.ask("GET", "/api/v2/orgs", Some(TOKEN), "").await.unwrap();
        let orgs: Json = serde_json::from_str(&orgs).unwrap();
        let body = json!({ "orgID": orgs["orgs"][0]["id"], "name": name, "retentionRules": [] }).to_string();
        let (status, body) = self.ask("POST", "/api/v2/buckets", Some(TOKEN), &body).await.unwrap();
        assert_eq!(status, 201, "{body}");
    }

    /// Deletes a bucket by its id.
    pub(crate) async fn delete_bucket(&self, id: &str) {
        let path = format!("/api/v2/buckets/{id}");
        let (status, body) = self.ask("DELETE", &path, Some(TOKEN), "").await.unwrap();
        assert_eq!(status, 204, "{body}");
    }

    /// Creates a token with these permissions only.
    pub(crate) async fn token(&self, actions: &[&str], bucket: &str) -> String {
        let read = async |path: &str| -> Json {
            serde_json::from_str(&self.ask("GET", path, Some(TOKEN), "").await.unwrap().1).unwrap()
        };
        let org = read("/api/v2/orgs").await["orgs"][0]["id"].clone();
        let bucket = read(&format!("/api/v2/buckets?name={bucket}")).await["buckets"][0]["id"].clone();
        let permission =
            |action: &&str| json!({ "action": action, "resource": { "type": "buckets", "id": bucket, "orgID": org } });
        let permissions: Vec<Json> = actions.iter().map(permission).collect();
        let body = json!({ "orgID": org, "permissions": permissions }).to_string();
        let (status, body) = self.ask("POST", "/api/v2/authorizations", Some(TOKEN), &body).await.unwrap();
        assert_eq!(status, 201, "{body}");
        serde_json::from_str::<Json>(&body).unwrap()["token"].as_str().unwrap().to_owned()
    }
}
