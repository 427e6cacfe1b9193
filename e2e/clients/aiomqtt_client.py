"""aiomqtt, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to."""

import asyncio
import json
import sys

import aiomqtt

host, port, version, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
protocol = {"3.1.1": aiomqtt.ProtocolVersion.V311, "5": aiomqtt.ProtocolVersion.V5}[version]
device = "aiomqtt-" + version.replace(".", "-")
topic = f"devices/{device}/telemetry"


async def main():
    async with aiomqtt.Client(host, port, identifier=device, protocol=protocol, timeout=10) as client:
        granted = [getattr(code, "value", code) for code in await client.subscribe(topic, qos=2)]
        assert granted == [2], f"granted {granted}"
        for n in range(count):
            await client.publish(topic, json.dumps({"n": n, "temperature": 20 + n / 8}), qos=n % 3, timeout=10)
        seen = []
        async for message in client.messages:
            seen.append((json.loads(message.payload)["n"], message.qos))
            if len(seen) == count:
                break
        assert sorted(seen) == [(n, n % 3) for n in range(count)], f"not each once and at its QoS: {seen}"
    print(device)


asyncio.run(asyncio.wait_for(main(), 60))
