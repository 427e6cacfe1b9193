// oidc-provider, unmodified, on loopback. Prints its URL. Each line of standard input is the set of keys that it has
// from now on, the one that signs first: `k2 k1`; it prints the line when it has them. Keys with an id that begins with
// `e` are Ed25519, others P-256. It ends with its input.
import { generateKeyPairSync } from 'node:crypto';
import http from 'node:http';
import readline from 'node:readline';
import { Provider } from 'oidc-provider';

const RESOURCE = 'https://weir.example/api';
const keys = new Map();
let current;
// Standard output is for the test; notices of the library are not.
console.info = console.error;

function key(id) {
  if (!keys.has(id)) {
    const pair = id.startsWith('e') ? generateKeyPairSync('ed25519') : generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const alg = id.startsWith('e') ? 'EdDSA' : 'ES256';
    keys.set(id, { ...pair.privateKey.export({ format: 'jwk' }), kid: id, use: 'sig', alg });
  }
  return keys.get(id);
}

function provider(url, ids) {
  const set = ids.map(key);
  const client = (client_id) => ({
    client_id,
    client_secret: `${client_id}-secret`,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: set[0].alg,
  });
  const made = new Provider(url, {
    clients: [client('dashboard'), client('stranger')],
    jwks: { keys: set },
    enabledJWA: {
      idTokenSigningAlgValues: ['ES256', 'EdDSA'],
    },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'telemetry.read devices.list',
          audience: resource === RESOURCE ? 'weir' : resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 600,
          jwt: { sign: { alg: set[0].alg } },
        }),
      },
    },
  });
  return made.callback();
}

const server = http.createServer((request, response) => current(request, response));
server.listen(0, '127.0.0.1', () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  current = provider(url, ['k1']);
  console.log(url);
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    current = provider(url, line.trim().split(' '));
    console.log(line.trim());
  });
  lines.on('close', () => process.exit(0));
});
