"""Eclipse Paho, unmodified: HOST PORT VERSION COUNT [TRANSPORT [CA]]. Publishes, is acknowledged, and is sent what it subscribed to."""

import json
import sys
import threading

import paho.mqtt.client as mqtt

host, port, version, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
transport, ca = (sys.argv[5:] + ["tcp", ""][len(sys.argv) - 5 :])[:2]
protocol = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
name = "paho-" if transport == "tcp" else f"paho-{'wss' if ca else 'ws'}-"
device = name + version.replace(".", "-")
topic = f"devices/{device}/telemetry"
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device, protocol=protocol, transport=transport)
if ca:
    client.tls_set(ca_certs=ca)
connected, subscribed, mirrored = threading.Event(), threading.Event(), threading.Event()
seen, granted = [], []


def on_message(_client, _data, message):
    if not message.retain:
        seen.append((json.loads(message.payload)["n"], message.qos))
    if len(seen) >= count:
        mirrored.set()


def on_subscribe(_client, _data, _id, reasons, _properties):
    granted.extend(reason.value for reason in reasons)
    subscribed.set()


client.on_connect = lambda *_: connected.set()
client.on_subscribe = on_subscribe
client.on_message = on_message
client.connect(host, port)
client.loop_start()
assert connected.wait(10), "no CONNACK"
client.subscribe(topic, qos=2)
assert subscribed.wait(10), "no SUBACK"
assert granted == [2], f"granted {granted}"
for n in range(count):
    info = client.publish(topic, json.dumps({"n": n, "temperature": 20 + n / 8}), qos=n % 3)
    info.wait_for_publish(10)
    assert info.is_published(), f"message {n} was not acknowledged"
assert mirrored.wait(10), f"subscriber saw {len(seen)} of {count}"
assert sorted(seen) == [(n, n % 3) for n in range(count)], f"not each once and at its QoS: {seen}"
client.disconnect()
client.loop_stop()
print(device)
