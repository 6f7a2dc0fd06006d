// twisted-ws.js: channels of a twisted_ws server in browsers, workers and Node. twisted-ws.d.ts documents each name.

const PROTOCOL = "twisted-ws.v1";
const TRANSPORTS = ["websocket", "sse", "poll"];
// Close codes after which a client may reconnect (twisted_ws.web.scripts fills them in), and errors that are temporary.
const COME_BACK = [];
const PASSING = ["network", "token", "timeout", "internal-error", "too-many-requests", "unavailable"];
const TOO_MANY = "too-many-channels";
const NO_ANSWER = "The server did not answer.";
const NO_SOCKET = "The WebSocket did not open.";
const NO_SERVICE = "This is not a channels service: check the url.";
// The longest query, in characters: a server accepts 8 KiB for the whole request line.
const ROOM = 7000;
// Milliseconds: the most that setTimeout takes (more counts as 0), the longest wait for a better transport, and how long a working connection lives.
const LONGEST = 2 ** 31 - 1;
const HOUR = 3600000;
const LIVED = 5000;
// Milliseconds: a token that ends sooner is not used for a new connection; how long one counts that does not say.
const ENOUGH = 30000;
const UNKNOWN = 60000;
// Milliseconds: channels that are subscribed to within it have their tokens asked for in one call.
const TOGETHER = 10;

const isTime = (value, least = 1) => typeof value === "number" && value >= least && value <= LONGEST;
const isText = (value, pattern) => typeof value === "string" && pattern.test(value);
const isCount = (value) => Number.isInteger(value) && value > 0 && value < 1e9;
const isFunction = (value) => typeof value === "function";

// For each option its default, and what makes it valid.
const OPTIONS = {
  transports: [TRANSPORTS, (value) => Array.isArray(value) && value.length && value.every((each) => TRANSPORTS.includes(each))],
  base: [1000, isTime],
  cap: [30000, (value) => isTime(value, 100)],
  heartbeat: [25000, (value) => isTime(value, 1000)],
  timeout: [10000, isTime],
  publishTimeout: [60000, isTime],
  upgrade: [60000, isTime],
  credentials: ["same-origin", (value) => ["omit", "same-origin", "include"].includes(value)],
  token: [null, (value) => value === null || isFunction(value)],
  tokenFirst: [false, (value) => typeof value === "boolean"],
  subscriptionToken: [null, (value) => value === null || isFunction(value)],
  WebSocket: [null, (value) => value === null || isFunction(value)],
  fetch: [(...all) => globalThis.fetch(...all), isFunction],
};

class TwistedWSError extends Error {
  constructor(code, message, more) {
    super(message || String(code));
    Object.assign(this, { name: "TwistedWSError", code, final: !PASSING.includes(code), ...more });
  }
}

class Emitter {
  #listeners = new Map();

  on(type, listener) {
    must(isFunction(listener), "listener", listener);
    this.#listeners.set(type, [...(this.#listeners.get(type) || []), listener]);
    return () => this.off(type, listener);
  }

  off(type, listener) {
    this.#listeners.set(type, (this.#listeners.get(type) || []).filter((each) => each !== listener));
  }

  // An exception in a listener is reported as uncaught, and does not stop the others.
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

// `_source` is where its messages come from; `_waits` is whether it was refused temporarily.
class Subscription extends Emitter {
  constructor(channel, { after: id = null, last = null, presence = false }, unsubscribe) {
    super();
    must(id === null || isText(id, /^(0|[A-Za-z0-9]{1,32}:\d{1,16})$/), "after", id);
    must(last === null || isCount(last), "last", last);
    must(typeof presence === "boolean", "presence", presence);
    Object.assign(this, { channel, unsubscribe, id, recovered: false, active: true, _begun: id !== null, _failures: 0, _last: last, _presence: presence });
    this._prefix = channel.endsWith("*") ? channel.slice(0, -1) : null;
  }

  _begin(source, { id, recovered, count, presence }) {
    const detail = { channel: this.channel, id, recovered, count, after: this.id };
    const resumed = this._begun;
    Object.assign(this, { id, recovered, _begun: true, _failures: 0, _source: source, _renewed: false });
    this._emit("subscribed", detail);
    if (resumed) this._emit(recovered ? "recovered" : "lost", detail);
    if (presence) this._emit("presence", presence);
  }
}

// A link is a connection that is in use or being tried: one WebSocket, or over HTTP one request for each of its parts, which are the channels
// that fit into one URL. Once dropped, it is never used again.
class TwistedWS extends Emitter {
  #url;
  #options = {};
  #usable;
  #memory;
  #subs = new Map();
  #patterns = new Set();
  #pending = new Map();
  #waiters = new Set();
  #calls = new Set();
  #prefix = `${Math.random()}-${Date.now()}-`;
  #count = 0;
  #base;
  #room = ROOM;
  #link = null;
  #next = null;
  #round = [];
  #worked;
  #failures = 0;
  #cuts = {};
  #climbs = 0;
  #climbing = {};
  #posting = false;
  #retry = {};
  #token = null;
  #until = 0;
  #asking = null;
  #renewed = false;
  #wanted = [];
  #away = false;
  #offline = false;
  #wake = { online: () => this.#network(false), offline: () => this.#network(true) };

