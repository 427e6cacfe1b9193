//! Unmodified third-party clients: messages are acknowledged, delivered to subscribers, and can be
//! queried.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use weir_e2e::{Weir, checked, java_folder, node_folder, python, read, wait_until};

const COUNT: usize = 30;

fn script(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Asserts that all messages are stored, including those at QoS 0, which are not lost in a quiet
/// test.
async fn assert_stored(weir: &Weir, device: &str, count: usize) -> anyhow::Result<()> {
    let channel = weir.channel().await?;
    wait_until("every reading is there", Duration::from_secs(10), async || {
        let mut found: Vec<i64> =
            read::all_readings(&channel, device).await?.iter().map(|r| r.int("n")).collect::<anyhow::Result<_>>()?;
        found.sort_unstable();
        let wanted: Vec<i64> = (0..i64::try_from(count)?).collect();
        ensure!(found == wanted, "{device} has {found:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_clients_publish_and_subscribe_in_both_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let port = weir.mqtt.port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        let topic = format!("devices/{version}/telemetry");
        for n in 0..6 {
            let (qos, message) = ((n % 3).to_string(), format!(r#"{{"n":{n}}}"#));
            let arguments = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", &topic, "-q", &qos, "-m", &message];
            checked("mosquitto_pub", Command::new("mosquitto_pub").args(arguments).output()?)?;
        }
        assert_stored(&weir, version, 6).await?;
        // A later subscriber receives the retained message.
        let state = format!("state/{version}");
        let retain = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", &state, "-q", "2", "-r", "-m", "on"];
        checked("mosquitto_pub", Command::new("mosquitto_pub").args(retain).output()?)?;
        let subscribe = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-t", "state/+", "-C", "1", "-W", "10"];
        let at_qos_2 = ["-q", "2", "-F", "%q %p"];
        let seen = checked("mosquitto_sub", Command::new("mosquitto_sub").args(subscribe).args(at_qos_2).output()?)?;
        ensure!(seen.trim() == "2 on", "mosquitto_sub printed {seen:?}");
    }
    weir.stop()
}

/// Runs a client for each version, with HOST PORT VERSION COUNT as its last arguments: it publishes
/// at every QoS, is acknowledged, gets what it subscribed to once and at its QoS, and prints the
/// name of its device. Asserts that all is stored.
async fn exchange(
    client: &str,
    versions: &[&str],
    command: impl Fn() -> anyhow::Result<Command>,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    for version in versions {
        let mut command = command()?;
        command.args(["127.0.0.1", &weir.mqtt.port().to_string(), version, &COUNT.to_string()]);
        let device = checked(&format!("{client} {version}"), command.output()?)?;
        assert_stored(&weir, device.trim(), COUNT).await?;
    }
    weir.stop()
}

/// A script, after its interpreter.
fn scripted(interpreter: impl AsRef<std::ffi::OsStr>, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script(name));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_paho_publishes_and_subscribes_in_all_versions() -> anyhow::Result<()> {
    exchange("eclipse_paho.py", &["3.1", "3.1.1", "5"], || Ok(scripted(python()?, "eclipse_paho.py"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn aiomqtt_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    exchange("aiomqtt_client.py", &["3.1.1", "5"], || Ok(scripted(python()?, "aiomqtt_client.py"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_js_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    let modules = node_folder()?.join("node_modules");
    exchange("mqttjs.js", &["3.1.1", "5"], || {
        let mut node = scripted("node", "mqttjs.js");
        node.env("NODE_PATH", &modules);
        Ok(node)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_paho_c_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("paho-c");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(script("paho_c.c")).arg("-lpaho-mqtt3c");
    checked("cc", cc.output()?)?;
    exchange("paho_c.c", &["3.1.1", "5"], || Ok(Command::new(&program))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_paho_go_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("paho-go");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(".").current_dir(script("paho_go"));
    checked("go build", go.output()?)?;
    exchange("paho_go", &["3.1.1", "5"], || Ok(Command::new(&program))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_paho_java_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    let jars = java_folder()?.join("*");
    exchange("PahoJava.java", &["3.1.1", "5"], || {
        let mut java = Command::new("java");
        // Its log of every packet.
        java.arg("-Djava.util.logging.config.file=/dev/null").arg("-cp").arg(&jars).arg(script("PahoJava.java"));
        Ok(java)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_publishes_in_both_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    rumqttc_v4(weir.mqtt.port()).await?;
    assert_stored(&weir, "rumqttc-4", COUNT).await?;
    rumqttc_v5(weir.mqtt.port()).await?;
    assert_stored(&weir, "rumqttc-5", COUNT).await?;
    weir.stop()
}

async fn rumqttc_v4(port: u16) -> anyhow::Result<()> {
    use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
    let (client, mut events) = AsyncClient::new(MqttOptions::new("rumqttc-4", "127.0.0.1", port), 10);
    let publishing = tokio::spawn(async move {
        for n in 0..COUNT {
            client.publish("devices/rumqttc-4/telemetry", QoS::AtLeastOnce, false, format!(r#"{{"n":{n}}}"#)).await?;
        }
        anyhow::Ok(client)
    });
    let mut acknowledged = 0;
    while acknowledged < COUNT {
        let event = tokio::time::timeout(Duration::from_secs(10), events.poll()).await??;
        acknowledged += usize::from(matches!(event, Event::Incoming(Incoming::PubAck(_))));
    }
    publishing.await??;
    Ok(())
}

async fn rumqttc_v5(port: u16) -> anyhow::Result<()> {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let mut options = MqttOptions::new("rumqttc-5", "127.0.0.1", port);
    options.set_outgoing_inflight_upper_limit(20);
    let (client, mut events) = AsyncClient::new(options, 10);
    let publishing = tokio::spawn(async move {
        for n in 0..COUNT {
            client.publish("devices/rumqttc-5/telemetry", QoS::AtLeastOnce, false, format!(r#"{{"n":{n}}}"#)).await?;
        }
        anyhow::Ok(client)
    });
    let mut acknowledged = 0;
    while acknowledged < COUNT {
        let event = tokio::time::timeout(Duration::from_secs(10), events.poll()).await??;
        acknowledged += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
    publishing.await??;
    Ok(())
}
