//! Listeners with settings of their own: WebSocket, Unix sockets, load balancers, sockets that are
//! passed on; with unmodified clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use weir_e2e::services::{free_address, skipped};
use weir_e2e::{Weir, checked, node_folder, program, python, read, wait_until};

const COUNT: usize = 30;
const BOUND: Duration = Duration::from_secs(30);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Weir with more listeners.
struct Site {
    weir: Weir,
    listeners: Value,
}

impl Site {
    fn start(dir: &Path, text: &str) -> anyhow::Result<Self> {
        let config = dir.join("weir.toml");
        std::fs::write(&config, text)?;
        let config = config.to_str().context("a path in UTF-8")?;
        let weir = Weir::start_with(dir, "127.0.0.1:0", &[("WEIR_CONFIG", config)])?;
        let addresses: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("data/addresses.json"))?)?;
        Ok(Self { weir, listeners: addresses["listeners"].clone() })
    }

    fn port(&self, name: &str) -> anyhow::Result<u16> {
        let address: SocketAddr = self.listeners[name].as_str().context("a listener")?.parse()?;
        Ok(address.port())
    }

    /// Waits until a device has this many readings.
    async fn assert_stored(&self, device: &str, count: usize) -> anyhow::Result<()> {
        let channel = self.weir.channel().await?;
        wait_until("every reading is there", BOUND, async || {
            let found = read::all_readings(&channel, device).await?.len();
            ensure!(found == count, "{device} has {found} readings");
            Ok(())
        })
        .await
    }
}

fn listener(name: &str, keys: &str) -> String {
    format!("[[mqtt.listener]]\nname = {name:?}\naddress = \"127.0.0.1:0\"\n{keys}\n")
}

