"""Eclipse Paho, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to."""

import json
import sys
import threading

import paho.mqtt.client as mqtt

host, port, version, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
protocol = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
device = "paho-" + version.replace(".", "-")
topic = f"devices/{device}/telemetry"
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device, protocol=protocol)
connected, subscribed, mirrored = threading.Event(), threading.Event(), threading.Event()
seen = set()


def on_message(_client, _data, message):
    if not message.retain:
        seen.add(json.loads(message.payload)["n"])
    if len(seen) == count:
        mirrored.set()


client.on_connect = lambda *_: connected.set()
client.on_subscribe = lambda *_: subscribed.set()
client.on_message = on_message
client.connect(host, port)
client.loop_start()
assert connected.wait(10), "no CONNACK"
client.subscribe(topic, qos=1)
assert subscribed.wait(10), "no SUBACK"
for n in range(count):
    info = client.publish(topic, json.dumps({"n": n, "temperature": 20 + n / 8}), qos=n % 3)
    info.wait_for_publish(10)
    assert info.is_published(), f"message {n} was not acknowledged"
assert mirrored.wait(10), f"subscriber saw {len(seen)} of {count}"
client.disconnect()
client.loop_stop()
print(device)
