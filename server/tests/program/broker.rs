//! `weir sessions`, `weir subscriptions`, `weir retained`, with clients over raw sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::{World, err, wait};

/// An MQTT 5 client that writes packets byte by byte.
struct Client(TcpStream);

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

impl Client {
    /// Connects with a session that lasts for 100 s.
    fn connect(world: &World, id: &str) -> Self {
        let stream = TcpStream::connect(world.address("mqtt")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut client = Self(stream);
        let mut body = b"\0\x04MQTT\x05\0\0\x0A\x05\x11\0\0\0\x64".to_vec();
        body.extend_from_slice(&text(id));
        client.send(0x10, &body);
        assert_eq!(client.packet().0, 0x20);
        client
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        self.0.write_all(&[&[first, body.len() as u8], body].concat()).unwrap();
    }

    /// The next packet of less than 128 bytes: first byte and body.
    fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; head[1].into()];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    fn subscribe(&mut self, filter: &str, options: u8) {
        self.send(0x82, &[&[0, 1, 0][..], &text(filter), &[options]].concat());
        assert_eq!(self.packet().0, 0x90);
    }

    /// Publishes a retained message and waits for its PUBACK.
    fn retain(&mut self, topic: &str, payload: &str) {
        self.send(0x33, &[&text(topic)[..], &[0, 2, 0], payload.as_bytes()].concat());
        assert_eq!(self.packet().0, 0x40);
    }
}

fn json(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fields<'a>(rows: &'a [serde_json::Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[name].as_str().unwrap_or_default()).collect()
}

#[test]
fn sessions_are_listed_shown_and_ended() {
    let world = World::start();
    let mut one = Client::connect(&world, "plant/one");
    one.subscribe("n/#", 1);
    drop(Client::connect(&world, "plant/two"));
    let list = |more: &[&str]| json(&world.answer(&[&["sessions", "list", "--format", "json"], more].concat()));
    wait("one of two is away", || (list(&["--away"]).len() == 1).then_some(()).ok_or_else(|| "no".to_owned()));
    let rows = list(&[]);
    assert_eq!(fields(&rows, "client"), ["plant/one", "plant/two"]);
    assert_eq!(fields(&rows, "state"), ["connected", "away"]);
    assert_eq!((&rows[0]["mqtt"], &rows[0]["subscriptions"]), (&"5.0".into(), &1.into()));
    assert_eq!(rows[0]["address"], one.0.local_addr().unwrap().to_string());
    assert!(rows[0].get("expires").is_none() && rows[1]["expires"].is_string());
    assert_eq!(fields(&list(&["--client", "*two"]), "client"), ["plant/two"]);
    let cut = world.ask(&["sessions", "list", "--limit", "1"]);
    assert!(err(&cut).contains("only the first 1 sessions are shown: use --limit for more"), "{}", err(&cut));
    let shown = json(&world.answer(&["sessions", "show", "plant/one", "--format", "json"]));
    assert_eq!((&shown[0]["keep_alive_secs"], &shown[0]["expiry_secs"]), (&10.into(), &100.into()));
    assert_eq!((&shown[0]["listener"], &shown[0]["clean_start"]), (&"mqtt".into(), &false.into()));
    assert!(world.answer(&["sessions", "show", "plant/one"]).contains("keep_alive_secs  10"));

    let kicked = world.ask(&["sessions", "kick", "plant/one"]);
    assert!(kicked.status.success() && err(&kicked).contains("closed the connection"), "{}", err(&kicked));
    let (first, body) = one.packet();
    assert_eq!((first, body[0]), (0xE0, 0x98));
    assert_eq!(list(&["--connected"]), Vec::<serde_json::Value>::new());
    let again = world.ask(&["sessions", "kick", "plant/one"]);
    assert!(err(&again).contains("is not connected: end its session with --end-session"), "{}", err(&again));
    world.answer(&["sessions", "kick", "plant/one", "--end-session"]);
    assert_eq!(fields(&list(&[]), "client"), ["plant/two"]);
    let gone = world.ask(&["sessions", "show", "plant/one"]);
    assert!(gone.status.code() == Some(1) && err(&gone).contains("does not exist"), "{}", err(&gone));
}