/// Keys of `[tls]` with a new certificate in `dir/tls`.
fn certificate(dir: &Path) -> anyhow::Result<String> {
    checked("weir tls create", Command::new(program("weir")?).current_dir(dir).args(["tls", "create"]).output()?)?;
    let (certificate, key) = (dir.join("tls/server.pem"), dir.join("tls/server.key"));
    Ok(format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_js_and_paho_publish_and_subscribe_over_ws_and_wss() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let tls = certificate(dir.path())?;
    let ca = dir.path().join("tls/ca.pem");
    let text = tls + &listener("ws", "websocket = true") + &listener("wss", "websocket = true\ntls = true");
    // gRPC is encrypted as well: readings are counted by the process.
    let site = Site::start(dir.path(), &text)?;
    for version in ["3.1.1", "5"] {
        for scheme in ["ws", "wss"] {
            let port = site.port(scheme)?.to_string();
            let mut node = Command::new("node");
            node.env("NODE_PATH", node_folder()?.join("node_modules")).env("NODE_EXTRA_CA_CERTS", &ca);
            node.arg(script("mqttjs.js")).args(["localhost", &port, version, &COUNT.to_string(), scheme]);
            checked("mqttjs.js", node.output()?)?;
            let mut paho = Command::new(python()?);
            paho.arg(script("eclipse_paho.py")).args(["localhost", &port, version, &COUNT.to_string(), "websockets"]);
            if scheme == "wss" {
                paho.arg(&ca);
            }
            checked("eclipse_paho.py", paho.output()?)?;
        }
    }
    let server = format!("https://localhost:{}", site.weir.grpc.port());
    let mut latest = Command::new(program("weir")?);
    latest.args(["latest", "mqttjs-wss-5", "--server", &server, "--ca"]).arg(&ca);
    let latest = checked("weir latest", latest.output()?)?;
    ensure!(latest.contains("temperature"), "{latest}");
    let mut status = Command::new(program("weir")?);
    status.args(["status", "--format", "json", "--server", &server, "--ca"]).arg(&ca);
    let status: Value = serde_json::from_str(&checked("weir status", status.output()?)?)?;
    let names: Vec<_> = (0..3).map(|n| status["listeners"][n]["protocol"].clone()).collect();
    ensure!(names == ["mqtt", "ws", "wss"], "{status}");
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_publishes_over_a_unix_socket_which_goes_with_the_process() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weir.sock");
    let text = format!("[[mqtt.listener]]\nname = \"local\"\naddress = \"unix:{}\"\n", path.display());
    let site = Site::start(dir.path(), &text)?;
    let socket = path.to_str().context("a path in UTF-8")?;
    for n in 0..3 {
        let message = format!(r#"{{"n":{n}}}"#);
        let arguments = ["--unix", socket, "-q", "1", "-t", "devices/local/telemetry", "-m", &message];
        checked("mosquitto_pub", Command::new("mosquitto_pub").args(arguments).output()?)?;
    }
    site.assert_stored("local", 3).await?;
    let status = site.weir.cli(&["status"])?;
    ensure!(status.contains("local") && status.contains(&format!("unix:{socket}")), "{status}");
    let metrics = site.weir.get("/metrics")?;
    ensure!(metrics.contains("weir_broker_listener_connects_total{listener=\"local\"} 3"), "{metrics}");
    site.weir.stop()?;
    ensure!(!path.exists());
    // What a kill leaves is replaced at the next start.
    let site = Site::start(dir.path(), &text)?;
    site.weir.kill()?;
    ensure!(path.exists());
    let site = Site::start(dir.path(), &text)?;
    UnixStream::connect(&path)?;
    site.weir.stop()
}

/// A program that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(free_address()?.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_through_haproxy_with_headers_of_both_versions() -> anyhow::Result<()> {
    if skipped("clients through haproxy", &["haproxy"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let tls = certificate(dir.path())?;
    let ca = dir.path().join("tls/ca.pem");
    let proxied = "proxy_protocol = true\ntrusted = [\"127.0.0.1\"]";
    let keys = format!("{proxied}\nallowed = [\"127.0.0.9\"]");
    let text = tls
        + &listener("behind", &keys)
        + &listener("behind-tls", &format!("{keys}\ntls = true"))
        + &listener("behind-wss", &format!("{proxied}\ntls = true\nwebsocket = true"));
    let site = Site::start(dir.path(), &text)?;
    let fronts = [
        ("behind", "send-proxy", free_port()?),
        ("behind", "send-proxy-v2", free_port()?),
        ("behind-tls", "send-proxy-v2", free_port()?),
        ("behind-wss", "send-proxy", free_port()?),
    ];
    let mut config =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n".to_owned();
    for (n, (name, header, port)) in fronts.iter().enumerate() {
        config +=
            &format!("listen l{n}\n  bind 127.0.0.1:{port}\n  server w 127.0.0.1:{} {header}\n", site.port(name)?);
    }
    std::fs::write(dir.path().join("haproxy.cfg"), config)?;
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-f"]).arg(dir.path().join("haproxy.cfg")).stdout(Stdio::null()).stderr(Stdio::null());
    let _haproxy = Running(haproxy.spawn()?);
    for (_, _, port) in &fronts {
        let connect = || TcpStream::connect(("127.0.0.1", *port));
        wait_until("haproxy listens", BOUND, async || connect().map(drop).map_err(Into::into)).await?;
    }
    let publish = |(name, _, port): &(&str, &str, u16), from: &str| {
        let port = port.to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-A", from, "-q", "1"]);
        command.args(["-t", "devices/p/telemetry", "-m", "{\"n\":1}"]);
        if *name == "behind-tls" {
            command.arg("--cafile").arg(&ca);
        }
        command.output()
    };
    for front in &fronts[..3] {
        checked("mosquitto_pub", publish(front, "127.0.0.9")?)?;
        // The address in the header is the one that counts.
        ensure!(!publish(front, "127.0.0.8")?.status.success(), "{front:?}");
    }
    let mut node = Command::new("node");
    node.env("NODE_PATH", node_folder()?.join("node_modules")).env("NODE_EXTRA_CA_CERTS", &ca);
    node.arg(script("mqttjs.js")).args(["localhost", &fronts[3].2.to_string(), "5", "3", "wss"]);
    checked("mqttjs.js", node.output()?)?;
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_chromium_publishes_and_subscribes_and_one_of_another_origin_does_not() -> anyhow::Result<()> {
    if skipped("a page in chromium", &["chromium"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (pages, outcomes) = serve_page()?;
    let origin = format!("http://127.0.0.1:{}", pages.port());
    let site = Site::start(dir.path(), &listener("pages", &format!("websocket = true\norigins = [{origin:?}]")))?;
    let broker = format!("ws://127.0.0.1:{}/mqtt", site.port("pages")?);
    for (host, wanted) in [("127.0.0.1", "all seen"), ("localhost", "closed")] {
        let mut chromium = Command::new("chromium");
        chromium.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        chromium.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
        chromium.arg("--remote-debugging-port=0");
        chromium.arg(format!("http://{host}:{}/?broker={broker}", pages.port()));
        let _chromium = Running(chromium.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let outcome = outcomes.recv_timeout(Duration::from_secs(60)).context("the page reports")?;
        ensure!(outcome == wanted, "{host}: {outcome}");
    }
    site.assert_stored("browser", 10).await?;
    site.weir.stop()
}

/// Serves the page and MQTT.js to a browser. Returns its address, and what the pages report.
fn serve_page() -> anyhow::Result<(SocketAddr, mpsc::Receiver<String>)> {
    let page = std::fs::read(script("browser.html"))?;
    let library = std::fs::read(node_folder()?.join("node_modules/mqtt/dist/mqtt.min.js"))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (sender, outcomes) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut request = String::new();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                if request.is_empty() {
                    request.clone_from(&line);
                }
                line.clear();
            }
            let target = request.split(' ').nth(1).unwrap_or_default();
            let (kind, body) = match target {
                "/mqtt.min.js" => ("text/javascript", &library[..]),
                _ if target.starts_with("/?") => ("text/html", &page[..]),
                _ => ("text/plain", &b""[..]),
            };
            if let Some(outcome) = target.strip_prefix("/done?") {
                sender.send(outcome.replace("%20", " ")).ok();
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            (&stream).write_all(&[head.as_bytes(), body].concat()).ok();
        }
    });
    Ok((address, outcomes))
}

#[test]
fn sockets_that_systemd_passes_on_are_used_by_their_names() -> anyhow::Result<()> {
    if skipped("sockets of systemd", &["systemd-socket-activate"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (port, path) = (free_port()?, dir.path().join("passed.sock"));
    let config = dir.path().join("weir.toml");
    std::fs::write(
        &config,
        "[mqtt]\naddress = \"127.0.0.1:0\"\n[grpc]\naddress = \"127.0.0.1:0\"\n[http]\naddress = \"127.0.0.1:0\"\n\
         [[mqtt.listener]]\nname = \"plant\"\naddress = \"systemd:plant\"\nwebsocket = true\n\
         [[mqtt.listener]]\nname = \"local\"\naddress = \"systemd:local\"\n",
    )?;
    let log = std::fs::File::create(dir.path().join("weir.log"))?;
    let mut activate = Command::new("systemd-socket-activate");
    activate.args(["--fdname=local:plant", "-l"]).arg(&path).arg(format!("--listen=127.0.0.1:{port}"));
    activate
        .arg(program("weir")?)
        .args(["run", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(dir.path().join("data"));
    let activate = activate.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let _weir = Running(activate);
    // The first connection starts the program, and waits for it.
    let begun = std::time::Instant::now();
    let mut client = loop {
        match UnixStream::connect(&path) {
            Ok(client) => break client,
            Err(error) => ensure!(begun.elapsed() < BOUND, "{error}"),
        }
        std::thread::yield_now();
    };
    client.set_read_timeout(Some(BOUND))?;
    client.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01u")?;
    let mut answer = [0; 4];
    let read = client.read_exact(&mut answer);
    let log = std::fs::read_to_string(dir.path().join("weir.log"))?;
    read.context(log)?;
    ensure!(answer == [0x20, 2, 0, 0], "{answer:?}");
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(BOUND))?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("/mqtt"), "{answer}");
    Ok(())
}

#[test]
fn a_socket_that_is_not_passed_on_and_one_in_the_open_are_refused_at_the_start() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let run = |text: &str| -> anyhow::Result<String> {
        let config = dir.path().join("weir.toml");
        std::fs::write(&config, text)?;
        let mut weir = Command::new(program("weir")?);
        weir.args(["run", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config"]);
        weir.arg(&config).arg("--data-dir").arg(dir.path().join("data"));
        let output = weir.output()?;
        ensure!(!output.status.success());
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let error = run("[[mqtt.listener]]\nname = \"plant\"\naddress = \"systemd:plant\"\n")?;
    ensure!(error.contains("[[mqtt.listener]] plant") && error.contains("FileDescriptorName=plant"), "{error}");
    let error = run("[[mqtt.listener]]\nname = \"open\"\naddress = \"0.0.0.0:0\"\nwebsocket = true\n")?;
    ensure!(error.contains("[[mqtt.listener]] open") && error.contains("tls = true"), "{error}");
    let mut doctor = Command::new(program("weir")?);
    let text =
        format!("[[mqtt.listener]]\nname = \"local\"\naddress = \"unix:{}/none/w.sock\"\n", dir.path().display());
    std::fs::write(dir.path().join("weir.toml"), text)?;
    doctor
        .args(["doctor", "--config"])
        .arg(dir.path().join("weir.toml"))
        .arg("--data-dir")
        .arg(dir.path().join("data"));
    let output = doctor.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("[[mqtt.listener]] local") && text.contains("create "), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_has_a_certificate_of_its_own_which_is_read_again() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let shared = certificate(dir.path())?;
    let plant = dir.path().join("plant");
    let create = || {
        let mut create = Command::new(program("weir")?);
        create.args(["tls", "create", "--dir"]).arg(&plant);
        checked("weir tls create", create.output()?)
    };
    create()?;
    let (certificate, key) = (plant.join("server.pem"), plant.join("server.key"));
    let own = format!("tls = true\ntls_certificate = {certificate:?}\ntls_key = {key:?}");
    let text = shared + &listener("office", "tls = true") + &listener("plant", &own);
    let site = Site::start(dir.path(), &text)?;
    let publish = |name: &str, ca: &Path| {
        let mut publish = Command::new("mosquitto_pub");
        publish.args(["-h", "localhost", "-p", &site.port(name)?.to_string(), "--cafile"]).arg(ca);
        publish.args(["-q", "1", "-t", &format!("devices/{name}/telemetry"), "-m", "{\"n\":1}"]);
        Ok::<_, anyhow::Error>(publish.output()?.status.success())
    };
    let (of_all, of_plant) = (dir.path().join("tls/ca.pem"), plant.join("ca.pem"));
    for (name, ca, is_trusted) in
        [("office", &of_all, true), ("plant", &of_plant, true), ("office", &of_plant, false), ("plant", &of_all, false)]
    {
        ensure!(publish(name, ca)? == is_trusted, "{name} with {}", ca.display());
    }
    // Doctor checks the files of both.
    let doctor =
        Command::new(program("weir")?).args(["doctor", "--config"]).arg(dir.path().join("weir.toml")).output()?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.contains("(tls.certificate)") && doctor.contains("plant.tls_certificate"), "{doctor}");
    // A new authority signs a new certificate: the old one is no longer accepted.
    for file in ["ca.pem", "ca.key", "server.pem", "server.key"] {
        std::fs::rename(plant.join(file), plant.join(format!("old-{file}")))?;
    }
    create()?;
    site.weir.hang_up()?;
    wait_until("the new certificate is in use", BOUND, async || {
        ensure!(publish("plant", &of_plant)?, "not yet");
        Ok(())
    })
    .await?;
    ensure!(!publish("plant", &plant.join("old-ca.pem"))?, "the old authority");
    ensure!(publish("office", &of_all)?, "the other listener has its own");
    site.weir.stop()
}
