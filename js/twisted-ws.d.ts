// Made from twisted_ws/web/static: change that, then run tools/js.
/** Channels of a twisted_ws server in browsers, workers and Node: subscribe by name, miss nothing, publish. */

export type Transport = "websocket" | "sse" | "poll";

/**
 * What the client is doing: nothing, because there is nothing to subscribe to or to publish; connecting; connected; waiting
 * before it tries again; the same, while the browser says that it is offline; paused by you; closed for good.
 */
export type State = "idle" | "connecting" | "open" | "waiting" | "offline" | "paused" | "closed";

/** An option that is missing or undefined has its default; an invalid one is a TypeError. Milliseconds are at most 2^31 - 1. */
export interface Options {
  /** The transports that may be used, in the order in which they are tried. Default: all three, in this order. */
  transports?: readonly Transport[];
  /** Milliseconds: the upper bound of the first wait before reconnecting; it doubles with each failure. The server may override it. Default 1000. */
  base?: number;
  /** Milliseconds: the largest upper bound of a wait, at least 100. Default 30000. */
  cap?: number;
  /**
   * Milliseconds, at least 1000: how long a WebSocket may be silent before the client pings it (the server may override it), and how long a
   * long poll waits (60000 at most). Default 25000.
   */
  heartbeat?: number;
  /** Milliseconds that connecting, or the answer to a ping, may take. Default 10000. */
  timeout?: number;
  /** Milliseconds after which `publish` gives up. Stay below 5 minutes, the time for which the server keeps idempotency keys. Default 60000. */
  publishTimeout?: number;
  /**
   * Milliseconds after which the `transports` before the one in use are tried again, beside it. Each time that they fail, the time
   * doubles, up to an hour. Default 60000.
   */
  upgrade?: number;
  /** Whether HTTP requests carry cookies: "include" for a server of another origin. Default "same-origin". */
  credentials?: "omit" | "same-origin" | "include";
  /**
   * Returns the token for a connection, which is sent as a subprotocol of the WebSocket and as a Bearer token over HTTP; null if nobody is logged
   * in, which ends the client. Asked before each connection, unless the last token lives for 30 s more, and before one ends. A call that fails is
   * repeated with the waits of a connection. A client whose token is refused asks once more.
   */
  token?: (ask: { reason: "connect" | "expired" | "refresh" }) => string | null | Promise<string | null>;
  /**
   * Whether a WebSocket sends the token in its first message, in place of its handshake, of which proxies may log or limit the headers; for a
   * server that has `message` among its `sources`. Default false.
   */
  tokenFirst?: boolean;
  /**
   * Returns subscription tokens for channels: one for all of them, or an object with one for each, in which those may be missing that need
   * none. Channels that are subscribed to within 10 ms are asked for in one call. A token is used until the server says that it has expired;
   * then the function is asked again, and the subscription goes on. Over HTTP, each token needs a request of its own: one for many is better.
   */
  subscriptionToken?: (channels: string[]) => SubscriptionTokens | Promise<SubscriptionTokens>;
  /** Replaces the global WebSocket; null for none. */
  WebSocket?: unknown;
  /** Replaces the global fetch. */
  fetch?: typeof globalThis.fetch;
}

export type SubscriptionTokens = string | null | { readonly [channel: string]: string | null | undefined };

export interface Message<T = unknown> {
  /** The channel, even if the subscription is to a pattern. */
  readonly channel: string;
  /** `epoch:offset`, for use as `after`. */
  readonly id: string;
  /** The text, the JSON value, or a Uint8Array for a binary message. */
  readonly data: T;
  readonly key?: string;
}

export interface Start {
  readonly channel: string;
  /** The position before the first message that follows; null for a pattern. */
  readonly id: string | null;
  /** Whether everything since `after` follows. Also false without `after`, because nothing was requested. */
  readonly recovered: boolean;
  /** The number of past messages that follow; when polling, the number that came with this response. */
  readonly count: number;
  /** The position that was requested, or null. */
  readonly after: string | null;
}

export interface Member {
  readonly user: string;
  readonly info: unknown;
  readonly connections?: number;
}

export interface Presence {
  /** The number of connections. */
  readonly count: number;
  /** The users among them. */
  readonly members: readonly Member[];
  /** If there are more users: the cursor for the next request. */
  readonly next?: string;
}

export interface History<T = unknown> {
  /** In the order of the channel. */
  readonly messages: readonly Message<T>[];
  /** The `before` of the page before this one; null if nothing older is kept. */
  readonly next: string | null;
}

export interface Published {
  readonly channel: string;
  readonly id: string;
  readonly recipients: number;
}

/** An error. `code` is one of the protocol's error codes, or one of the client's own. */
export declare class TwistedWSError extends Error {
  /**
   * `lost` (a WebSocket was closed: see `closeCode`), `timeout` (no answer), `network` (no connection), `unsubscribed` (by the
   * server; `message` is its reason), `closed` (by `close`), `http-NNN` (a response that is not from twisted_ws), or one of the
   * protocol's.
   */
  readonly code: string;
  /** True if it is not tried again. */
  readonly final: boolean;
  readonly channel?: string;
  /** Why a token for a subscription was refused: "expired", "invalid", "revoked" or "another-user". */
  readonly reason?: string;
  /** The HTTP status code. */
  readonly status?: number;
  /** The close code of the WebSocket. */
  readonly closeCode?: number;
  /** Milliseconds that the server asked the client to wait. */
  readonly retryAfter?: number;
}

