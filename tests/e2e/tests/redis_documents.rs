//! The scenarios of document 003 for Redis: its printed lines in a `.conf` file, independent MQTT clients, and then
//! `redis-cli` shows the printed keys, fields and values.
//!
//! On the shared server every scenario is a test; behind sentinels, on a cluster and with a password all of them run
//! one after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "redis_documents/scenario.rs"]
mod scenario;

use std::process::Command;

use tidegate_e2e::redis::Redis;
use tidegate_e2e::server::{binary, text_of};
use tidegate_e2e::{Server, until};
use tidegate_servers::Place;
use tidegate_servers::redis::Options;

/// Every scenario, by its name.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            scenario::$name(&Redis::single());
        })+

        const ALL: &[(&str, fn(&Redis))] = &[$((stringify!($name), scenario::$name)),+];
    };
}

scenarios! {
    a_clients_hash_says_online_and_then_offline,
    a_published_message_is_a_hash_and_a_member_of_its_topics_sorted_set,
    payload_bytes_are_stored_as_they_are,
    one_to_one_messages_go_when_they_are_acknowledged,
    one_to_many_messages_stay_and_every_client_has_its_position,
    the_newest_message_of_a_topic_replaces_the_one_before,
    a_retained_message_is_a_hash_that_is_looked_up_and_deleted,
    subscriptions_in_the_store_are_made_for_the_client,
    unsubscribing_deletes_the_position,
    the_printed_commands_run_on_every_hook,
    hostile_names_and_payloads_stay_data,
}

fn one_after_the_other(redis: &Redis) {
    for (name, scenario) in ALL {
        eprintln!("    {name}");
        redis.empty();
        scenario(redis);
    }
}

#[test]
fn all_of_it_with_a_password() {
    one_after_the_other(&Redis::with_password());
}

#[test]
fn all_of_it_over_tls_as_an_acl_user() {
    let place = Place::temporary().unwrap();
    let server = Options::new("tls").tls().user("mqtt", "public").start(&place).unwrap();
    let redis = Redis::at(server.cli(), &server.server().address()).option("ssl", "true");
    let redis = redis.option("cacertfile", &server.authority().display().to_string());
    one_after_the_other(&redis.option("user", "mqtt").option("password", "public"));
}

#[test]
fn all_of_it_behind_sentinels() {
    one_after_the_other(&Redis::sentinel());
    scenario::a_channel_subscribes_and_unsubscribes_a_live_client(&Redis::sentinel());
}

#[test]
fn all_of_it_on_a_cluster() {
    one_after_the_other(&Redis::cluster());
}

#[test]
fn a_channel_subscribes_and_unsubscribes_a_live_client() {
    scenario::a_channel_subscribes_and_unsubscribes_a_live_client(&Redis::single());
}

#[test]
fn a_channel_on_a_cluster_is_refused_at_the_start() {
    let conf = "backend.redis.pool1.type = cluster\nbackend.redis.pool1.server = 127.0.0.1:7001\n\
                backend.redis.pool1.channel = mqtt_channel\n";
    let builder = Server::builder().file("conf.d/emqx_backend_redis.conf", conf).file("data/.keep", "");
    // A runtime that starts all the same is ended by `timeout`, whose status is 124.
    let output = Command::new("timeout")
        .arg("20")
        .arg(binary())
        .args(["run", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"])
        .current_dir(builder.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let text = text_of(&output);
    assert!(!output.status.success() && output.status.code() != Some(124), "{}: {text}", output.status);
    assert!(
        text.contains("backend.redis.pool1.channel") && text.contains("Cluster cannot use PUB/SUB"),
        "{text}"
    );
}

#[test]
fn a_stored_message_expires_after_its_time() {
    let redis = Redis::single();
    let line = r##"backend.redis.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_publish"}, "expired_time": 2, "pool": "pool1"}"##;
    let server = Server::builder().file("conf.d/redis.conf", redis.only(line)).start();
    tidegate_e2e::mosquitto::publish(server.port, &["-t", "brief", "-m", "gone soon", "-q", "1"]);
    let [id] = &redis.ids("brief")[..] else { panic!("{:?}", redis.keys()) };
    assert_eq!(redis.run(&["EXISTS", &format!("mqtt:msg:{id}")]), "1");
    until("the message and its topic's set expire", || redis.keys().is_empty().then_some(()));
}
