"""Eclipse Paho, unmodified, driven by lines of JSON on standard input: HOST VERSION CLIENT. Prints each event as a line of JSON."""

import json
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

host, version, name = sys.argv[1:4]
v5 = version == "5"


def tell(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def code(reason):
    return getattr(reason, "value", reason)


def properties(kind, **values):
    if not v5:
        return None
    found = Properties(kind)
    for key, value in values.items():
        setattr(found, key, value)
    return found


def on_connect(_client, _data, flags, reason, _properties):
    tell("connected", present=flags.session_present, reason=code(reason))


def on_disconnect(_client, _data, _flags, reason, _properties):
    tell("closed", reason=code(reason))


def on_subscribe(_client, _data, _id, reasons, _properties):
    tell("subscribed", reasons=[code(reason) for reason in reasons])


def on_publish(_client, _data, _id, reason, _properties):
    tell("published", reason=code(reason))


def on_message(_client, _data, message):
    payload = message.payload.decode()
    tell("message", topic=message.topic, payload=payload, qos=message.qos, retain=message.retain, dup=message.dup)


def connect(client, command):
    clean, expiry = command["clean"], command["expiry"]
    client.loop_stop()
    if command["will"]:
        topic, payload, delay = command["will"]
        client.will_set(topic, payload, 1, properties=properties(PacketTypes.WILLMESSAGE, WillDelayInterval=delay))
    if v5:
        lasts = properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry)
        client.connect(host, command["port"], clean_start=clean, properties=lasts)
    else:
        client.connect(host, command["port"])
    client.loop_start()


# The session of a 3.1.1 client lasts when its first connection is not clean.
client, lasting = None, {} if v5 else {"clean_session": None}
for line in sys.stdin:
    command = json.loads(line)
    do = command["do"]
    if client is None:
        if lasting:
            lasting["clean_session"] = command["clean"]
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            **lasting,
        )
        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.on_subscribe, client.on_publish, client.on_message = on_subscribe, on_publish, on_message
    if do == "connect":
        connect(client, command)
    elif do == "subscribe":
        client.subscribe(command["filter"], command["qos"])
    elif do == "publish":
        client.publish(command["topic"], command["payload"], command["qos"], command["retain"])
    elif do == "disconnect":
        client.disconnect()
