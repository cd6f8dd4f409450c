"""One paho-mqtt client, driven by JSON commands on stdin, reporting JSON events on stdout."""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

lock = threading.Lock()


def report(**event):
    with lock:
        print(json.dumps(event), flush=True)


def number(reason):
    """A reason code as a number: paho gives objects, integers or enumeration members."""
    return reason.value if hasattr(reason, "value") else int(reason)


def user_properties(message):
    return getattr(message.properties, "UserProperty", []) if message.properties else []


class Driver:
    """Holds the client; a method for every command."""

    def connect(self, command):
        version = command["version"]
        options = {"manual_ack": command.get("manual_ack", False)}
        if version != 5:
            options["clean_session"] = command["clean"]
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=command["clientid"], protocol=version,
            transport=command.get("transport", "tcp"), **options
        )
        if "path" in command:
            client.ws_set_options(path=command["path"], headers=command.get("headers"))
        if "cafile" in command:
            client.tls_set(command["cafile"], command.get("certfile"), command.get("keyfile"))
        client.on_connect = lambda c, u, flags, code, p: report(
            event="connected", code=number(code), session=flags.session_present
        )
        client.on_connect_fail = lambda c, u: report(event="connected", code=-1, session=False)
        client.on_disconnect = lambda c, u, flags, code, p: report(
            event="disconnected", code=number(code), by_server=flags.is_disconnect_packet_from_server
        )
        client.on_subscribe = lambda c, u, mid, codes, p: report(
            event="subscribed", codes=[number(code) for code in codes]
        )
        client.on_unsubscribe = lambda c, u, mid, codes, p: report(event="unsubscribed")
        client.on_publish = lambda c, u, mid, code, p: report(event="published", mid=mid, code=number(code))
        client.on_message = lambda c, u, m: report(
            event="message", topic=m.topic, payload=m.payload.decode("utf-8", "replace"), qos=m.qos,
            retain=bool(m.retain), mid=m.mid, user_properties=user_properties(m),
        )
        if "username" in command:
            client.username_pw_set(command["username"], command.get("password"))
        if "will" in command:
            will = command["will"]
            client.will_set(will["topic"], will["payload"], will.get("qos", 0), will.get("retain", False))
        arguments = {}
        if version == 5:
            arguments["clean_start"] = command["clean"]
            if "session_expiry" in command:
                properties = Properties(PacketTypes.CONNECT)
                properties.SessionExpiryInterval = command["session_expiry"]
                arguments["properties"] = properties
        self.client, self.version = client, version
        client.connect("127.0.0.1", command["port"], command["keepalive"], **arguments)
        client.loop_start()

    def subscribe(self, command):
        self.client.subscribe(command["filter"], command["qos"])

    def unsubscribe(self, command):
        self.client.unsubscribe(command["filter"])

    def publish(self, command):
        properties = None
        if self.version == 5 and command.get("user_properties"):
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [tuple(pair) for pair in command["user_properties"]]
        self.client.publish(
            command["topic"], command["payload"], command["qos"], command["retain"], properties=properties
        )

    def ack(self, command):
        self.client.ack(command["mid"], command["qos"])
        report(event="acknowledged")

    def disconnect(self, command):
        self.client.disconnect()


driver = Driver()
for line in sys.stdin:
    command = json.loads(line)
    try:
        getattr(driver, command["do"])(command)
    except Exception as error:  # reported, and the test fails on it
        report(event="error", command=command["do"], error=repr(error))
        if command["do"] == "connect":
            report(event="connected", code=-1, session=False)
    if command["do"] == "disconnect":
        break
if hasattr(driver, "client"):
    driver.client.loop_stop()
