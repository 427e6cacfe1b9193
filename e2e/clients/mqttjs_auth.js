// MQTT.js, unmodified: HOST PORT KEY KID. Connects with a token as authentication data, presents the next one in
// an AUTH before the first expires, and goes on; a wrong one ends the connection.
const crypto = require('crypto');
const fs = require('fs');
const mqtt = require('mqtt');

const [host, port, file, kid] = process.argv.slice(2);
const key = crypto.createPrivateKey(fs.readFileSync(file));
const method = 'WEIR-JWT';

// A session ends 30 s after `exp`.
function token(seconds) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { aud: 'weir:default', iat: now - 300, exp: now + seconds };
  const message = `${part({ alg: 'EdDSA', kid })}.${part(claims)}`;
  return `${message}.${crypto.sign(null, Buffer.from(message), key).toString('base64url')}`;
}

function properties(text) {
  return { authenticationMethod: method, authenticationData: Buffer.from(text) };
}

function connect(clientId) {
  return mqtt.connectAsync(`mqtt://${host}:${port}`, {
    clientId,
    protocolVersion: 5,
    reconnectPeriod: 0,
    connectTimeout: 10000,
    properties: properties(token(-27)),
  });
}

function authenticate(client, text) {
  client._sendPacket({ cmd: 'auth', reasonCode: 0x19, properties: properties(text) });
}

function disconnected(client) {
  return new Promise((resolve) => client.on('disconnect', (packet) => resolve(packet.reasonCode)));
}

async function main() {
  const client = await connect('pump-7');
  const closed = disconnected(client);
  const renewed = new Promise((resolve) => {
    client.on('packetreceive', (packet) => packet.cmd === 'auth' && resolve(packet));
  });
  authenticate(client, token(60));
  const answer = await renewed;
  if (answer.reasonCode !== 0 || answer.properties.authenticationMethod !== method) throw new Error('AUTH');
  // Its token is as old as the first one of the other.
  const brief = await disconnected(await connect('pump-7:brief'));
  if (brief !== 0x87) throw new Error(`closed with ${brief}`);
  await client.publishAsync('devices/pump-7/telemetry', '{"n":1}', { qos: 1 });
  authenticate(client, 'not a token');
  const code = await closed;
  if (code !== 0x87) throw new Error(`closed with ${code}`);
  console.log('done');
}

setTimeout(() => {
  console.error('not done within 30 s');
  process.exit(1);
}, 30000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