#[test]
fn subscriptions_are_listed_and_found_by_topic() {
    let world = World::start();
    let mut one = Client::connect(&world, "one");
    one.subscribe("n/+/state", 0x0E);
    one.subscribe("$share/g/n/#", 0x21);
    let mut two = Client::connect(&world, "two");
    two.subscribe("m/#", 0);
    let ask = |words: &[&str]| json(&world.answer(&[words, &["--format", "json"]].concat()));
    let rows = ask(&["subscriptions", "list"]);
    assert_eq!(fields(&rows, "filter"), ["$share/g/n/#", "n/+/state", "m/#"]);
    assert_eq!(fields(&rows, "options"), ["no-retained", "no-local retain-as-published", ""]);
    assert_eq!((&rows[1]["qos"], &rows[2]["client"]), (&2.into(), &"two".into()));
    assert_eq!(fields(&ask(&["subscriptions", "list", "--client", "t*"]), "filter"), ["m/#"]);
    assert_eq!(fields(&ask(&["subscriptions", "match", "n/1/state"]), "filter"), ["$share/g/n/#", "n/+/state"]);
    assert_eq!(ask(&["subscriptions", "match", "elsewhere"]), Vec::<serde_json::Value>::new());
    let wrong = world.ask(&["subscriptions", "match", "n/#"]);
    assert!(err(&wrong).contains("wildcard"), "{}", err(&wrong));
}

#[test]
fn retained_messages_are_cleared_for_good() {
    let mut world = World::start();
    let mut client = Client::connect(&world, "one");
    for (topic, payload) in [("t/1", "on"), ("t/2", "off"), ("u", "42")] {
        client.retain(topic, payload);
    }
    let list = |world: &World, filter: &str| json(&world.answer(&["retained", "list", filter, "--format", "json"]));
    let topics = |world: &World, filter: &str| -> Vec<String> {
        fields(&list(world, filter), "topic").into_iter().map(str::to_owned).collect()
    };
    wait("all are kept", || (topics(&world, "#").len() == 3).then_some(()).ok_or_else(|| "no".to_owned()));
    let rows = list(&world, "t/+");
    assert_eq!((fields(&rows, "topic"), &rows[1]["bytes"]), (vec!["t/1", "t/2"], &3.into()));
    assert!(rows[0]["published"].is_string() && rows[0]["qos"] == 1);
    assert!(world.answer(&["retained", "show", "u"]).ends_with("payload       2 bytes\n42\n"));
    client.subscribe("t/1", 0x21);
    let refused = world.ask(&["retained", "clear", "t/#"]);
    assert!(refused.status.code() == Some(1) && err(&refused).contains("--yes"), "{}", err(&refused));
    let cleared = world.ask(&["retained", "clear", "t/#", "--yes"]);
    assert!(cleared.status.success() && err(&cleared).contains("2 retained messages cleared"), "{}", err(&cleared));
    assert_eq!(client.packet(), (0x30, [&text("t/1")[..], &[0]].concat()), "the empty message");
    assert_eq!(topics(&world, "#"), ["u"]);
    // Also after the next start.
    world.signal(Signal::KILL);
    world.ended();
    world.up();
    wait("the others are restored", || {
        (topics(&world, "#") == ["u"]).then_some(()).ok_or_else(|| topics(&world, "#").join(" "))
    });
    world.answer(&["retained", "clear", "u"]);
    assert_eq!(topics(&world, "#"), Vec::<String>::new());
    let gone = world.ask(&["retained", "show", "u"]);
    assert!(err(&gone).contains("does not exist"), "{}", err(&gone));
}
