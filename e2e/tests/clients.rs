//! Unmodified third-party clients: messages are acknowledged, delivered to subscribers, and can be
//! queried.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use weir_e2e::{Weir, checked, node_folder, python, read, wait_until};

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

#[tokio::test(flavor = "multi_thread")]
async fn eclipse_paho_publishes_and_subscribes_in_all_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    for version in ["3.1", "3.1.1", "5"] {
        let mut command = Command::new(python()?);
        command.arg(script("eclipse_paho.py")).args([
            "127.0.0.1",
            &weir.mqtt.port().to_string(),
            version,
            &COUNT.to_string(),
        ]);
        let device = checked("eclipse_paho.py", command.output()?)?;
        assert_stored(&weir, device.trim(), COUNT).await?;
    }
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_js_publishes_and_subscribes_in_both_versions() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    for version in ["3.1.1", "5"] {
        let mut command = Command::new("node");
        command.env("NODE_PATH", node_folder()?.join("node_modules")).arg(script("mqttjs.js"));
        command.args(["127.0.0.1", &weir.mqtt.port().to_string(), version, &COUNT.to_string()]);
        let device = checked("mqttjs.js", command.output()?)?;
        assert_stored(&weir, device.trim(), COUNT).await?;
    }
    weir.stop()
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
