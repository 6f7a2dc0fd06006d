// An OpenID provider: the certified one of npm, with what a test says: JSON on standard input. Each request is a line.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const { module, port, issuer, keys, jwks, resources, claims, clients, seconds } = JSON.parse(readFileSync(0));
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
provider.on("server_error", (ctx, error) => console.log("server_error", error));
const handle = provider.callback();
createServer((request, response) => {
  console.log(request.method, request.url.split("?")[0]);
  request.originalUrl = request.url;
  request.url = request.url.slice(path.length) || "/";
  handle(request, response);
}).listen(port, "127.0.0.1", () => console.log("ready"));
