//! Sessions and messages that three nodes of a fleet share, with unmodified clients.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::paho::{Message, Paho, Session};
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, checked, wait_until};

const WAIT: Duration = Duration::from_secs(30);
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// Three nodes over one Redis and one MongoDB. None when a server is missing.
async fn fleet(test: &str) -> anyhow::Result<Option<(Site, [Weir; 3])>> {
    if skipped(test, &["redis-server", "mongod"])? {
        return Ok(None);
    }
    let site = Site::new(false, &[]).await?;
    let start = |name| site.start(name, "all", "127.0.0.1:0");
    let nodes = [start(NODES[0])?, start(NODES[1])?, start(NODES[2])?];
    Ok(Some((site, nodes)))
}

/// Client and node of the sessions that a process lists.
fn sessions(weir: &Weir) -> anyhow::Result<Vec<(String, String)>> {
    let text = weir.cli(&["sessions", "list", "--format", "json"])?;
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let column = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Ok((column("client"), column("node")))
    };
    text.lines().map(row).collect()
}

/// Waits until every process lists the session of the client once, at this node.
async fn wait_listed(nodes: &[&Weir], client: &str, node: &str) -> anyhow::Result<()> {
    wait_until("every process lists the session", WAIT, || async {
        for weir in nodes {
            let own: Vec<_> = sessions(weir)?.into_iter().filter(|(id, _)| id == client).collect();
            ensure!(own == [(client.to_owned(), node.to_owned())], "{own:?}");
        }
        Ok(())
    })
    .await
}

/// `mosquitto_sub` that waits for `count` messages.
fn mosquitto_sub(weir: &Weir, id: &str, arguments: &[&str], count: usize) -> anyhow::Result<Child> {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &weir.mqtt.port().to_string(), "-i", id, "-C", &count.to_string()]);
    command.args(["-W", "30", "-F", "%q %p"]).args(arguments);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn mosquitto_pub(weir: &Weir, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &weir.mqtt.port().to_string()]).args(arguments);
    checked("mosquitto_pub", command.output()?).map(drop)
}

/// A session that lasts, with a will message.
fn with<'a>(will: (&'a str, &'a str, u32)) -> Session<'a> {
    Session { will: Some(will), ..Session::LASTING }
}

/// A subscriber of all will messages at a node, known at the others.
fn watcher(node: &Weir, others: &[&Weir]) -> anyhow::Result<Paho> {
    let mut watcher = Paho::new("watcher", "5")?;
    watcher.connect(node.mqtt, Session::CLEAN)?;
    watcher.subscribe("wills/#", 1)?;
    watcher.wait_routed(others)?;
    Ok(watcher)
}

