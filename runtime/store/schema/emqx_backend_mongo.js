// The collections and indexes of the back end mongo, as document 003 prints them, for `mongosh`.
// `use` and `ensureIndex` of the document are the shell's older words for what stands here.

db = db.getSiblingDB("mqtt")
db.createCollection("mqtt_client")
db.createCollection("mqtt_sub")
db.createCollection("mqtt_msg")
db.createCollection("mqtt_retain")
db.createCollection("mqtt_acked")

db.mqtt_client.createIndex({clientid:1, node:2})
db.mqtt_sub.createIndex({clientid:1})
db.mqtt_msg.createIndex({sender:1, topic:2})
db.mqtt_retain.createIndex({topic:1})
