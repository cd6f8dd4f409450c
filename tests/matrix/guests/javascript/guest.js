// The guest of the matrix in JavaScript: does what the last level of the topic says. Built twice, on QuickJS and on StarlingMonkey.

import { run } from "tidegate:storage/actions@0.1.0";
import { get } from "wasi:config/store@0.2.0-rc.1";
import { log } from "wasi:logging/logging@0.1.0-draft";

// QuickJS has no TextEncoder and TextDecoder.
const encode = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
const decode = (bytes) => decodeURIComponent(escape(String.fromCharCode(...bytes)));

const replace = (message, payload) => ({ tag: "replace", val: { ...message, payload } });

function transform(message) {
  let object;
  try {
    object = JSON.parse(decode(message.payload));
  } catch (error) {
    // What is thrown is the error of `result<verdict, hook-error>`.
    throw { tag: "failed", val: `the payload is no JSON: ${error.message}` };
  }
  return replace(message, encode(JSON.stringify({ ...object, enriched: true })));
}

function allocateForEver() {
  const kept = [];
  for (;;) kept.push(new Uint8Array(1 << 20).fill(1));
}

export const messagePublish = {
  onMessagePublish(event, client, message) {
    switch (message.topic) {
      case "matrix/transform":
        return transform(message);
      case "matrix/drop":
        return { tag: "drop" };
      case "matrix/store":
        run(event, "fake:pool", "on_message_publish", undefined);
        return { tag: "pass" };
      case "matrix/config":
        return replace(message, encode(get("unit")));
      case "matrix/log":
        log("info", "matrix", "a line of the guest");
        return { tag: "pass" };
      case "matrix/panic":
        throw new Error("told to panic");
      case "matrix/loop":
        for (;;);
      case "matrix/memory":
        return allocateForEver();
      case "matrix/bytes":
        return replace(message, Uint8Array.of(...message.payload, 0x21));
      case "matrix/large":
        return replace(message, message.payload.slice().reverse());
      default:
        return { tag: "pass" };
    }
  },
};