/// Payloads by QoS of the delivery. Messages of one topic, sender and QoS have an order.
fn by_qos(messages: impl IntoIterator<Item = (u8, String)>) -> BTreeMap<u8, Vec<String>> {
    let mut found: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    messages.into_iter().for_each(|(qos, payload)| found.entry(qos).or_default().push(payload));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_at_one_node_reaches_subscribers_at_all() -> anyhow::Result<()> {
    let Some((site, [a, b, c])) = fleet("a_message_at_one_node").await? else { return Ok(()) };
    const COUNT: usize = 30;
    for (topic, about) in [("plant/1/orders", "a command"), ("devices/d1/telemetry", "telemetry")] {
        let mut mosquitto = Vec::new();
        for (node, version) in [(&b, "mqttv5"), (&c, "mqttv311")] {
            let id = format!("{}-{version}", &topic[..5]);
            mosquitto.push(mosquitto_sub(node, &id, &["-V", version, "-q", "2", "-t", topic], COUNT)?);
            wait_until("mosquitto_sub has subscribed", WAIT, || async {
                let listed = node.cli(&["subscriptions", "list", "--client", &id, "--format", "json"])?;
                ensure!(listed.contains(topic), "{listed}");
                Ok(())
            })
            .await?;
        }
        let mut subscribers = Vec::new();
        for (place, node) in [&a, &b, &c].into_iter().enumerate() {
            for (version, session) in
                [("5", Session::LASTING), ("3.1.1", Session::LASTING), ("5", Session::CLEAN), ("3.1.1", Session::CLEAN)]
            {
                let qos = subscribers.len() as u8 % 3;
                let id = format!("{}-{place}-{version}-{}", &topic[..5], session.clean);
                let mut paho = Paho::new(&id, version)?;
                ensure!(!paho.connect(node.mqtt, session)?, "{id} is new");
                paho.subscribe(topic, qos)?;
                paho.wait_routed(&[&a, &c])?;
                subscribers.push((id, qos, paho));
            }
        }
        let sent: Vec<(u8, String)> = (0..COUNT).map(|n| ((n % 3) as u8, format!("{{\"n\":{n}}}"))).collect();
        let mut publisher = Paho::new(&format!("{}-publisher", &topic[..5]), "5")?;
        publisher.connect(a.mqtt, Session::CLEAN)?;
        for (qos, payload) in &sent {
            publisher.publish(topic, payload, *qos, false)?;
        }
        for (id, granted, paho) in &mut subscribers {
            let got = (0..COUNT).map(|_| paho.message().map(|message| (message.qos, message.payload)));
            let got = got.collect::<anyhow::Result<Vec<_>>>().with_context(|| site.logs_of(&NODES))?;
            let due = sent.iter().map(|(qos, payload)| (*qos.min(granted), payload.clone()));
            // At QoS 1 messages of QoS 1 and 2 come together.
            let sorted = |mut all: BTreeMap<u8, Vec<String>>| {
                all.values_mut().filter(|_| *granted < 2).for_each(|payloads| payloads.sort());
                all
            };
            let (got, due) = (sorted(by_qos(got)), sorted(by_qos(due)));
            ensure!(got == due, "{about}: {id} has {got:?}");
        }
        for child in mosquitto {
            let got = checked("mosquitto_sub", child.wait_with_output()?)?;
            let got = got.lines().map(|line| line.split_once(' ').context("QoS and payload"));
            let got = got.map(|line| line.and_then(|(qos, payload)| Ok((qos.parse()?, payload.to_owned()))));
            let got = by_qos(got.collect::<anyhow::Result<Vec<_>>>()?);
            ensure!(got == by_qos(sent.clone()), "{about}: mosquitto_sub has {got:?}");
        }
        // None comes twice: the next message is this one.
        mosquitto_pub(&c, &["-t", topic, "-q", "2", "-m", "{\"n\":-1}"])?;
        for (id, granted, paho) in &mut subscribers {
            let Message { payload, qos, .. } = paho.message()?;
            ensure!((&*payload, qos) == ("{\"n\":-1}", *granted), "{about}: {id} has {payload} at QoS {qos}");
        }
    }
    [a, b, c].into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_all_nodes_gets_each_message_once() -> anyhow::Result<()> {
    let Some((site, [a, b, c])) = fleet("a_group_over_all_nodes").await? else { return Ok(()) };
    let mut members = Vec::new();
    for (node, version, session) in
        [(&a, "5", Session::CLEAN), (&b, "5", Session::LASTING), (&c, "3.1.1", Session::LASTING)]
    {
        let mut member = Paho::new(&format!("member-{}", members.len()), version)?;
        member.connect(node.mqtt, session)?;
        member.subscribe("$share/workers/jobs/#", 2)?;
        member.wait_routed(&[&a, &b, &c])?;
        members.push(member);
    }
    let mut sent = Vec::new();
    let mut send = |node: &Weir, id: &str, count: usize| -> anyhow::Result<Vec<String>> {
        let mut publisher = Paho::new(id, "5")?;
        publisher.connect(node.mqtt, Session::CLEAN)?;
        for n in 0..count {
            let payload = format!("{id} {n}");
            publisher.publish("jobs/1", &payload, 1 + (n % 2) as u8, false)?;
            sent.push(payload);
        }
        sent.sort();
        Ok(sent.clone())
    };
    let mut got = vec![Vec::new(); 3];
    let mut gather = async |members: &mut [Paho], all: &[String]| -> anyhow::Result<Vec<usize>> {
        let begun = std::time::Instant::now();
        loop {
            for (member, got) in members.iter_mut().zip(&mut got) {
                got.extend(member.messages()?.into_iter().map(|message| message.payload));
            }
            let mut found = got.concat();
            found.sort();
            if found == all {
                return Ok(got.iter().map(Vec::len).collect());
            }
            ensure!(begun.elapsed() < WAIT, "{found:?} of {all:?}\n{}", site.logs_of(&NODES));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    send(&a, "first", 100)?;
    let counts = gather(&mut members, &send(&b, "second", 100)?).await?;
    println!("members have got {counts:?}");
    ensure!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // Without two of its members, all goes to the third.
    members[0].disconnect()?;
    members[2].disconnect()?;
    let more = gather(&mut members, &send(&c, "third", 30)?).await?;
    ensure!(more == [counts[0], counts[1] + 30, counts[2]], "{counts:?}, then {more:?}");
    // Without a member, messages wait for the first that connects, wherever.
    members[1].disconnect()?;
    let all = send(&a, "fourth", 30)?;
    members[2].connect(b.mqtt, Session::LASTING)?;
    let last = gather(&mut members, &all).await?;
    println!("without a member: {more:?}, then {last:?}");
    [a, b, c].into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lasts_follows_its_client_from_node_to_node() -> anyhow::Result<()> {
    let Some((site, [a, b, c])) = fleet("a_session_that_lasts").await? else { return Ok(()) };
    let a_mqtt = a.mqtt;
    let mut clients = Vec::new();
    for (version, qos) in [("5", 1), ("5", 2), ("3.1.1", 1), ("3.1.1", 2)] {
        let id = format!("sub-{version}-{qos}");
        let mut paho = Paho::new(&id, version)?;
        paho.connect(a.mqtt, Session::LASTING)?;
        paho.subscribe("orders/#", qos)?;
        paho.wait_routed(&[&c])?;
        clients.push((id, paho));
    }
    let mut publisher = Paho::new("publisher", "5")?;
    publisher.connect(c.mqtt, Session::CLEAN)?;
    let mut publish = |numbers: std::ops::Range<u32>| {
        numbers.clone().try_for_each(|n| publisher.publish("orders/1", &n.to_string(), 2, false))?;
        anyhow::Ok(numbers.map(|n| n.to_string()).collect::<Vec<_>>())
    };
    let expect = |clients: &mut [(String, Paho)], due: &[String]| -> anyhow::Result<()> {
        for (id, paho) in clients {
            let last = due.last().context("some are due")?;
            let got = paho.messages_to(last).with_context(|| format!("{id}\n{}", site.logs_of(&NODES)))?;
            ensure!(got == due, "{id} has {got:?}");
        }
        Ok(())
    };
    expect(&mut clients, &publish(0..10)?)?;
    for (id, _) in &clients {
        wait_listed(&[&a, &b, &c], id, NODES[0]).await?;
    }

    a.kill()?;
    clients.iter_mut().try_for_each(|(_, paho)| paho.closed().map(drop))?;
    let due = publish(10..60)?;
    for (id, paho) in &mut clients {
        ensure!(paho.connect(b.mqtt, Session::LASTING)?, "{id} finds its session at another node");
    }
    expect(&mut clients, &due)?;
    for (id, _) in &clients {
        wait_listed(&[&b, &c], id, NODES[1]).await?;
    }
    expect(&mut clients, &publish(60..70)?)?;

    let a = site.start(NODES[0], "all", &a_mqtt.to_string())?;
    clients.iter_mut().try_for_each(|(_, paho)| paho.disconnect())?;
    let due = publish(70..80)?;
    for (id, paho) in &mut clients {
        ensure!(paho.connect(a.mqtt, Session::LASTING)?, "{id} finds its session where it was before");
    }
    expect(&mut clients, &due)?;
    for (id, _) in &clients {
        wait_listed(&[&a, &b, &c], id, NODES[0]).await?;
    }
    expect(&mut clients, &publish(80..90)?)?;
    [a, b, c].into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_to_another_node_takes_its_session_over() -> anyhow::Result<()> {
    let Some((_site, [a, b, c])) = fleet("a_client_that_connects_to_another_node").await? else { return Ok(()) };
    let mut watcher = watcher(&c, &[&a, &b])?;
    let mut publisher = Paho::new("publisher", "5")?;
    publisher.connect(c.mqtt, Session::CLEAN)?;
    for (version, delay, reason) in [("5", 0, 0x8E), ("5", 100, 0x8E), ("3.1.1", 0, 0)] {
        let id = format!("twin-{version}-{delay}");
        let topic = format!("wills/{id}");
        let will = (&*topic, "gone", delay);
        let (mut old, mut new) = (Paho::new(&id, version)?, Paho::new(&id, version)?);
        old.connect(a.mqtt, with(will))?;
        old.subscribe(&format!("to/{id}"), 2)?;
        old.wait_routed(&[&c])?;
        ensure!(new.connect(b.mqtt, with(will))?, "{id}: the session goes on");
        let closed = old.closed()?;
        // A 3.1.1 client knows no more than that its connection is closed.
        ensure!(closed == reason || reason == 0, "{id}: closed with {closed:#x}");
        wait_listed(&[&a, &b, &c], &id, NODES[1]).await?;
        publisher.publish(&format!("to/{id}"), "for the new one", 2, false)?;
        ensure!(new.message()?.payload == "for the new one");
        ensure!(old.messages()?.is_empty(), "{id}: the old connection gets nothing more");
        // The connection that was taken over did not end in order.
        if delay == 0 {
            let Message { topic, payload, .. } = watcher.message()?;
            ensure!((&*topic, &*payload) == (&*format!("wills/{id}"), "gone"), "{topic} {payload}");
        }
        new.disconnect()?;
        publisher.publish("wills/none", &id, 1, false)?;
        let next = watcher.message()?;
        ensure!(next.payload == id, "{id} was back in time, or has left in order: {next:?}");
    }
    // A clean start ends the session at the other node, and its delayed will message is due.
    let (mut old, mut new) = (Paho::new("anew", "5")?, Paho::new("anew", "5")?);
    old.connect(a.mqtt, with(("wills/anew", "ended", 100)))?;
    old.subscribe("to/anew", 1)?;
    ensure!(!new.connect(b.mqtt, Session { clean: true, ..Session::LASTING })?, "no session after a clean start");
    ensure!(old.closed()? == 0x8E);
    ensure!(watcher.message()?.payload == "ended");
    publisher.publish("to/anew", "for no one", 1, false)?;
    new.subscribe("to/anew", 1)?;
    new.wait_routed(&[&c])?;
    publisher.publish("to/anew", "for the new session", 1, false)?;
    ensure!(new.messages_to("for the new session")?.len() == 1);
    [a, b, c].into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_killed_node_is_sent_by_another_before_what_its_client_sends_next() -> anyhow::Result<()> {
    let Some((site, [a, b, c])) = fleet("the_will_of_a_killed_node").await? else { return Ok(()) };
    let mut watcher = watcher(&c, &[&a, &b])?;
    let device = |id: &str, delay: u32| -> anyhow::Result<Paho> {
        let mut paho = Paho::new(id, "5")?;
        paho.connect(a.mqtt, with((&format!("wills/{id}"), "gone", delay)))?;
        Ok(paho)
    };
    let (back, late, away) = (device("back", 0)?, device("late", 100)?, device("away", 1)?);
    a.kill()?;
    // Before the others take the node for dead.
    let mut back_again = Paho::new("back", "5")?;
    ensure!(back_again.connect(b.mqtt, Session::LASTING)?, "its session goes on");
    back_again.publish("wills/back", "here", 1, false)?;
    let mut late_again = Paho::new("late", "5")?;
    ensure!(late_again.connect(c.mqtt, Session::LASTING)?, "its session goes on");
    let seen = [watcher.message()?, watcher.message()?].map(|message| (message.topic, message.payload));
    let seen: Vec<_> = seen.iter().map(|(topic, payload)| (&**topic, &**payload)).collect();
    ensure!(seen == [("wills/back", "gone"), ("wills/back", "here")], "{seen:?}");
    // When they do, that of a client that is not back.
    ensure!(watcher.message()?.topic == "wills/away");
    // Its next start has nothing to send.
    let a = site.start(NODES[0], "all", "127.0.0.1:0")?;
    back_again.publish("wills/end", "", 1, false)?;
    ensure!(watcher.message()?.topic == "wills/end");
    drop((back, late, away));
    [a, b, c].into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_is_there_for_new_subscribers_at_every_node() -> anyhow::Result<()> {
    let Some((site, [a, b, c])) = fleet("a_retained_message_is_there").await? else { return Ok(()) };
    let mut number = 0;
    let mut retained = |node: &Weir| -> anyhow::Result<Vec<Message>> {
        number += 1;
        let mut paho = Paho::new(&format!("new-{number}"), "5")?;
        paho.connect(node.mqtt, Session::CLEAN)?;
        paho.subscribe("state/#", 1)?;
        // All retained messages come before it.
        paho.subscribe("$SYS/broker/version", 0)?;
        let mut found = Vec::new();
        loop {
            match paho.message()? {
                message if message.topic.starts_with("$SYS/") => return Ok(found),
                message => found.push(message),
            }
        }
    };
    mosquitto_pub(&a, &["-t", "state/1", "-q", "1", "-r", "-m", "on"])?;
    wait_retained(&[&a, &b, &c], &[("state/1", "on")], &mut retained).await?;
    mosquitto_pub(&b, &["-V", "mqttv5", "-t", "state/1", "-q", "1", "-r", "-m", "off"])?;
    mosquitto_pub(&c, &["-t", "state/2", "-q", "2", "-r", "-m", "idle"])?;
    wait_retained(&[&a, &b, &c], &[("state/1", "off"), ("state/2", "idle")], &mut retained).await?;
    mosquitto_pub(&c, &["-t", "state/1", "-q", "1", "-r", "-n"])?;
    wait_retained(&[&a, &b, &c], &[("state/2", "idle")], &mut retained).await?;
    // A node that starts later, and one that was away meanwhile.
    let d = site.start("node-d", "all", "127.0.0.1:0")?;
    b.kill()?;
    mosquitto_pub(&a, &["-t", "state/3", "-q", "1", "-r", "-m", "new"])?;
    mosquitto_pub(&a, &["-t", "state/2", "-q", "1", "-r", "-n"])?;
    let b = site.start(NODES[1], "all", "127.0.0.1:0")?;
    wait_retained(&[&d, &b, &a], &[("state/3", "new")], &mut retained).await?;
    [a, b, c, d].into_iter().try_for_each(Weir::stop)
}

/// Waits until a new subscriber at each node gets these retained messages.
async fn wait_retained(
    nodes: &[&Weir],
    due: &[(&str, &str)],
    retained: &mut impl FnMut(&Weir) -> anyhow::Result<Vec<Message>>,
) -> anyhow::Result<()> {
    let kept = |(topic, payload): &(&str, &str)| {
        let (topic, payload) = ((*topic).to_owned(), (*payload).to_owned());
        Message { topic, payload, qos: 1, retain: true }
    };
    let due: Vec<Message> = due.iter().map(kept).collect();
    for node in nodes {
        let begun = std::time::Instant::now();
        wait_until("the node has the retained messages", WAIT, || {
            let (found, due) = (retained(node), &due);
            async move {
                let mut found = found?;
                found.sort_by(|x, y| x.topic.cmp(&y.topic));
                ensure!(found == *due, "{found:?}");
                Ok(())
            }
        })
        .await?;
        println!("retained messages after {:?}", begun.elapsed());
    }
    Ok(())
}