  constructor(url, options = {}) {
    super();
    const given = { WebSocket: globalThis.WebSocket };
    for (const name in options) {
      must(name in OPTIONS, "option", name);
      if (options[name] !== undefined) given[name] = options[name];
    }
    for (const name in OPTIONS) {
      const [usual, fits] = OPTIONS[name];
      const value = given[name] === undefined ? usual : given[name];
      must(fits(value), name, value);
      this.#options[name] = value;
    }
    const { transports, WebSocket, base } = this.#options;
    this.#usable = transports.filter((each) => each !== "websocket" || WebSocket);
    must(this.#usable.length, "option WebSocket", "missing here");
    this.#base = base;
    const fixed = isFunction(url) ? "" : this.#absolute(url);
    this.#url = fixed ? () => fixed : url;
    this.#memory = `${PROTOCOL} ${fixed}`;
    try {
      this.#worked = sessionStorage.getItem(this.#memory);
    } catch {} // there is none, or it must not be used here
    this.state = "idle";
    this.transport = null;
    for (const name in this.#wake) globalThis.addEventListener?.(name, this.#wake[name]);
  }

  // See twisted_ws.channelToken, whose tokens these are.
  static async channelToken(user) {
    must(isText(user, /^\P{Cs}+$/u), "user", user);
    const bytes = new TextEncoder().encode(user);
    const text = Array.from(bytes, (each) => String.fromCharCode(each)).join("");
    const token = text.replace(/[^\w-]/g, (each) => `~${each.charCodeAt().toString(16).toUpperCase().padStart(2, 0)}`);
    if (token.length <= 64) return token;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const bits = Array.from(digest, (each) => each.toString(2).padStart(8, 0)).join("");
    return `~h${bits.match(/.{5}/g).slice(0, 26).map((each) => "abcdefghijklmnopqrstuvwxyz234567"[parseInt(each, 2)]).join("")}`;
  }

  subscribe(channel, listener, options = {}) {
    this.#check(channel);
    if (this.#subs.has(channel)) throw new Error(`${channel} is already subscribed to`);
    const subscription = new Subscription(channel, options, () => {
      if (!subscription.active) return;
      this.#remove(subscription);
      if (!subscription._waits) this.#link?.drop?.(subscription);
    });
    if (listener != null) subscription.on("message", listener);
    this.#subs.set(channel, subscription);
    if (subscription._prefix !== null) this.#patterns.add(subscription);
    if (this.#options.subscriptionToken) this.#grant(subscription);
    if (this.#link) this.#link.add?.(subscription);
    else this.#connect();
    return subscription;
  }

  publish(channel, data, { key, idempotencyKey } = {}) {
    return new Promise((resolve, reject) => {
      this.#check(channel);
      const ref = ++this.#count;
      if (idempotencyKey === undefined) idempotencyKey = this.#prefix + ref;
      must(key === undefined || isText(key, /^/), "key", key);
      must(isText(idempotencyKey, /^[!-~]{1,128}$/), "idempotencyKey", idempotencyKey);
      // The value is taken now, so it is the same in a frame and in the body of a request, however often it is sent.
      const bytes = binary(data);
      const json = !bytes && encode(data ?? null);
      const [type, body] = bytes ? ["application/octet-stream", bytes] : json[0] === '"' ? ["text/plain", JSON.parse(json)] : ["application/json", json];
      const content = bytes ? `"base64":"${btoa(Array.from(bytes, (each) => String.fromCharCode(each)).join(""))}"` : `"data":${json}`;
      const settle = (settled, value) => {
        if (this.#pending.delete(ref)) {
          this.#cancel(late);
          settled(value);
        }
      };
      const text = `${encode({ type: "publish", channel, key, idempotencyKey, ref }).slice(0, -1)},${content}}`;
      const publication = {
        ref,
        channel,
        text,
        size: new TextEncoder().encode(text).length,
        query: new URLSearchParams(key === undefined ? { channel } : { channel, key }),
        request: { method: "POST", body, headers: { "Content-Type": type, "Idempotency-Key": idempotencyKey } },
        why: new TwistedWSError("timeout", NO_ANSWER),
        waits: false,
        failures: 0,
        done: ({ channel, id, recipients }) => settle(resolve, { channel, id, recipients }),
        fail: (error) => settle(reject, error),
        // It has an answer; it may be tried again by itself.
        refused: (error, again) => {
          if (error.final || error.code === "internal-error") return settle(reject, error);
          publication.waits = true;
          this.#later(this.#delay(publication.failures++, error), () => {
            publication.waits = false;
            if (this.#pending.has(ref)) again();
          });
        },
      };
      const late = this.#later(this.#options.publishTimeout, () => settle(reject, publication.why));
      this.#pending.set(ref, publication);
      if (this.#link?.up) this.#link.publish(publication);
      else this.#connect();
    });
  }

  async presence(channel) {
    this.#check(channel);
    const found = await this.#request({ type: "presence", channel }, { channel, presence: true });
    const { count, members } = found.presence || found;
    return { count, members };
  }

  async history(channel, { before = null, limit = 100 } = {}) {
    this.#check(channel);
    must(before === null || isText(before, /^\w+:\d+$/), "before", before);
    must(isCount(limit), "limit", limit);
    const from = before === null ? { last: limit } : { before, limit };
    const found = await this.#request({ type: "history", channel, before: before ?? undefined, limit }, { channel, ...from });
    const messages = found.messages.map(messageOf);
    // Over HTTP, the newest page is an ordinary poll.
    return { messages, next: found.next !== undefined ? found.next : messages.length < limit ? null : messages[0].id };
  }

  // Ask over the WebSocket if there is one.
  #request(frame, query) {
    const link = this.#link;
    const token = this.#subs.get(frame.channel)?._token;
    return link?.up && link.send
      ? new Promise((done, fail) => link.send({ ...frame, token }, { done, fail, lost: fail }))
      : this.#call(`${new URLSearchParams(query)}`, { grant: token });
  }

  pause() {
    if (this.#away) return;
    this.#away = true;
    const error = new TwistedWSError("network", "paused");
    const link = this.#detach();
    this.#abort(error);
    this.#state("paused");
    if (link?.up) this._emit("close", error);
  }

  resume() {
    this.#away = this.state === "closed";
    if (!this.#link) this.#goOn();
  }

  close() {
    this.#end(new TwistedWSError("closed", "The client is closed."));
  }

  // Timers: every wait has one, and none outlives close.

  #later(milliseconds, work, waiter = {}) {
    this.#cancel(waiter);
    this.#waiters.add(waiter);
    waiter.timer = setTimeout(() => {
      this.#cancel(waiter);
      work();
    }, Math.min(milliseconds, LONGEST));
    return waiter;
  }

  #cancel(waiter) {
    clearTimeout(waiter.timer);
    waiter.timer = null;
    this.#waiters.delete(waiter);
  }

  // Full jitter: when a server comes back, its clients do not all reconnect at the same moment.
  #delay(failures, error) {
    return Math.min(LONGEST, (error.retryAfter || 0) + Math.random() * Math.min(this.#options.cap, this.#base * 2 ** failures));
  }

  // Connecting.

  #check(channel) {
    if (this.state === "closed") throw new TwistedWSError("closed", "The client is closed.");
    must(isText(channel, /^\P{Cs}*$/u), "channel", channel);
  }

  #state(state) {
    if (this.state === state) return;
    this.state = state;
    this._emit("state", state);
    if (state === "offline" || state === "paused") this._emit("offline");
  }

  #busy() {
    const busy = this.#subs.size || this.#pending.size;
    if (!busy) this.#state("idle");
    return busy;
  }

  #connect() {
    if (this.#link || this.#retry.timer || this.#away || !this.#busy()) return;
    if (!this.#round.length) {
      // A transport that opens and is cut at once, three times in a row, is no better than one that does not open.
      const bad = (each) => Math.floor((this.#cuts[each] || 0) / 3);
      const [first, ...others] = [...this.#usable].sort((one, other) => bad(one) - bad(other));
      // A transport that has worked is kept until it has failed 3 times in a row.
      const relied = this.#usable.includes(this.#worked) && this.#failures < 3 && bad(this.#worked) === bad(first);
      this.#round = relied ? [this.#worked] : [first, ...others];
      // A browser does not tell why a handshake was refused; an HTTP request does.
      if (`${this.#usable}` === "websocket") this.#round.push("look");
    }
    this.#state(this.#isOffline() ? "offline" : "connecting");
    this.#start(this.#round.shift());
  }

  // Browsers may say that they are offline when they are not, so it is no reason not to try.
  #isOffline() {
    return this.#offline || globalThis.navigator?.onLine === false;
  }

  // `more` is for a link that is tried beside the one in use: the transports to try after it.
  #start(name, { up = false, since = Date.now(), more } = {}) {
    const link = { name, up, since, more, over: false, parts: [], renewal: {}, asked: new Map(), stop() {}, publish: () => this.#post() };
    if (more) this.#next = link;
    else this.#link = link;
    this.#watch(link, this.#options.timeout);
    const run = { websocket: this.#websocket, sse: this.#events, poll: this.#poll, look: this.#poll }[name];
    run.call(this, link).catch((error) => this.#failed(link, failure(error)));
  }

  #absolute(url) {
    const { href, protocol } = new URL(url, globalThis.location?.href);
    must(/^(http|ws)s?:$/.test(protocol), "url", href);
    return href.replace(/^ws/, "http").replace(/#.*/, "");
  }

  // Tokens.

  // A token for a connection: the last one, if it lives long enough, or a new one; null without a function for tokens. One call at a time.
  #bearer(reason) {
    const { token } = this.#options;
    if (!token || (this.#token && this.#until - Date.now() > ENOUGH)) return this.#token;
    return this.#asking ||= this.#inTime(token, { reason: this.#renewed ? "expired" : reason }).then((value) => {
      if (value === null) throw new TwistedWSError("unauthorized", "There is no token.");
      must(isText(value, /^[!-~]+$/), "token", "empty, or text with spaces");
      this.#token = value;
      this.#until = expiry(value);
      return value;
    }).finally(() => { this.#asking = null; });
  }

  // What a function of the page returns, if it does before the link is given up.
  #inTime(work, asked) {
    return new Promise((resolve, reject) => {
      const fail = (error) => reject(new TwistedWSError("token", `There is no token: ${error.message || error}`));
      const late = this.#later(this.#options.timeout * 0.9, () => fail("it took too long"));
      Promise.resolve(asked).then(work).then(resolve, fail).finally(() => this.#cancel(late));
    });
  }

  // Have the `_token` of a subscription; those that are wanted within some milliseconds are asked for at once.
  #grant(each) {
    if (!each._grant) {
      each._grant = new Promise((resolve, reject) => {
        if (this.#wanted.push({ each, resolve, reject }) === 1) this.#later(TOGETHER, () => this.#askGrants());
      });
      each._grant.catch(() => { each._grant = null; });
    }
    return each._grant;
  }

  async #askGrants() {
    const wanted = this.#wanted.splice(0);
    try {
      const found = await this.#inTime(this.#options.subscriptionToken, wanted.map(({ each }) => each.channel));
      for (const { each, resolve } of wanted) {
        const token = (isText(found, /^/) ? found : found?.[each.channel]) ?? undefined;
        must(token === undefined || isText(token, /^[!-~]+$/), "subscriptionToken", "empty, or text with spaces");
        each._token = token;
        resolve();
      }
    } catch (error) {
      for (const { reject } of wanted) reject(failure(error));
    }
  }

  // Whether a token for a subscription has expired, and another can be asked for: once, until it begins again.
  #isOver(each, { code, reason }) {
    if (!this.#options.subscriptionToken || reason !== "expired" || code === "unauthorized" || each._renewed) return false;
    each._renewed = true;
    each._grant = null;
    return true;
  }

  // The credentials have ended, or are refused: come back once with others.
  #expired() {
    this.#token = null;
    if (this.#link?.up && Date.now() - this.#link.since >= LIVED) this.#renewed = false; // the last ones were good
    const may = Boolean(this.#options.token) && !this.#renewed;
    this.#renewed = true;
    return may;
  }

  // Renew them before they end.
  #renew(link, { expires }) {
    if (!this.#options.token || !isTime(expires * 1000)) return;
    this.#until = Date.now() + expires * 1000;
    const wait = (expires - Math.min(60, expires / 5)) * (900 + Math.random() * 100);
    this.#later(Math.max(wait, 1000), async () => {
      this.#token = null;
      try {
        const token = await this.#bearer("refresh");
        if (!link.over) link.send({ type: "auth", token }, { done: (frame) => { this.#renewed = false; this.#renew(link, frame); }, fail: (error) => this._emit("error", error) });
      } catch (error) {
        if (failure(error).code === "unauthorized") this.#end(error);
        else if (!link.over) this.#renew(link, { expires: (this.#until - Date.now()) / 1000 });
      }
    }, link.renewal);
  }

  // Consider a link dead if nothing is heard from it, or from a part of it, in time.
  #watch(link, milliseconds, part = link) {
    this.#later(milliseconds, () => this.#lost(link, new TwistedWSError("timeout", NO_ANSWER)), part);
  }

  #opened(link) {
    const better = link === this.#next;
    if (better) {
      this.#drop(this.#link);
      this.#next = null;
      this.#link = link;
    } else if (link.up && this.state === "open") {
      return;
    }
    link.up = true;
    const transport = link.name;
    const changed = this.transport !== transport;
    this.transport = transport;
    if (link.parts.length || link.send) {
      this.#worked = transport;
      try {
        sessionStorage.setItem(this.#memory, transport);
      } catch {}
    }
    if (this.#usable.indexOf(transport) > 0) this.#climb();
    else this.#cancel(this.#climbing);
    if (link.send) {
      for (const each of this.#subs.values()) if (!each._waits) link.add(each);
    } else if (better) {
      this.#restart(link); // subscriptions may have moved on since the request
    }
    for (const each of this.#pending.values()) if (!each.waits) link.publish(each);
    this.#state("open");
    if (changed) this._emit("transport", transport);
    if (!better) this._emit("open", { transport });
  }

  #drop(link) {
    if (!link) return;
    link.over = true;
    for (const each of [link, link.renewal, ...link.parts]) this.#cancel(each);
    link.stop();
    for (const { lost } of link.asked.values()) lost?.(new TwistedWSError("network", "The connection is lost."));
  }

  // Drop every link; return the one that was in use.
  #detach() {
    const link = this.#link;
    this.#drop(link);
    this.#drop(this.#next);
    this.#link = this.#next = null;
    this.#cancel(this.#retry);
    this.#round = [];
    return link;
  }

  #lost(link, error) {
    if (link.over) return;
    if (link === this.#next) {
      this.#drop(link);
      this.#next = null;
      return this.#climb(link.more);
    }
    if (error.final) return this.#end(error);
    if (link.up) {
      const lived = Date.now() - link.since >= LIVED;
      if (lived) this.#failures = 0;
      if (lived && link.name === this.#usable[0]) this.#climbs = 0;
      this.#cuts[link.name] = lived ? 0 : (this.#cuts[link.name] || 0) + 1;
    }
    const round = this.#round;
    this.#detach();
    if (link.up || !round.length || error.retryAfter || error.code === "token") return this.#wait(link, error);
    this.#round = round;
    this.#connect();
  }

  #wait(link, error) {
    const delay = this.#delay(this.#failures++, error);
    this.#later(delay, () => this.#goOn(), this.#retry);
    this.#state(this.#isOffline() ? "offline" : "waiting");
    if (link.up) this._emit("close", error);
    this._emit("retry", { delay, error });
  }

  #network(offline) {
    this.#offline = offline;
    if (!offline) this.#failures = 0;
    if (!offline && !this.#link?.up) this.#goOn();
    if (offline && this.#link) this.#lost(this.#link, new TwistedWSError("network", "offline"));
  }

  #goOn() {
    if (this.#away) return;
    this.#detach();
    this.#connect();
  }

  #end(error) {
    if (this.state === "closed") return;
    this.#away = true;
    this.#detach();
    for (const each of this.#waiters) this.#cancel(each);
    this.#abort(error);
    for (const name in this.#wake) globalThis.removeEventListener?.(name, this.#wake[name]);
    this.#state("closed");
    for (const each of [...this.#pending.values()]) each.fail(error);
    for (const each of [...this.#subs.values()]) error.code === "closed" ? this.#remove(each) : this.#fail(each, error);
    this._emit("close", error);
  }

  // A better transport than the one in use may get through by now: try it beside the other, less and less often.

  #climb([name, ...more] = []) {
    if (name) return this.#start(name, { more });
    if (this.#climbing.timer) return;
    this.#later(Math.min(this.#options.upgrade * 2 ** this.#climbs++, HOUR), () => {
      if (this.#link?.up) this.#climb(this.#usable.slice(0, this.#usable.indexOf(this.#link.name)));
      else this.#worked = null;
    }, this.#climbing);
  }

  // Subscriptions.

  #remove(subscription) {
    subscription.active = false;
    this.#cancel(subscription);
    this.#subs.delete(subscription.channel);
    this.#patterns.delete(subscription);
  }

  #fail(subscription, why) {
    const error = new TwistedWSError(why.code, why.message, { ...why, channel: subscription.channel });
    if (error.final) this.#remove(subscription);
    subscription._emit("error", error);
    this._emit("error", error);
  }

  // Refused for good, or tried again by itself: the others go on.
  #refused(subscription, error) {
    if (this.#isOver(subscription, error)) {
      subscription._waits = false;
      this.#link?.add?.(subscription);
      return;
    }
    this.#fail(subscription, error);
    if (!subscription.active) return;
    subscription._waits = true;
    this.#later(this.#delay(subscription._failures++, error), async () => {
      try {
        if (this.#link?.parts.length) {
          if (this.#options.subscriptionToken) await this.#grant(subscription);
          await this.#call(this.#query([subscription], "wait=0"), { grant: subscription._token });
        }
      } catch (why) {
        if (subscription.active) this.#refused(subscription, failure(why));
        return;
      }
      subscription._waits = false;
      if (subscription.active) this.#link?.add?.(subscription);
    }, subscription);
  }

  // Handle a frame from a WebSocket, or from a part of a link over HTTP.
  #take(source, frame) {
    const { type, channel, code } = frame;
    const subscription = this.#subs.get(channel);
    const live = subscription?._source === source;
    if (type === "message") {
      const message = messageOf(frame);
      if (live) {
        subscription.id = frame.id;
        subscription._emit("message", message);
      }
      for (const each of this.#patterns) {
        if (each._source === source && channel?.startsWith(each._prefix)) each._emit("message", message);
      }
    } else if (type === "broadcast") {
      this._emit("broadcast", content(frame));
    } else if (type === "welcome") {
      if (isTime(frame.retry)) this.#base = frame.retry;
      if (isTime(frame.ping * 1000, 1000)) source.heartbeat = frame.ping * 1000;
      this.#renew(source, frame);
      this.#opened(source);
    } else if (type === "unsubscribed") {
      const { reason } = frame;
      if (live && reason) this.#refused(subscription, new TwistedWSError("unsubscribed", reason, { channel, reason }));
    } else if (type === "join" || type === "leave") {
      if (live) subscription._emit(type, frame.member);
    } else if (type === "expired") {
      this.#token = null;
    } else if (type === "degraded" || type === "restored") {
      this._emit(type);
    } else if (source.subscriptions) {
      if (type === "subscribed" && source.subscriptions.includes(subscription)) subscription._begin(source, frame);
    } else if (type === "subscribed" && frame.ref === undefined && live) {
      subscription._begin(source, frame); // nobody asked: the server has lost messages
    } else {
      // The server does not know the ref of a request that it could not read, but answers requests in order.
      const [first] = source.asked.keys();
      const { ref = code === "bad-request" && !channel ? first : undefined, message, reason } = frame;
      const asked = source.asked.get(ref);
      source.asked.delete(ref);
      if (type === "error") asked?.fail(new TwistedWSError(code, message, { channel, reason, retryAfter: frame.retryAfter * 1000 || undefined }));
      else asked?.done(frame);
    }
  }

  // WebSocket.

  async #websocket(link) {
    const url = this.#absolute(await this.#url());
    const token = await this.#bearer("connect");
    if (link.over) return;
    const { heartbeat, timeout, tokenFirst } = this.#options;
    const socket = new this.#options.WebSocket(url.replace(/^http/, "ws"), token && !tokenFirst ? [PROTOCOL, offer(token)] : PROTOCOL);
    link.stop = () => {
      socket.onmessage = socket.onclose = null;
      socket.onerror = () => {}; // some implementations throw if nobody listens
      socket.close();
    };
    socket.onopen = () => tokenFirst && link.send({ type: "auth", token }); // a refusal closes the connection
    // If a policy of the page forbids WebSockets, this is the only event.
    socket.onerror = () => link.up || this.#lost(link, new TwistedWSError("network", NO_SOCKET));
    socket.onclose = ({ code, reason }) => {
      // 4401: the credentials have expired.
      let final = !COME_BACK.includes(code) && !(code === 4401 && this.#expired());
      if (code === 1009 && this.#pending.size) {
        // Whichever were too large, the largest was; the rest is sent again.
        final = false;
        const all = [...this.#pending.values()];
        const most = Math.max(...all.map(({ size }) => size));
        for (const each of all) if (each.size === most) each.fail(new TwistedWSError("too-large", reason));
      }
      this.#lost(link, new TwistedWSError("lost", reason || `closed with ${code}`, { closeCode: code, final }));
    };
    link.send = (frame, asked) => {
      const ref = asked && ++this.#count;
      if (asked) link.asked.set(ref, asked);
      socket.send(encode({ ...frame, ref }));
    };
    link.publish = (publication) => {
      link.asked.set(publication.ref, { done: publication.done, fail: (error) => publication.refused(publication.why = error, () => link.over || link.publish(publication)) });
      socket.send(publication.text);
    };
    link.drop = ({ channel }) => link.up && link.send({ type: "unsubscribe", channel });
    const subscribe = (each) => link.send({ type: "subscribe", channel: each.channel, after: each.id ?? undefined, last: each._last ?? undefined, presence: each._presence, token: each._token }, {
      done: (frame) => each.active && each._begin(link, frame),
      fail: (error) => each.active && this.#refused(each, error),
    });
    link.add = (each) => {
      if (!link.up) return;
      if (!this.#options.subscriptionToken) return subscribe(each);
      const isWanted = () => each.active && !link.over;
      this.#grant(each).then(() => isWanted() && subscribe(each), (error) => isWanted() && this.#refused(each, error));
    };
    socket.onmessage = ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {} // a service may write any text of its own
      if (frame?.type) this.#take(link, frame);
      else this._emit("broadcast", data);
      // A page does not see the server's pings, so it asks when it hears nothing.
      if (!link.over) {
        this.#later(link.heartbeat || heartbeat, () => {
          link.send({ type: "ping" });
          this.#watch(link, timeout);
        }, link);
      }
    };
  }

  // HTTP.

  async #ask(query, init) {
    const url = new URL(this.#absolute(await this.#url()));
    url.search += (url.search && "&") + query;
    const { fetch, credentials } = this.#options;
    const token = await this.#bearer("connect");
    const sent = { ...init?.headers };
    if (token) sent.Authorization = `Bearer ${token}`;
    if (init?.grant) sent["Channel-Token"] = init.grant;
    const response = await fetch(url.href, { credentials, cache: "no-store", ...init, headers: sent });
    const { status, headers } = response;
    if (status === 200) return response;
    const { error = `http-${status}`, message, channel, reason } = (await response.json().catch(() => null)) || {};
    const after = headers.get("Retry-After");
    const wait = /^\d+$/.test(after) ? after * 1000 : /GMT$/.test(after) && Date.parse(after) - (Date.parse(headers.get("Date")) || Date.now());
    throw new TwistedWSError(error, message || response.statusText, {
      status,
      channel,
      reason,
      // A request may have had a token that another has found expired before.
      final: error === TOO_MANY || status < 500 && ![408, 425, 429].includes(status) && !(status === 401 && (token !== this.#token || this.#expired())),
      retryAfter: wait > 0 ? Math.min(wait, LONGEST) : undefined,
    });
  }

  // The same for requests that are answered at once.
  async #call(query, init) {
    const abort = new AbortController();
    const timer = this.#later(this.#options.timeout, () => abort.abort(new TwistedWSError("timeout", NO_ANSWER)));
    this.#calls.add(abort);
    try {
      return await (await this.#ask(query, { ...init, signal: abort.signal })).json();
    } finally {
      this.#cancel(timer);
      this.#calls.delete(abort);
    }
  }

  #abort(error) {
    for (const each of this.#calls) each.abort(error);
  }

  #query(subscriptions, more) {
    const after = subscriptions.filter(({ id }) => id !== null).map(({ channel, id }) => `${channel}=${id}`);
    const last = subscriptions.filter(({ id, _last }) => id === null && _last !== null).map(({ channel, _last }) => `${channel}=${_last}`);
    return subscriptions.map(({ channel }) => `channel=${encodeURIComponent(channel)}&`).join("")
      + (after.length ? `after=${after}&` : "")
      + (last.length ? `last=${last}&` : "")
      + (subscriptions.some(({ _presence }) => _presence) ? "presence=true&" : "") + more;
  }

  #restart(link) {
    this.#drop(link);
    if (this.#busy()) this.#start(link.name, { up: link.up, since: link.since });
    else this.#detach();
  }

  async #http(link, work) {
    await null; // so that other subscriptions made at this moment are included
    if (link.over) return;
    const abort = new AbortController();
    link.stop = () => abort.abort();
    // A change of the subscriptions needs another request.
    link.add = link.drop = () => queueMicrotask(() => link.over || this.#restart(link));
    if (this.#options.subscriptionToken) {
      const all = [...this.#subs.values()].filter((each) => !each._waits);
      await Promise.all(all.map((each) => this.#grant(each).catch((error) => link.over || each.active && this.#refused(each, error))));
      if (link.over) return;
    }
    for (const each of this.#subs.values()) {
      if (each._waits) continue;
      const size = 2 * encodeURIComponent(each.channel).length + 32; // with its position
      let part = link.parts.find(({ grant, size: taken }) => grant === each._token && taken + size <= this.#room);
      if (!part) link.parts.push(part = { subscriptions: [], size: 0, grant: each._token });
      part.subscriptions.push(each);
      part.size += size;
    }
    if (!link.parts.length && link.name === "look") throw new Error(NO_SOCKET);
    this.#cancel(link);
    if (!link.parts.length) this.#opened(link);
    for (const each of link.parts) {
      this.#watch(link, this.#options.timeout, each);
      work(each, abort.signal).catch((error) => this.#failed(link, failure(error), each));
    }
  }

  #events(link) {
    const { heartbeat, timeout } = this.#options;
    return this.#http(link, async (part, signal) => {
      const response = await this.#ask(this.#query(part.subscriptions, "format=json"), { headers: { Accept: "text/event-stream" }, signal, grant: part.grant });
      if (!/^text\/event-stream/.test(response.headers.get("Content-Type"))) throw new Error(NO_SERVICE);
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      for (let rest = "", up = false; ;) {
        const { done, value } = await reader.read();
        if (link.over) return;
        if (done && !part.subscriptions.some(({ active }) => active)) return this.#restart(link);
        if (done) throw new Error("The stream ended.");
        const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
        rest = lines.pop();
        for (const line of lines) {
          if (line.startsWith("retry: ") && isTime(+line.slice(7))) this.#base = +line.slice(7);
          if (!line.startsWith("data: ")) continue;
          up = true;
          this.#opened(link);
          if (link.over) return;
          this.#take(part, JSON.parse(line.slice(6)));
          if (link.over) return;
        }
        if (up) this.#watch(link, heartbeat + timeout, part);
      }
    });
  }

  #poll(link) {
    const { heartbeat, timeout } = this.#options;
    return this.#http(link, async (part, signal) => {
      const { subscriptions } = part;
      const alone = subscriptions.length === 1;
      // The first response comes at once, with the positions from which nothing is missed.
      for (let wait = 0, before; ; wait = Math.min(heartbeat, 60000)) {
        const began = Date.now();
        this.#watch(link, wait + timeout, part);
        const answer = await (await this.#ask(this.#query(subscriptions, `wait=${wait / 1000}`), { signal, grant: part.grant })).json();
        if (link.over) return;
        if (!answer?.messages) throw new Error(NO_SERVICE);
        if (link.name === "look") throw new Error(NO_SOCKET);
        this.#opened(link);
        if (link.over) return;
        const { messages, presence } = answer;
        const place = answer.id || ""; // there is none if there are only patterns
        const places = Object.fromEntries(place.split(",").map((each) => each.split("=")));
        for (const each of subscriptions) {
          const { channel, id: after } = each;
          const mine = messages.filter((one) => one.channel === channel);
          const id = mine[0]?.id.replace(/\d+$/, (offset) => offset - 1) || (alone ? place : places[channel]) || null;
          const recovered = after !== null && (answer.recovered || after === "0" || after === id);
          if (each._source !== part || !recovered) {
            this.#take(part, { type: "subscribed", channel, id, recovered, count: mine.length });
          }
          if (presence && each._presence) each._emit("presence", alone ? presence : presence[channel]);
        }
        for (const message of messages) {
          if (link.over) return;
          this.#take(part, { ...message, type: "message" });
        }
        if (link.over) return;
        // Something between the client and the server answers at once with old data: that would be a loop without a pause.
        const now = place + messages[messages.length - 1]?.id;
        if (now === before && Date.now() - began < wait / 2) throw new Error("The server does not wait.");
        before = now;
      }
    });
  }

  #failed(link, error, part) {
    if (link.over) return;
    if (!part || link === this.#next) return this.#lost(link, error);
    const { subscriptions, size } = part;
    const guilty = subscriptions.find(({ channel }) => channel === error.channel);
    if (subscriptions.filter((each) => this.#isOver(each, error)).length) {
      // With other tokens.
    } else if (guilty && (error.final || subscriptions.length > 1 || link.parts.length > 1)) {
      this.#refused(guilty, error);
    } else if (([414, 431].includes(error.status) || error.code === TOO_MANY) && subscriptions.length > 1) {
      this.#room = size / 2;
    } else if (error.final) {
      for (const each of subscriptions) this.#fail(each, error);
    } else {
      return this.#lost(link, error);
    }
    if (!link.over) this.#restart(link);
  }

  // Publications are sent one after another, to keep their order; one that is refused temporarily delays its own channel only.
  async #post() {
    if (this.#posting) return;
    this.#posting = true;
    for (let failures = 0; this.#link?.up && !this.#link.send;) {
      const held = new Set();
      const publication = [...this.#pending.values()].find(({ channel, waits }) => !held.has(channel) && !(waits && held.add(channel)));
      if (!publication) break;
      try {
        publication.done(await this.#call(publication.query, { ...publication.request, grant: this.#subs.get(publication.channel)?._token }));
        failures = 0;
      } catch (error) {
        const why = publication.why = failure(error);
        if (why.final || why.channel || why.code === "internal-error") {
          publication.refused(why, () => this.#link?.up && this.#link.publish(publication));
          if (!why.channel && !this.#busy()) this.#detach(); // there may be no service at all
        } else {
          if (this.#link) await new Promise((done) => this.#later(this.#delay(failures++, why), done));
        }
      }
    }
    this.#posting = false;
  }
}

const must = (fits, name, value) => {
  if (!fits) throw new TypeError(`${name} cannot be ${String(value)}`);
};

const messageOf = (frame) => {
  const message = { channel: frame.channel, id: frame.id, data: content(frame) };
  if (frame.key !== undefined) message.key = frame.key;
  return message;
};

const failure = (error) => error instanceof TwistedWSError ? error : new TwistedWSError("network", error.name === "SyntaxError" ? NO_SERVICE : String(error).replace(/^Error: /, ""));

// When a token ends, if it is a JWT that says so.
const expiry = (token) => {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    if (isTime(exp)) return exp * 1000;
  } catch {}
  return Date.now() + UNKNOWN;
};

// A token among the subprotocols, where a browser can send one; in base64 if it has characters that a subprotocol cannot have.
const offer = (token) => {
  if (/^[\w!#$%&'*+.^\x60|~-]+$/.test(token)) return `twisted-ws.bearer.${token}`;
  return `twisted-ws.bearer64.${btoa(token).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}`;
};

// A copy of the bytes, if there are any.
const binary = (data) => ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
  : /ArrayBuffer\]$/.test(Object.prototype.toString.call(data)) ? new Uint8Array(data).slice() : null;

// The JSON of a value. JSON escapes lone surrogates, which no server can read: they become U+FFFD, as in any text that is sent.
const encode = (value) => {
  const json = JSON.stringify(value);
  must(json, "data", value);
  return json.replace(/\\(ud...|.)/g, (escaped, what) => what.length > 1 ? "\ufffd" : escaped);
};

const content = ({ data, base64 }) => base64 === undefined ? data : Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));

export { TwistedWS, TwistedWSError };