export interface SubscriptionEvents<T = unknown> {
  message: Message<T>;
  /** Messages follow: when the subscription begins, and after each reconnect. */
  subscribed: Start;
  /** After a reconnect, or with `after`: nothing was missed. */
  recovered: Start;
  /** After a reconnect, or with `after`: something was missed, or may have been. The page should reload what it shows. */
  lost: Start;
  /** Who is present, with the option `presence`; when polling, with each response. */
  presence: Presence;
  join: Member;
  leave: Member;
  /** The subscription was refused: with `final` it has ended; otherwise it is tried again by itself, and the others go on. */
  error: TwistedWSError;
}

export interface ClientEvents {
  /** The client is connected. */
  open: { readonly transport: Transport };
  /** The connection is lost; with `final`, for good: the client is closed. */
  close: TwistedWSError;
  /** The client tries again after `delay` milliseconds. */
  retry: { readonly delay: number; readonly error: TwistedWSError };
  /** The browser says that it is offline (the client still tries from time to time), or the client waits for `resume`. */
  offline: undefined;
  /** The transport has changed; that may happen without losing the connection. */
  transport: Transport;
  /** A subscription failed; the subscription gets the error as well. */
  error: TwistedWSError;
  state: State;
  /** The server cannot reach its engine: nothing is published, and what is published elsewhere comes later. */
  degraded: undefined;
  /** The server reaches its engine again. */
  restored: undefined;
  /** A broadcast to everybody, as the `data` of a message; it reaches WebSockets only. */
  broadcast: unknown;
}

declare class Emitter<Events> {
  /** Call `listener` for each event of a type. Returns a function that removes it. */
  on<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): () => void;
  off<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): void;
}

export declare class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> {
  private constructor();
  readonly channel: string;
  /** The position after the last message: keep it to resume from there another time. */
  readonly id: string | null;
  /** Whether the last answer said that nothing is missing since the requested position. */
  readonly recovered: boolean;
  /** False once it has ended. */
  readonly active: boolean;
  /** End it. */
  unsubscribe(): void;
}

export declare class TwistedWS extends Emitter<ClientEvents> {
  /**
   * The client connects by itself as soon as there is something to subscribe to or to publish.
   *
   * @param url where the service `channels` is mounted, such as "/channels" or "https://host/channels?token=…"; or a function
   *   that returns it, called before each connection.
   */
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: Options);

  /**
   * The name of a user as a token of a channel's name: `users.${await TwistedWS.channelToken("ann@example.org")}.orders`. Long names need
   * a secure context (https: or localhost).
   */
  static channelToken(user: string): Promise<string>;

  readonly state: State;
  /** The transport in use, or the last one used; null before the first. */
  readonly transport: Transport | null;

  /**
   * Subscribe to a channel, or to a pattern (`orders.*`) if the service allows that.
   *
   * @param options `after`: the position to resume from, or "0" for everything that is kept. `last`: without it, begin so many messages back.
   *   `presence`: report who is present.
   * @throws if the client is closed, or already has a subscription to this channel; TypeError if an argument is invalid.
   */
  subscribe<T = unknown>(
    channel: string,
    listener?: ((message: Message<T>) => void) | null,
    options?: { after?: string | null; last?: number | null; presence?: boolean },
  ): Subscription<T>;

  /**
   * Publish a text, bytes, or anything that JSON can express, as it is now. The client tries until the server has answered, and the message is
   * published once. What JSON writes as a string (a Date) is a text; lone surrogates become U+FFFD.
   *
   * @param options `key`: see `Message`. `idempotencyKey`: 1 to 128 visible ASCII characters.
   * @returns a promise that is rejected with a TwistedWSError if the server refuses or does not answer in time, and with a TypeError if the
   *   data cannot be published.
   */
  publish(channel: string, data: unknown, options?: { key?: string; idempotencyKey?: string }): Promise<Published>;

  /** Ask who is present on a channel. */
  presence(channel: string): Promise<Presence>;

  /**
   * Read what is kept of a channel, from the newest message back.
   *
   * @param options `before`: the id of a message: only older ones, the newest of these. `limit`: at most so many, 100 by default, up to 1000.
   */
  history<T = unknown>(channel: string, options?: { before?: string | null; limit?: number }): Promise<History<T>>;

  /** Disconnect until `resume`; subscriptions then resume where they were. */
  pause(): void;
  resume(): void;

  /** Disconnect for good. Publications still waiting are rejected; no timer remains. */
  close(): void;
}

declare global {
  interface Window {
    TwistedWS: typeof TwistedWS;
    TwistedWSError: typeof TwistedWSError;
  }
}
