"""The guest of the matrix in Python: does what the last level of the topic says."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import actions, logging, store
from wit_world.imports.tidegate_hooks_types import HookError_Failed, Verdict_Drop, Verdict_Pass, Verdict_Replace


class MessagePublish(exports.MessagePublish):
    def on_message_publish(self, event, client, message):
        match message.topic.removeprefix("matrix/"):
            case "transform":
                try:
                    changed = json.loads(message.payload)
                    changed["enriched"] = True
                except (ValueError, TypeError) as error:
                    raise Err(HookError_Failed(f"the payload is no JSON object: {error}"))
                message.payload = json.dumps(changed).encode()
            case "drop":
                return Verdict_Drop()
            case "store":
                actions.run(event, "fake:pool", "on_message_publish", None)
                return Verdict_Pass()
            case "config":
                message.payload = store.get("unit").encode()
            case "log":
                logging.log(logging.Level.INFO, "matrix", "a line of the guest")
                return Verdict_Pass()
            case "panic":
                raise RuntimeError("told to panic")
            case "loop":
                while True:
                    pass
            case "memory":
                kept = []
                while True:
                    kept.append(bytearray(1 << 20))
            case "bytes":
                message.payload += b"!"
            case "large":
                message.payload = message.payload[::-1]
            case _:
                return Verdict_Pass()
        return Verdict_Replace(message)
