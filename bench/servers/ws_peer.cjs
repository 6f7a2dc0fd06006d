// ws on Node.js: an echo server, and a post that sends to every client.
//   NODE_PATH=.../node_modules node ws_peer.cjs WSPORT TLSPORT HTTPPORT CERTIFICATE KEY
const { readFileSync } = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { WebSocketServer, WebSocket } = require("ws");

const [wsPort, tlsPort, httpPort, certificate, key] = process.argv.slice(2);
const servers = [];

function listen(server, port) {
  const sockets = new WebSocketServer({ server, perMessageDeflate: false });
  sockets.on("connection", (client) => {
    client.on("error", () => {});
    client.on("message", (data, isBinary) => client.send(data, { binary: isBinary }));
  });
  servers.push(sockets);
  server.listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });
}

listen(http.createServer(), wsPort);
listen(https.createServer({ cert: readFileSync(certificate), key: readFileSync(key) }), tlsPort);

const publishing = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts);
    for (const sockets of servers)
      for (const client of sockets.clients)
        if (client.readyState === WebSocket.OPEN) client.send(body, { binary: false });
    response.end("OK");
  });
});
publishing.listen({ port: Number(httpPort), host: "127.0.0.1" });
