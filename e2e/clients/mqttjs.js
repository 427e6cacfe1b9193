// MQTT.js, unmodified: HOST PORT VERSION COUNT. Publishes, is acknowledged, and is sent what it subscribed to.
const mqtt = require('mqtt');

const [host, port, version, count] = [process.argv[2], +process.argv[3], process.argv[4], +process.argv[5]];
const device = 'mqttjs-' + version.replaceAll('.', '-');
const topic = `devices/${device}/telemetry`;

async function main() {
  const client = await mqtt.connectAsync(`mqtt://${host}:${port}`, {
    clientId: device,
    protocolVersion: version === '5' ? 5 : 4,
    connectTimeout: 10000,
  });
  const seen = new Set();
  const mirrored = new Promise((resolve) => {
    client.on('message', (_topic, payload, packet) => {
      if (!packet.retain) seen.add(JSON.parse(payload).n);
      if (seen.size === count) resolve();
    });
  });
  await client.subscribeAsync(topic, { qos: 1 });
  for (let n = 0; n < count; n++) {
    await client.publishAsync(topic, JSON.stringify({ n, temperature: 20 + n / 8 }), { qos: n % 3 });
  }
  await mirrored;
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
