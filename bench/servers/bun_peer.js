// Bun, whose WebSockets are uWebSockets: an echo server, and a post that publishes to the topic of all clients.
//   bun bun_peer.js WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
const [wsPort, tlsPort, httpPort, certificate, key] = process.argv.slice(2);

function listen(port, tls) {
  return Bun.serve({
    hostname: "127.0.0.1",
    port: Number(port),
    tls,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("a WebSocket is here", { status: 400 })),
    websocket: {
      perMessageDeflate: false,
      open: (client) => client.subscribe("all"),
      message: (client, message) => client.send(message),
    },
  });
}

const servers = [listen(wsPort), listen(tlsPort, { cert: Bun.file(certificate), key: Bun.file(key) })];

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(httpPort),
  async fetch(request) {
    const body = await request.text();
    for (const server of servers) server.publish("all", body);
    return new Response("OK");
  },
});
