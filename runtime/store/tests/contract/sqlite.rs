//! SQLite as a back end of the suite.

use std::path::Path;

use tidegate_event::BoxFuture;

use crate::fixture::{self, Ability, Bench, Look, State, Stored};

/// A file in the directory of the test.
pub(crate) struct Factory;

impl fixture::Factory for Factory {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn pool(&self, dir: &Path) -> String {
        format!("backend.sqlite.pool1.path = {}\n", dir.join("mqtt.db").display())
    }

    fn lacks(&self, ability: Ability) -> bool {
        matches!(ability, Ability::Commands | Ability::Scripts | Ability::Expiry)
    }

    fn look<'a>(&'a self, bench: &'a Bench) -> Box<dyn Look + 'a> {
        Box::new(Tables(bench))
    }
}

/// The tables.
struct Tables<'a>(&'a Bench);

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn stored(row: Vec<String>) -> Stored {
    let mut row = row.into_iter();
    let mut next = || row.next().expect("a column");
    Stored {
        id: next(),
        topic: next(),
        sender: next(),
        qos: next(),
        retain: next() == "1",
        payload: next(),
        time: next(),
    }
}

impl Look for Tables<'_> {
    fn messages<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Vec<Stored>> {
        Box::pin(async move {
            let columns = "msgid, topic, sender, qos, retain, payload, arrived";
            let sql = format!("select {columns} from mqtt_msg where topic = {} order by id", quoted(topic));
            self.0.rows(&sql).await.into_iter().map(stored).collect()
        })
    }

    fn retained<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let columns = "msgid, topic, sender, qos, 1, payload, arrived";
            let sql = format!("select {columns} from mqtt_retain where topic = {}", quoted(topic));
            self.0.rows(&sql).await.into_iter().next().map(stored)
        })
    }

    fn position<'a>(&'a self, client: &'a str, topic: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let (client, topic) = (quoted(client), quoted(topic));
            let sql = format!(
                "select coalesce((select msgid from mqtt_msg where id = mid), 'gone') from mqtt_acked \
                 where clientid = {client} and topic = {topic}"
            );
            self.0.rows(&sql).await.concat().pop()
        })
    }

    fn state<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Option<State>> {
        Box::pin(async move {
            let sql = format!(
                "select state, node, online_at, offline_at from mqtt_client where clientid = {}",
                quoted(client)
            );
            let row = self.0.rows(&sql).await.into_iter().next()?;
            let time = |text: &String| (text != "NULL").then(|| text.clone());
            Some(State {
                state: row[0].clone(),
                node: row[1] == self.0.node.name(),
                online_at: time(&row[2]),
                offline_at: time(&row[3]),
            })
        })
    }

    fn subscriptions<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Vec<(String, String)>> {
        Box::pin(async move {
            let sql =
                format!("select topic, qos from mqtt_sub where clientid = {} order by topic", quoted(client));
            let rows = self.0.rows(&sql).await;
            rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
        })
    }

    fn put_subscription<'a>(&'a self, client: &'a str, filter: &'a str, qos: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let values = format!("{}, {}, {}", quoted(client), quoted(filter), quoted(qos));
            self.0.exec(&format!("insert into mqtt_sub(clientid, topic, qos) values ({values})")).await;
        })
    }

    fn put_messages<'a>(&'a self, messages: &'a [Stored]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let values: Vec<String> = messages
                .iter()
                .map(|m| {
                    let id = if m.id.is_empty() { "null".to_owned() } else { quoted(&m.id) };
                    let texts = [&m.topic, &m.sender, &m.qos, &m.payload].map(|text| quoted(text));
                    let [topic, sender, qos, payload] = texts;
                    let time = format!("datetime({}, 'unixepoch')", m.time);
                    format!("({id}, {topic}, {sender}, {qos}, {}, {payload}, {time})", u8::from(m.retain))
                })
                .collect();
            let columns = "msgid, topic, sender, qos, retain, payload, arrived";
            self.0.exec(&format!("insert into mqtt_msg({columns}) values {}", values.join(","))).await;
        })
    }

    fn delete_message<'a>(&'a self, topic: &'a str, id: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let of = format!("topic = {} and msgid = {}", quoted(topic), quoted(id));
            self.0.exec(&format!("delete from mqtt_msg where {of}")).await;
        })
    }

    fn spoil_message<'a>(&'a self, topic: &'a str, id: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let of = format!("topic = {} and msgid = {}", quoted(topic), quoted(id));
            self.0.exec(&format!("update mqtt_msg set qos = 3 where {of}")).await;
        })
    }
}
