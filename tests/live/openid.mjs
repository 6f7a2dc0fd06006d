// OpenID providers: the certified one of npm. Each line of standard input is JSON: `start`, with what a test says, or `stop`, of a port.
// Each line of the output begins with a port: what has been done, and the requests.
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const servers = new Map();

async function start({ module, port, issuer, keys, jwks, resources, claims, clients, seconds }) {
  const { default: Provider } = await import(module);
  const path = new URL(issuer).pathname.replace(/\/$/, "");

  const filled = (value, { clientId, accountId, sessionUid }) =>
    JSON.parse(JSON.stringify(value).replaceAll("$CLIENT", clientId).replaceAll("$USER", accountId ?? clientId).replaceAll("$SESSION", sessionUid));
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys },
    routes: { jwks },
    cookies: { keys: ["one"] },
    scopes: ["openid", "offline_access"],
    ttl: { AccessToken: seconds, ClientCredentials: seconds, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 3600, IdToken: 3600 },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (ctx, token) => filled(claims, token),
    clientBasedCORS: () => true,
    issueRefreshToken: (ctx, client, code) => client.grantTypeAllowed("refresh_token") && code.scopes.has("offline_access"),
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        defaultResource: (ctx, client, oneOf) => oneOf ?? Object.keys(resources)[0],
        getResourceServerInfo: (ctx, resource) => ({
          scope: resources[resource].scope ?? "",
          audience: resources[resource].audience ?? resource,
          accessTokenFormat: "jwt",
          accessTokenTTL: seconds,
          jwt: { sign: { alg: resources[resource].alg ?? "RS256" } },
        }),
      },
      rpInitiatedLogout: { enabled: true },
    },
  });
  provider.on("server_error", (ctx, error) => console.log(port, "server_error", error));
  const handle = provider.callback();
  const server = createServer((request, response) => {
    console.log(port, request.method, request.url.split("?")[0]);
    request.originalUrl = request.url;
    request.url = request.url.slice(path.length) || "/";
    handle(request, response);
  });
  servers.set(port, server);
  server.listen(port, "127.0.0.1", () => console.log(port, "ready"));
}

function stop({ port }) {
  const server = servers.get(port);
  server.close(() => console.log(port, "stopped"));
  server.closeAllConnections();
}

for await (const line of createInterface({ input: process.stdin })) {
  const { task, ...options } = JSON.parse(line);
  await { start, stop }[task](options);
}
process.exit();
