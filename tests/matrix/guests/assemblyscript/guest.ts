// The guest of the matrix in AssemblyScript, of the world `raw`: does what the last level of the topic says.

import { JSON } from "json-as";
import { decode, encode } from "./base64";

@external("$root", "host-call")
declare function hostCall(request: usize, size: usize, answer: usize): void;

// A list of bytes as the host writes it.
@unmanaged
class Bytes {
  at: usize = 0;
  size: usize = 0;
}

const ANSWER = memory.data(8);
const GIVEN = memory.data(8);

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

@json
class Message {
  topic: string = "";
  payload: string | null = null;
  payload_base64: string | null = null;
}

@json
class Event {
  message: Message | null = null;
}

@json
class Setting {
  ok: string | null = null;
}

function replace(payload: string): string {
  return '{"verdict":"replace","message":{"payload":' + JSON.stringify(payload) + "}}";
}

function failed(why: string): string {
  return '{"error":' + JSON.stringify(why) + "}";
}

function onEvent(text: string): string {
  const message = JSON.parse<Event>(text).message;
  if (message === null || !message.topic.startsWith("matrix/")) return "";
  const behaviour = message.topic.substring(7);
  const payload = message.payload;
  if (behaviour == "transform") return payload === null ? failed("the payload is no text") : transform(payload);
  if (behaviour == "drop") return '{"verdict":"drop"}';
  if (behaviour == "store") {
    const done = ask('{"call":"storage.run","connector":"fake:pool","function":"on_message_publish"}');
    return done.includes('"error"') ? failed("the store refused") : "";
  }
  if (behaviour == "config") {
    const unit = JSON.parse<Setting>(ask('{"call":"config.get","key":"unit"}')).ok;
    return unit === null ? failed("no config value unit") : replace(unit);
  }
  if (behaviour == "log") ask('{"call":"log","level":"info","message":"a line of the guest"}');
  if (behaviour == "panic") throw new Error("told to panic");
  if (behaviour == "loop") while (true) {}
  if (behaviour == "memory") {
    const kept: ArrayBuffer[] = [];
    while (true) kept.push(new ArrayBuffer(1 << 20));
  }
  if (behaviour == "bytes") {
    const encoded = message.payload_base64;
    if (encoded === null) return failed("the payload is text");
    const bytes = decode(encoded);
    const longer = new Uint8Array(bytes.length + 1);
    longer.set(bytes);
    longer[bytes.length] = 0x21;
    return '{"verdict":"replace","message":{"payload_base64":"' + encode(longer) + '"}}';
  }
  if (behaviour == "large") return payload === null ? failed("the payload is no text") : replace(reversed(payload));
  return "";
}

// The language has no exceptions to catch: text that only begins as an object would be a trap.
function transform(payload: string): string {
  if (!payload.startsWith("{")) return failed("the payload is no JSON object");
  const object = JSON.parse<JSON.Obj>(payload);
  object.set("enriched", true);
  return replace(JSON.stringify(object));
}

// Of ASCII text: characters of one unit each.
function reversed(text: string): string {
  const size = text.length;
  const turned = new Uint16Array(size);
  for (let i = 0; i < size; i++) turned[i] = <u16>text.charCodeAt(size - 1 - i);
  return String.UTF16.decode(turned.buffer);
}
