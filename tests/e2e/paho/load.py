"""Publishes numbered messages as fast as acknowledgements allow and prints each acknowledged payload.

usage: load.py PORT VERSION CLIENTID TOPIC QOS WINDOW
Ends when the connection does.
"""

import queue
import sys
import threading

import paho.mqtt.client as mqtt

port, version, client_id, topic, qos, window = sys.argv[1:7]
slots = threading.Semaphore(int(window))
connected, gone = threading.Event(), threading.Event()
sent = {}
known = threading.Lock()
acknowledged = queue.SimpleQueue()


def on_publish(client, userdata, mid, code, properties):
    # Only noted here: paho holds its own lock now, and publish() takes that one while `known` is held.
    acknowledged.put((mid, bool(getattr(code, "is_failure", False))))


def report():
    while True:
        mid, failed = acknowledged.get()
        with known:
            payload = sent.pop(mid)
        if not failed:
            print(payload, flush=True)
        slots.release()


def on_disconnect(client, userdata, flags, code, properties):
    gone.set()
    slots.release()


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=int(version), reconnect_on_failure=False
)
client.max_inflight_messages_set(int(window))
client.on_connect = lambda *_: connected.set()
client.on_publish = on_publish
client.on_disconnect = on_disconnect
threading.Thread(target=report, daemon=True).start()
client.connect("127.0.0.1", int(port), 60)
client.loop_start()
if not connected.wait(20):
    sys.exit("not connected")
number = 0
while not gone.is_set():
    slots.acquire()
    payload = f"{client_id}-{number}"
    with known:  # the acknowledgement may arrive before publish() returns
        info = client.publish(topic, payload, int(qos))
        sent[info.mid] = payload
    number += 1
client.loop_stop()
