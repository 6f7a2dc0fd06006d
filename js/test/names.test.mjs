// The names of users as tokens of channels' names: the same as the server makes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { TwistedWS } from "../twisted-ws.mjs";

const vectors = JSON.parse(readFileSync(new URL("channel-tokens.json", import.meta.url)));

test("each name has the token that the server expects", async () => {
  for (const [user, token] of Object.entries(vectors)) assert.equal(await TwistedWS.channelToken(user), token);
});

test("nobody, and lone surrogates, have none", async () => {
  for (const user of ["", "\ud800", null, 5]) await assert.rejects(TwistedWS.channelToken(user), TypeError);
});
