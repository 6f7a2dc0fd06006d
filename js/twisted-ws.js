"use strict";
(() => {
const PROTOCOL = "twisted-ws.v1";
const TRANSPORTS = ["websocket", "sse", "poll"];
const COME_BACK = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 4429, 4500, 4503];
const PASSING = ["network", "timeout", "internal-error", "too-many-requests", "unavailable"];
class TwistedWSError extends Error {
constructor(code, message, more) {
super(message || String(code));
Object.assign(this, { name: "TwistedWSError", code, final: !PASSING.includes(code), ...more });
}
}
class Emitter {
#listeners = new Map();
on(type, listener) {
this.#listeners.set(type, [...(this.#listeners.get(type) || []), listener]);
return () => this.off(type, listener);
}
off(type, listener) {
this.#listeners.set(type, (this.#listeners.get(type) || []).filter((each) => each !== listener));
}
_emit(type, detail) {
for (const listener of this.#listeners.get(type) || []) {
try {
listener(detail);
} catch (error) {
queueMicrotask(() => { throw error; });
}
}
}
}
class Subscription extends Emitter {
constructor(channel, options, unsubscribe) {
super();
const id = options.after ?? null;
Object.assign(this, { channel, unsubscribe, id, recovered: false, active: true, _begun: id !== null, _failures: 0 });
this._presence = !!options.presence;
this._prefix = channel.endsWith("*") ? channel.slice(0, -1) : null;
}
_begin({ id, recovered, count, presence }) {
const detail = { channel: this.channel, id, recovered, count, after: this.id };
const resumed = this._begun;
Object.assign(this, { id, recovered, _begun: true, _failures: 0 });
this._emit("subscribed", detail);
if (resumed) this._emit(recovered ? "recovered" : "lost", detail);
if (presence) this._emit("presence", presence);
}
}
class TwistedWS extends Emitter {
#url;
#options;
#memory;
#subs = new Map();
#patterns = new Set();
#pending = new Map();
#requests = new Map();
#timers = new Set();
#prefix = `${Math.random()}-${Date.now()}-`;
#count = 0;
#base;
#link = null;
#round = [];
#worked;
#failures = 0;
#posting = null;
#retry;
#paused = false;
#wake = { online: () => this.#goOn(), offline: () => this.#stop("offline") };
constructor(url, options = {}) {
super();
this.#options = {
transports: TRANSPORTS, base: 1000, cap: 30000, heartbeat: 25000, timeout: 10000, publishTimeout: 60000,
credentials: "same-origin", WebSocket: globalThis.WebSocket, fetch: (...all) => globalThis.fetch(...all), ...options,
};
const { transports, base } = this.#options;
if (!transports.length || transports.some((each) => !TRANSPORTS.includes(each))) {
throw new TypeError(`transports are some of ${TRANSPORTS}, not ${transports}`);
}
this.#base = base;
this.#url = url.call ? url : () => url;
this.#memory = `${PROTOCOL} ${url.call ? "" : this.#absolute(url)}`;
try {
this.#worked = sessionStorage.getItem(this.#memory);
} catch {} // there is none, or it may not be used here
this.state = "idle";
this.transport = null;
for (const name in this.#wake) globalThis.addEventListener?.(name, this.#wake[name]);
}
subscribe(channel, listener, options = {}) {
this.#check();
if (this.#subs.has(channel)) throw new Error(`${channel} is already subscribed to`);
const subscription = new Subscription(channel, options, () => {
if (!subscription.active) return;
this.#remove(subscription);
this.#link?.drop?.(subscription);
});
if (listener) subscription.on("message", listener);
this.#subs.set(channel, subscription);
if (subscription._prefix !== null) this.#patterns.add(subscription);
if (this.#link) this.#link.add?.(subscription);
else this.#connect();
return subscription;
}
publish(channel, data, { key, idempotencyKey } = {}) {
return new Promise((resolve, reject) => {
this.#check();
const ref = ++this.#count;
idempotencyKey ||= this.#prefix + ref;
const text = JSON.stringify({ type: "publish", channel, ...packed(data), key, idempotencyKey, ref });
const settle = (settled, value) => {
if (this.#pending.delete(ref)) {
this.#cancel(late);
settled(value);
}
};
let why = new TwistedWSError("timeout", "There is no answer.");
const publication = {
channel,
data,
key,
idempotencyKey,
text,
failures: 0,
done: (answer) => settle(resolve, answer),
fail: (error) => settle(reject, error),
failed: (error) => error.final || error.code === "internal-error" ? settle(reject, error) : (why = error),
};
const late = this.#later(this.#options.publishTimeout, () => settle(reject, why));
this.#pending.set(ref, publication);
if (this.#link?.up) this.#link.publish(publication);
else this.#connect();
});
}
async presence(channel) {
this.#check();
if (this.#link?.up && this.#link.send) {
return new Promise((done, fail) => {
const ref = ++this.#count;
this.#requests.set(ref, { done, fail });
this.#link.send({ type: "presence", channel, ref });
});
}
return (await (await this.#ask(`channel=${channel}&presence=true`)).json()).presence;
}
pause() {
this.#stop("paused");
this.#paused = true;
}
resume() {
this.#paused = false;
this.#goOn();
}
close() {
this.#end(new TwistedWSError("closed", "The client is closed."));
}
#later(milliseconds, work) {
const timer = setTimeout(() => {
this.#timers.delete(timer);
work();
}, milliseconds);
this.#timers.add(timer);
return timer;
}
#cancel(timer) {
clearTimeout(timer);
this.#timers.delete(timer);
}
#delay(failures, error) {
return (error.retryAfter || 0) + Math.random() * Math.min(this.#options.cap, this.#base * 2 ** failures);
}
#check() {
if (this.state === "closed") throw new TwistedWSError("closed", "The client is closed.");
}
#state(state) {
if (this.state === state) return;
this.state = state;
this._emit("state", state);
}
#busy() {
const busy = this.#subs.size || this.#pending.size;
if (!busy) this.#state("idle");
return busy;
}
#connect() {
if (this.#link || ["offline", "paused", "waiting"].includes(this.state) || !this.#busy()) return;
if (!this.#round.length) {
const { transports, WebSocket } = this.#options;
const usable = transports.filter((each) => each !== "websocket" || WebSocket);
this.#round = usable.includes(this.#worked) && this.#failures < 3 ? [this.#worked] : usable;
if (`${usable}` === "websocket") this.#round.push("look");
}
this.#state("connecting");
this.#start(this.#round.shift());
}
async #start(name, { up = false, since = Date.now() } = {}) {
const link = { name, up, since, stop() {}, publish: () => this.#post() };
this.#link = link;
this.#watch(link, this.#options.timeout);
try {
await { websocket: this.#websocket, sse: this.#events, poll: this.#poll, look: this.#look }[name].call(this, link);
} catch (error) {
this.#failed(link, failure(error));
}
}
#absolute(url) {
return new URL(url, globalThis.location?.href).href.replace(/^ws/, "http");
}
#watch(link, milliseconds, late = () => this.#lost(link, new TwistedWSError("timeout", "There is no answer."))) {
this.#cancel(link.timer);
link.timer = this.#later(milliseconds, late);
}
#opened(link) {
if (link.up && this.state === "open") return;
link.up = true;
const transport = link.name;
const changed = this.transport !== transport;
this.transport = transport;
if (this.#subs.size || link.send) {
this.#worked = transport;
try {
sessionStorage.setItem(this.#memory, transport);
} catch {}
}
this.#state("open");
if (changed) this._emit("transport", transport);
this._emit("open", { transport });
for (const each of this.#pending.values()) link.publish(each);
}
#detach() {
const link = this.#link;
this.#link = null;
this.#cancel(link?.timer);
link?.stop();
for (const { fail } of this.#requests.values()) fail(new TwistedWSError("network", "The connection is lost."));
this.#requests.clear();
return link;
}
#lost(link, error) {
if (link !== this.#link) return;
if (error.final) return this.#end(error);
this.#detach();
if (link.up) {
if (Date.now() - link.since >= 5000) this.#failures = 0;
this._emit("close", error);
} else if (this.#round.length && !error.retryAfter) {
return this.#connect();
}
this.#round = [];
if (globalThis.navigator?.onLine === false) return this.#stop("offline");
const delay = this.#delay(this.#failures++, error);
this.#state("waiting");
this.#retry = this.#later(delay, () => this.#goOn());
this._emit("retry", { delay, error });
}
#stop(state) {
if (["closed", "paused", state].includes(this.state)) return;
const link = this.#detach();
this.#cancel(this.#retry);
this.#posting?.abort();
this.#round = [];
this.#state(state);
if (link?.up) this._emit("close", new TwistedWSError("network", state));
this._emit("offline");
}
#goOn() {
if (this.#paused || this.#link || this.state === "closed") return;
this.#cancel(this.#retry);
this.#state("connecting");
this.#connect();
}
#end(error) {
if (this.state === "closed") return;
this.#detach();
for (const timer of this.#timers) clearTimeout(timer);
this.#posting?.abort();
for (const name in this.#wake) globalThis.removeEventListener?.(name, this.#wake[name]);
this.#state("closed");
for (const each of [...this.#pending.values()]) each.fail(error);
for (const each of [...this.#subs.values()]) error.code === "closed" ? this.#remove(each) : this.#fail(each, error);
this._emit("close", error);
}
#remove(subscription) {
subscription.active = false;
this.#subs.delete(subscription.channel);
this.#patterns.delete(subscription);
}
#fail(subscription, why) {
const error = new TwistedWSError(why.code, why.message, { ...why, channel: subscription.channel });
if (error.final) this.#remove(subscription);
subscription._emit("error", error);
this._emit("error", error);
}
#take(link, frame) {
const { type, channel, ref } = frame;
const subscription = this.#subs.get(channel);
const live = subscription?._link === link;
if (type === "message") {
const message = { channel, id: frame.id, data: content(frame) };
if (frame.key !== undefined) message.key = frame.key;
if (live) {
subscription.id = frame.id;
subscription._emit("message", message);
}
for (const each of this.#patterns) {
if (each._link === link && channel.startsWith(each._prefix)) each._emit("message", message);
}
} else if (type === "subscribed") {
if (subscription && ref === subscription._ref) {
subscription._link = link;
subscription._begin(frame);
}
} else if (type === "broadcast") {
this._emit("broadcast", content(frame));
} else if (type === "welcome") {
this.#base = frame.retry;
link.heartbeat = frame.ping * 1000;
link.welcome();
for (const each of this.#subs.values()) link.add(each);
this.#opened(link);
} else if (type === "unsubscribed") {
if (live && frame.reason) this.#fail(subscription, new TwistedWSError("unsubscribed", frame.reason, { channel }));
} else if (type === "join" || type === "leave") {
if (live) subscription._emit(type, frame.member);
} else if (type === "error") {
this.#refused(frame);
} else {
const asked = this.#pending.get(ref) || this.#requests.get(ref);
this.#requests.delete(ref);
delete frame.type;
delete frame.ref;
asked?.done(frame);
}
}
#refused({ code, message, channel, ref }) {
const error = new TwistedWSError(code, message, { channel });
const subscription = this.#subs.get(channel);
const publication = this.#pending.get(ref);
if (subscription && subscription._ref === ref) {
this.#fail(subscription, error);
if (!error.final) {
this.#later(this.#delay(subscription._failures++, error), () => {
if (subscription.active && subscription._ref === ref) this.#link?.add?.(subscription);
});
}
} else if (publication) {
if (publication.failed(error)) {
this.#later(this.#delay(publication.failures++, error), () => {
if (this.#pending.has(ref) && this.#link?.up) this.#link.publish(publication);
});
}
} else {
this.#requests.get(ref)?.fail(error);
this.#requests.delete(ref);
}
}
async #websocket(link) {
const url = this.#absolute(await this.#url());
if (link !== this.#link) return;
const socket = new this.#options.WebSocket(url.replace(/^http/, "ws"), PROTOCOL);
const { heartbeat, timeout } = this.#options;
const send = (frame) => socket.send(JSON.stringify(frame));
link.stop = () => {
socket.onmessage = socket.onclose = null;
socket.close();
};
socket.onclose = ({ code, reason }) => {
const pending = code === 1009 ? [...this.#pending.values()] : [];
for (const { fail } of pending) fail(new TwistedWSError("too-large", reason));
const final = !COME_BACK.includes(code) && !pending.length;
this.#lost(link, new TwistedWSError("lost", reason || `closed with ${code}`, { closeCode: code, final }));
};
link.welcome = () => {
link.send = send;
link.publish = ({ text }) => socket.send(text);
link.drop = ({ channel }) => send({ type: "unsubscribe", channel });
link.add = (each) => {
each._ref = ++this.#count;
send({ type: "subscribe", channel: each.channel, after: each.id ?? undefined, presence: each._presence, ref: each._ref });
};
};
socket.onmessage = ({ data }) => {
let frame;
try {
frame = JSON.parse(data);
} catch {} // a broadcast to everybody, which may be any text
if (frame?.type) this.#take(link, frame);
else this._emit("broadcast", data);
if (link === this.#link) {
this.#watch(link, link.heartbeat || heartbeat, () => {
send({ type: "ping" });
this.#watch(link, timeout);
});
}
};
}
async #ask(query, init) {
const url = this.#absolute(await this.#url());
const { fetch, credentials } = this.#options;
const response = await fetch(url + (url.includes("?") ? "&" : "?") + query, { credentials, cache: "no-store", ...init });
const { status } = response;
if (status === 200) return response;
const { error = `http-${status}`, message } = await response.json().catch(() => ({}));
const after = response.headers.get("Retry-After");
throw new TwistedWSError(error, message || response.statusText, {
status,
final: status < 500 && ![408, 425, 429].includes(status),
retryAfter: after && Math.max(0, isNaN(after) ? Date.parse(after) - Date.now() : after * 1000),
});
}
#query(link, more, subscriptions = [...this.#subs.values()]) {
const after = subscriptions.filter(({ id }) => id !== null).map(({ channel, id }) => `${channel}=${id}`);
link.add = link.drop = () => queueMicrotask(() => link === this.#link && this.#restart(link));
return subscriptions.map(({ channel }) => `channel=${encodeURIComponent(channel)}&`).join("")
+ (after.length ? `after=${encodeURIComponent(after)}&` : "")
+ (subscriptions.some(({ _presence }) => _presence) ? "presence=true&" : "") + more;
}
#restart(link) {
this.#detach();
if (this.#busy()) this.#start(link.name, link);
}
async #http(link, work) {
const abort = new AbortController();
const subscriptions = [...this.#subs.values()];
link.stop = () => abort.abort();
for (const each of subscriptions) each._ref = undefined;
if (subscriptions.length) {
await work(subscriptions, abort.signal);
} else {
this.#query(link);
this.#cancel(link.timer);
this.#opened(link);
}
}
#events(link) {
return this.#http(link, async (subscriptions, signal) => {
const { heartbeat, timeout } = this.#options;
const response = await this.#ask(this.#query(link, "format=json"), { headers: { Accept: "text/event-stream" }, signal });
if (!/^text\/event-stream/.test(response.headers.get("Content-Type"))) throw new Error("This is no event stream.");
const reader = response.body.getReader();
const decoder = new TextDecoder();
for (let rest = ""; ;) {
const { done, value } = await reader.read();
if (link !== this.#link) return;
if (done) throw new Error("The stream has ended.");
const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
rest = lines.pop();
for (const line of lines) {
if (line.startsWith("retry: ")) this.#base = +line.slice(7);
if (!line.startsWith("data: ")) continue;
this.#opened(link);
this.#take(link, JSON.parse(line.slice(6)));
if (link !== this.#link) return;
}
if (link.up) this.#watch(link, heartbeat + timeout);
}
});
}
#poll(link) {
return this.#http(link, async (subscriptions, signal) => {
const { heartbeat, timeout } = this.#options;
for (let wait = 0; ; wait = heartbeat) {
const began = Date.now();
this.#watch(link, wait + timeout);
const answer = await (await this.#ask(this.#query(link, `wait=${wait / 1000}`), { signal })).json();
if (link !== this.#link) return;
this.#opened(link);
const { messages, presence } = answer;
const alone = subscriptions.length === 1;
const place = answer.id || ""; // there is none where there are only patterns
const places = Object.fromEntries(place.split(",").map((each) => alone ? [subscriptions[0].channel, each] : each.split("=")));
for (const each of subscriptions) {
const { channel, id: after } = each;
const mine = messages.filter((one) => one.channel === channel);
const id = mine[0]?.id.replace(/\d+$/, (offset) => offset - 1) || places[channel] || null;
const recovered = after !== null && (answer.recovered || after === "0" || after === id);
if (each._link !== link || !recovered) {
this.#take(link, { type: "subscribed", channel, id, recovered, count: mine.length });
}
if (presence && each._presence) each._emit("presence", alone ? presence : presence[channel]);
}
for (const message of messages) {
if (link !== this.#link) return;
this.#take(link, { ...message, type: "message" });
}
if (link !== this.#link) return;
if (wait && !messages.length && Date.now() - began < wait / 2) throw new Error("The server does not wait.");
}
});
}
async #look(link) {
if (this.#subs.size) await this.#ask(this.#query(link, "wait=0"));
throw new Error("There is no WebSocket.");
}
async #failed(link, error) {
if (link !== this.#link) return;
if (!error.final) return this.#lost(link, error);
const subscriptions = [...this.#subs.values()];
const guilty = [];
for (const each of subscriptions.length > 1 ? subscriptions : []) {
this.#watch(link, this.#options.timeout);
await this.#ask(this.#query({}, "wait=0", [each])).catch((why) => why.final && guilty.push([each, why]));
if (link !== this.#link) return;
}
for (const [each, why] of guilty.length ? guilty : subscriptions.map((one) => [one, error])) this.#fail(each, why);
if (link === this.#link) this.#restart(link);
}
async #post() {
if (this.#posting) return;
for (let failures = 0; this.#pending.size && this.#link?.up && !this.#link.send;) {
const [publication] = this.#pending.values();
const { channel, data, key, idempotencyKey } = publication;
const abort = this.#posting = new AbortController();
const timer = this.#later(this.#options.timeout, () => abort.abort());
const text = typeof data === "string" && data;
const type = binary(data) ? "application/octet-stream" : text ? "text/plain" : "application/json";
try {
const response = await this.#ask(`channel=${encodeURIComponent(channel)}${key === undefined ? "" : `&key=${encodeURIComponent(key)}`}`, {
method: "POST",
body: binary(data) || text || JSON.stringify(data ?? null),
headers: { "Content-Type": type, "Idempotency-Key": idempotencyKey },
signal: abort.signal,
});
publication.done(await response.json());
failures = 0;
} catch (error) {
const why = failure(error);
if (publication.failed(why) && this.#link) await new Promise((done) => this.#later(this.#delay(failures++, why), done));
}
this.#cancel(timer);
}
this.#posting = null;
}
}
const failure = (error) => error instanceof TwistedWSError ? error : new TwistedWSError("network", String(error));
const binary = (data) => ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
: data instanceof ArrayBuffer && new Uint8Array(data);
const packed = (data) => binary(data) ? { base64: btoa(Array.from(binary(data), (each) => String.fromCharCode(each)).join("")) } : { data: data ?? null };
const content = ({ data, base64 }) => base64 === undefined ? data : Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
Object.assign(globalThis, { TwistedWS, TwistedWSError });
})();
