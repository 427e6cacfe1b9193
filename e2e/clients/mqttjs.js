// MQTT.js, unmodified: HOST PORT VERSION COUNT [SCHEME]. Publishes, is acknowledged, and is sent what it subscribed to.
const assert = require('assert');
const mqtt = require('mqtt');

const [host, port, version, count] = [process.argv[2], +process.argv[3], process.argv[4], +process.argv[5]];
const scheme = process.argv[6] ?? 'mqtt';
const path = scheme.startsWith('ws') ? '/mqtt' : '';
const device = (scheme === 'mqtt' ? 'mqttjs-' : `mqttjs-${scheme}-`) + version.replaceAll('.', '-');
const topic = `devices/${device}/telemetry`;

async function main() {
  const client = await mqtt.connectAsync(`${scheme}://${host}:${port}${path}`, {
    clientId: device,
    protocolVersion: version === '5' ? 5 : 4,
    connectTimeout: 10000,
  });
  const seen = [];
  const mirrored = new Promise((resolve) => {
    client.on('message', (_topic, payload, packet) => {
      if (!packet.retain) seen.push(`${JSON.parse(payload).n} at ${packet.qos}`);
      if (seen.length >= count) resolve();
    });
  });
  const [granted] = await client.subscribeAsync(topic, { qos: 2 });
  assert.equal(granted.qos, 2);
  for (let n = 0; n < count; n++) {
    await client.publishAsync(topic, JSON.stringify({ n, temperature: 20 + n / 8 }), { qos: n % 3 });
  }
  await mirrored;
  // Each once, and at its QoS.
  assert.deepEqual(seen.sort(), Array.from({ length: count }, (_, n) => `${n} at ${n % 3}`).sort());
  await client.endAsync();
  console.log(device);
}

setTimeout(() => {
  console.error('not done within 30 s');
  process.exit(1);
}, 30000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
