// Made from twisted_ws/web/static: change that, then run tools/js.
/** Channels of a twisted_ws server in browsers, workers and Node: subscribe by name, miss nothing, publish. */

export type Transport = "websocket" | "sse" | "poll";

/**
 * What the client is doing: nothing, because nothing is subscribed to or to be published; connecting; being connected;
 * waiting before it tries again; the same while the browser says that it is offline; paused by you; closed for good.
 */
export type State = "idle" | "connecting" | "open" | "waiting" | "offline" | "paused" | "closed";

/** One that is left out or undefined is the default; anything that cannot be is a TypeError. Milliseconds are at most 2^31 - 1. */
export interface Options {
  /** Those that may be used, in the order in which they are tried. Default: all three, in this order. */
  transports?: readonly Transport[];
  /** Milliseconds: the bound of the first wait before coming back; it doubles with each failure. The server's own word wins. Default 1000. */
  base?: number;
  /** Milliseconds: the highest bound of a wait, at least 100. Default 30000. */
  cap?: number;
  /**
   * Milliseconds, at least 1000: of silence after which a WebSocket is asked for a sign of life (the server's own word wins), and of one long
   * poll (60000 at most). Default 25000.
   */
  heartbeat?: number;
  /** Milliseconds that an answer may take: to connecting, to a sign of life. Default 10000. */
  timeout?: number;
  /** Milliseconds after which `publish` gives up. The server knows idempotency keys for 5 minutes: stay below. Default 60000. */
  publishTimeout?: number;
  /**
   * Milliseconds after which those of `transports` that come before the one in use are tried again, beside it; each time that they fail it
   * doubles, to an hour at most. Default 60000.
   */
  upgrade?: number;
  /** Whether requests over HTTP have cookies along: "include" for a server of another origin. Default "same-origin". */
  credentials?: "omit" | "same-origin" | "include";
  /** Instead of the global one; null for none. */
  WebSocket?: unknown;
  /** Instead of the global one. */
  fetch?: typeof globalThis.fetch;
}

export interface Message<T = unknown> {
  /** The channel, also where a pattern was subscribed to. */
  readonly channel: string;
  /** `epoch:offset`: what `after` takes. */
  readonly id: string;
  /** The text, the JSON value, or a Uint8Array for a binary message. */
  readonly data: T;
  readonly key?: string;
}

export interface Start {
  readonly channel: string;
  /** The position before the first message that follows; null for a pattern. */
  readonly id: string | null;
  /** Whether everything since `after` is there. False without `after`, too: nothing was asked for. */
  readonly recovered: boolean;
  /** How many messages of the past follow; by polling, how many came with this answer. */
  readonly count: number;
  /** The position that was asked for, or null. */
  readonly after: string | null;
}

export interface Member {
  readonly user: string;
  readonly info: unknown;
  readonly connections?: number;
}

export interface Presence {
  /** The connections. */
  readonly count: number;
  /** The users among them. */
  readonly members: readonly Member[];
  /** Where there are more users: after whom to go on. */
  readonly next?: string;
}

export interface Published {
  readonly channel: string;
  readonly id: string;
  readonly recipients: number;
}

/** What went wrong. `code` is one of the protocol's error codes, or one of the client's own: */
export declare class TwistedWSError extends Error {
  /**
   * `lost` (a WebSocket was closed: see `closeCode`), `timeout` (no answer), `network` (no connection), `unsubscribed` (by the
   * server; `message` has its reason), `closed` (by `close`), `http-NNN` (an answer that no twisted_ws gave), or the protocol's.
   */
  readonly code: string;
  /** Whether this is not tried again. */
  readonly final: boolean;
  readonly channel?: string;
  /** The HTTP status. */
  readonly status?: number;
  /** The close code of the WebSocket. */
  readonly closeCode?: number;
  /** Milliseconds that the server asked to wait. */
  readonly retryAfter?: number;
}

