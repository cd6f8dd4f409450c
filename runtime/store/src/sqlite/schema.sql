-- Tables of the embedded back end: the MySQL tables of document 003, names and meaning exactly, and one more.
--
-- Types are SQLite's: times are UTC text `YYYY-MM-DD HH:MM:SS`, as MySQL prints them. SQLite does not enforce the
-- lengths of varchar(N): longer client ids and topics than the documents' columns are stored, not refused.
-- A payload that is UTF-8 text without NUL is stored as text, so that it can be read and compared; any other is
-- stored as a blob. Row ids are never used twice (AUTOINCREMENT), because positions are row ids.
-- Applied to every file that is opened; what exists is left alone.

CREATE TABLE IF NOT EXISTS mqtt_client (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  clientid   varchar(64) DEFAULT NULL,
  state      varchar(3) DEFAULT NULL,             -- '1' online, '0' offline
  node       varchar(64) DEFAULT NULL,
  online_at  datetime DEFAULT NULL,
  offline_at datetime DEFAULT NULL,
  created    timestamp NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX IF NOT EXISTS mqtt_client_key ON mqtt_client (clientid);

CREATE TABLE IF NOT EXISTS mqtt_sub (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  clientid varchar(64) DEFAULT NULL,
  topic    varchar(180) DEFAULT NULL,
  qos      tinyint(1) DEFAULT NULL,
  created  timestamp NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX IF NOT EXISTS mqtt_sub_key ON mqtt_sub (clientid, topic);

CREATE TABLE IF NOT EXISTS mqtt_msg (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  msgid   varchar(64) DEFAULT NULL,
  topic   varchar(180) NOT NULL,
  sender  varchar(64) DEFAULT NULL,
  node    varchar(64) DEFAULT NULL,               -- stays NULL, as documented
  qos     tinyint(1) NOT NULL DEFAULT 0,
  retain  tinyint(1) DEFAULT NULL,
  payload blob,
  arrived datetime NOT NULL
);
-- Unique, so that a batch written again after an unclear failure stores nothing twice.
CREATE UNIQUE INDEX IF NOT EXISTS mqtt_msg_key ON mqtt_msg (msgid);
-- Every index entry ends in the row id: this one answers "topic = ? and id > ? order by id".
CREATE INDEX IF NOT EXISTS mqtt_msg_topic ON mqtt_msg (topic);

CREATE TABLE IF NOT EXISTS mqtt_retain (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  topic   varchar(180) DEFAULT NULL,
  msgid   varchar(64) DEFAULT NULL,
  sender  varchar(64) DEFAULT NULL,
  node    varchar(64) DEFAULT NULL,               -- stays NULL, as documented
  qos     tinyint(1) DEFAULT NULL,
  payload blob,
  arrived timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE UNIQUE INDEX IF NOT EXISTS mqtt_retain_key ON mqtt_retain (topic);

CREATE TABLE IF NOT EXISTS mqtt_acked (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  clientid varchar(64) DEFAULT NULL,
  topic    varchar(180) DEFAULT NULL,
  mid      int(11) DEFAULT NULL,                  -- mqtt_msg.id of the client's position in the topic
  created  timestamp NULL DEFAULT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS mqtt_acked_key ON mqtt_acked (clientid, topic);

-- Not one of document 003's: key-value pairs of modules (wasi:keyvalue).
CREATE TABLE IF NOT EXISTS mqtt_kv (
  k varchar(1024) NOT NULL PRIMARY KEY,
  v blob NOT NULL                                 -- text where it is text, as payloads are
);
