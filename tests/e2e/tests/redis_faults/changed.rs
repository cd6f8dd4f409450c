//! Options of a pool change while ten publishers send.

use tidegate_e2e::mosquitto;
use tidegate_e2e::paho::{Options as Client, Paho};
use tidegate_e2e::redis::Redis;
use tidegate_e2e::until;
use tidegate_servers::Place;
use tidegate_servers::redis::{Cli, Options};

use crate::scene::{LINE, Scene};

#[test]
fn another_channel_and_another_password_are_used_at_once_and_cost_no_message() {
    let place = Place::temporary().unwrap();
    let server = Options::new("changed").durable().password("first").start(&place).unwrap();
    let address = server.server().address();
    let redis = Redis::at(server.cli(), &address).option("password", "first").option("channel", "one");
    let mut scene = Scene::start(redis, "");
    let listeners = |cli: &Cli, channel: &str| cli.lines(&["PUBSUB", "NUMSUB", channel]).unwrap()[1].clone();
    until("the first channel is followed", || (listeners(&server.cli(), "one") == "1").then_some(()));

    // Connections that there are stay; new ones need the new password.
    server.run(&["CONFIG", "SET", "requirepass", "second"]).unwrap();
    let cli = Cli::at(&address, Some("second")).unwrap();
    scene.load.wait_more(500);
    scene.redis = Redis::at(cli.clone(), &address).option("password", "second").option("channel", "two");
    let (mark, beside) = (scene.server.log_mark(), scene.server.file("next"));
    std::fs::write(&beside, scene.redis.only(LINE)).unwrap();
    std::fs::rename(&beside, scene.server.file("conf.d/redis.conf")).unwrap();
    scene.server.wait_log(mark, "the change", |line| {
        line.contains("configuration of back ends changed") && line.contains("redis:pool1")
    });
    scene.load.wait_more(2_000);

    until("only the second channel is followed", || {
        (listeners(&cli, "one") == "0" && listeners(&cli, "two") == "1").then_some(())
    });
    let mut client = Paho::connect(scene.server.port, &Client::new(4, "asked-for"));
    client.subscribe("end", 1);
    let request = r#"{"type": "subscribe", "topic": "news", "clientid": "asked-for", "qos": 1}"#;
    assert_eq!(cli.run(&["PUBLISH", "two", request]).unwrap(), "1");
    until("the request is done", || {
        (scene.server.metric_or_zero("tidegate_store_channel_requests_total", "result=\"done\"") == 1.0)
            .then_some(())
    });
    mosquitto::publish(scene.server.port, &["-t", "news", "-m", "here", "-q", "1"]);
    assert_eq!(client.receive().payload, "here");
    // Whoever connects anew uses the new password.
    cli.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
    scene.load.wait_more(2_000);
    assert_eq!(scene.server.metric("tidegate_store_up", "redis:pool1"), 1.0);
    scene.assert_all_stored();
}