export interface SubscriptionEvents<T = unknown> {
  message: Message<T>;
  /** Messages come from here on: at the beginning, and after each return. */
  subscribed: Start;
  /** After a return, or with `after`: nothing was missed. */
  recovered: Start;
  /** After a return, or with `after`: something was missed, or may have been. What the page shows should be loaded anew. */
  lost: Start;
  /** Who is there, with the option `presence`; on polls each time that one is answered. */
  presence: Presence;
  join: Member;
  leave: Member;
  /** It was refused: with `final` it has ended, else it is tried again by itself, and the others go on. */
  error: TwistedWSError;
}

export interface ClientEvents {
  /** It is connected. */
  open: { readonly transport: Transport };
  /** The connection is lost; with `final`, for good: the client is closed. */
  close: TwistedWSError;
  /** It tries again after `delay` milliseconds. */
  retry: { readonly delay: number; readonly error: TwistedWSError };
  /** The browser says that it is offline (it is tried all the same, from time to time), or it waits for `resume`. */
  offline: undefined;
  /** Another transport than before is used; it may change without a loss of the connection. */
  transport: Transport;
  /** Something about a subscription went wrong; the subscription is told as well. */
  error: TwistedWSError;
  state: State;
  /** What was broadcast to everybody, as the `data` of a message; it reaches WebSockets only. */
  broadcast: unknown;
}

declare class Emitter<Events> {
  /** Call `listener` for each event of a type; the function that is returned ends that. */
  on<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): () => void;
  off<Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void): void;
}

export declare class Subscription<T = unknown> extends Emitter<SubscriptionEvents<T>> {
  private constructor();
  readonly channel: string;
  /** The position after the last message: keep it to go on from there another time. */
  readonly id: string | null;
  /** What the last answer said: whether everything since the position asked for is there. */
  readonly recovered: boolean;
  /** False when it has ended. */
  readonly active: boolean;
  /** End it. */
  unsubscribe(): void;
}

export declare class TwistedWS extends Emitter<ClientEvents> {
  /**
   * Connects by itself as soon as there is something to subscribe to or to publish.
   *
   * @param url where the service `channels` is mounted, as "/channels" or "https://host/channels?token=…"; or a function that
   *   is asked for it before each connection.
   */
  constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: Options);

  readonly state: State;
  /** The transport in use, or the one that was last. */
  readonly transport: Transport | null;

  /**
   * Subscribe to a channel, or to a pattern (`orders.*`) where the service allows that.
   *
   * @param options `after`: the position to go on from, or "0" for everything that is kept. `presence`: tell who is there.
   * @throws the client is closed, or has a subscription to this channel; or an argument cannot be (TypeError).
   */
  subscribe<T = unknown>(
    channel: string,
    listener?: ((message: Message<T>) => void) | null,
    options?: { after?: string | null; presence?: boolean },
  ): Subscription<T>;

  /**
   * Publish a text, bytes, or what JSON can say, as it is now. It is tried until the server has answered, and published once. What JSON says with
   * a string (a Date) is a text; lone surrogates become U+FFFD.
   *
   * @param options `key`: see `Message`. `idempotencyKey`: 1 to 128 visible ASCII characters.
   * @returns a promise that is rejected with a TwistedWSError when the server refuses, or did not answer in time, and with a TypeError for what
   *   cannot be published.
   */
  publish(channel: string, data: unknown, options?: { key?: string; idempotencyKey?: string }): Promise<Published>;

  /** Ask who is on a channel. */
  presence(channel: string): Promise<Presence>;

  /** Disconnect, and stay away until `resume`; subscriptions go on from where they were. */
  pause(): void;
  resume(): void;

  /** Disconnect for good. What was not published is rejected; no timer is left. */
  close(): void;
}

declare global {
  interface Window {
    TwistedWS: typeof TwistedWS;
    TwistedWSError: typeof TwistedWSError;
  }
}
