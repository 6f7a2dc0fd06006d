// Compiled, not run: what the types allow.

import { TwistedWS, TwistedWSError, type Message, type Presence, type Published } from "twisted-ws";

interface Order {
  state: "paid" | "sent";
}

const client = new TwistedWS("/channels", { transports: ["websocket", "sse", "poll"], credentials: "include", token: async ({ reason }) => (reason === "expired" ? null : "token") });
new TwistedWS(new URL("https://ws.example/channels"));
new TwistedWS(async () => "wss://ws.example/channels?token=1", { WebSocket: null, upgrade: 60000 });

const orders = client.subscribe<Order>("orders.42", ({ id, data }) => console.log(id, data.state), { after: "0", presence: true });
const off: () => void = orders.on("message", (message: Message<Order>) => console.log(message.key?.length));
orders.on("lost", ({ recovered, after }) => console.log(recovered, after));
orders.on("presence", ({ count, members }: Presence) => console.log(count, members[0]?.user));
orders.on("error", (error) => console.log(error.code, error.final));
off();
orders.unsubscribe();

const plain = client.subscribe("news", null, { last: 20 });
plain.on("message", ({ data }) => {
  // @ts-expect-error the content of a message is unknown
  data.length;
});

client.on("close", ({ closeCode, final }) => console.log(closeCode?.toFixed(), final));
client.on("retry", ({ delay, error }) => console.log(delay.toFixed(), error.message));
client.on("transport", (transport) => console.log(transport === "sse"));

const published: Published = await client.publish("orders.42", { state: "sent" }, { key: "state" }).catch((error: unknown) => {
  if (error instanceof TwistedWSError && error.status === 403) console.log(error.message);
  throw error;
});
console.log(published.id);
window.TwistedWS === TwistedWS;

const { messages, next } = await client.history<Order>("orders.42", { before: "e:7", limit: 50 });
console.log(messages[0]?.data.state, next?.length);
new TwistedWS("/channels", { subscriptionToken: async (channels) => Object.fromEntries(channels.map((each) => [each, each === "news" ? null : "token"])) });
new TwistedWS("/channels", { subscriptionToken: (channels) => channels.join() });

// @ts-expect-error no such event
client.on("opened", () => {});
// @ts-expect-error no such transport
new TwistedWS("/channels", { transports: ["flash"] });
// @ts-expect-error made by subscribe
client.state = "open";
