// Greets: a message on hello/# becomes "Hello, <payload>!".
//
// A module without any component tooling. It is programmed against the world `tidegate:raw` (wit/raw/raw.wit): bytes in and bytes
// out, and the bytes are JSON. The host calls `handle`, this file calls `host-call`.

import { JSON } from "json-as";

// ---- The raw world: three exports and one import ----

@external("$root", "host-call")
declare function hostCall(request: usize, size: usize, answer: usize): void;

// A list of bytes as the host writes it.
@unmanaged
class Bytes {
  at: usize = 0;
  size: usize = 0;
}

// Two places that never move: what `handle` and `host-call` answer.
const ANSWER = memory.data(8);
const GIVEN = memory.data(8);

// The host makes room here for whatever it hands over. Pinned, because the collector does not see who reads it.
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  const made = __pin(__new(size, idof<ArrayBuffer>()));
  if (old) {
    memory.copy(made, old, min(oldSize, size));
    __unpin(old);
  }
  return made;
}

export function handle(event: usize, size: usize): usize {
  const text = String.UTF8.decodeUnsafe(event, size);
  __unpin(event);
  const bytes = String.UTF8.encode(onEvent(text));
  const answer = changetype<Bytes>(ANSWER);
  answer.at = __pin(changetype<usize>(bytes));
  answer.size = bytes.byteLength;
  return ANSWER;
}

// Called when the host has read the answer of `handle`.
export function cabi_post_handle(answer: usize): void {
  __unpin(changetype<Bytes>(answer).at);
}

function ask(request: string): string {
  const bytes = String.UTF8.encode(request);
  hostCall(changetype<usize>(bytes), bytes.byteLength, GIVEN);
  const given = changetype<Bytes>(GIVEN);
  const text = String.UTF8.decodeUnsafe(given.at, given.size);
  __unpin(given.at);
  return text;
}

// ---- The module ----

// What this module reads of an event. A payload that is not UTF-8 comes as `payload_base64`, so `payload` stays null.
@json
class Message {
  payload: string | null = null;
}

@json
class Event {
  hook: string = "";
  message: Message | null = null;
}

@json
class Setting {
  ok: string | null = null;
}

// What to do with one event: an answer, or nothing, which means: let it pass.
function onEvent(text: string): string {
  const event = JSON.parse<Event>(text);
  const message = event.message;
  if (event.hook != "message.publish" || message === null) {
    return ""; // `init`, the question for hooks, another hook.
  }
  const payload = message.payload;
  if (payload === null) {
    ask('{"call":"log","level":"warn","message":"the payload is not text: it passes as it is"}');
    return "";
  }
  const setting = JSON.parse<Setting>(ask('{"call":"config.get","key":"greeting"}')).ok;
  const greeting = setting === null ? "Hello" : setting;
  return '{"verdict":"replace","message":{"payload":' + JSON.stringify(greeting + ", " + payload + "!") + "}}";
}
