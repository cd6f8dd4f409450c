//! Clients that are not let in (MQTT 5 clause 3.1.4, and 4.13 for the codes).

use tidegate_conformance::ending::{BAD_LOGIN, BUSY, Failures, NOT_AUTHORIZED, RATE_EXCEEDED, not_let_in};
use tidegate_conformance::server::{Server, password_file};
use tidegate_conformance::{Client, Connect, Version::V5, Will, name};

/// A server that lets in one user, who may not publish to `denied`; `more` are further keys of its access.
fn guarded(more: &str) -> Server {
    let configuration =
        format!("[access]\npassword_file = \"users\"\nanonymous = \"never\"\nacl_file = \"acl\"\n{more}");
    let users = password_file(&[("known", "right")]);
    Server::start_with(&configuration, &[("users", &users), ("acl", "deny all publish denied/#\n")])
}

fn known(password: &str) -> Connect {
    Connect::new(V5).login("known", password)
}

#[test]
fn mqtt_3_1_4_2_a_client_that_may_not_connect_is_told_why() {
    let server = guarded("login_failures = 0\n");
    let mut failures = Failures::new();
    let password = |password: &[u8]| Connect { password: Some(password.into()), ..Connect::new(V5) };
    let user = |user: &[u8]| Connect { username: Some(user.into()), ..Connect::new(V5) };
    for (what, connect, reason) in [
        ("a wrong password", known("wrong"), BAD_LOGIN),
        ("an empty password", known(""), BAD_LOGIN),
        ("no password", user(b"known"), BAD_LOGIN),
        ("a stranger", Connect::new(V5).login("stranger", "right"), BAD_LOGIN),
        ("a name that only begins so", Connect::new(V5).login("known ", "right"), BAD_LOGIN),
        ("nobody", Connect::new(V5), NOT_AUTHORIZED),
        ("a password alone", password(b"right"), NOT_AUTHORIZED),
        ("a will that is not allowed", known("right").will(Will::new("denied/x", "x")), NOT_AUTHORIZED),
    ] {
        let result = not_let_in(server.port, &connect).and_then(|code| match code {
            code if code == reason => Ok(()),
            code => Err(format!("{code:#04x} instead of {reason:#04x}")),
        });
        failures.add(what, result);
    }
    failures.report();
    let (mut client, _) = Client::connect_at(server.port, &known("right"));
    client.subscribe("access/behind", 1);
    client.ping();
}

#[test]
fn mqtt_3_1_4_2_a_refused_login_takes_nobody_over() {
    let server = guarded("");
    let id = name("taken");
    let kept = known("right").client_id(&id).persistent();
    let (mut client, _) = Client::connect_at(server.port, &kept);
    assert_eq!(not_let_in(server.port, &known("wrong").client_id(&id).clean(true)), Ok(BAD_LOGIN));
    client.ping();
    client.cut();
    assert!(Client::connect_at(server.port, &kept).1.session_present, "nor does it end a session");
}

#[test]
fn mqtt_3_1_4_2_logins_of_many_that_guess_at_once_are_refused() {
    let server = guarded("login_failures = 1\nlogin_penalty = \"100ms\"\n");
    let codes: Vec<u8> = std::thread::scope(|scope| {
        let guess = || not_let_in(server.port, &known("wrong")).unwrap();
        let guesses: Vec<_> = (0..30).map(|_| scope.spawn(guess)).collect();
        guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
    });
    // A few are looked at, one after the other; the others are not.
    assert!(codes.contains(&BAD_LOGIN) && codes.contains(&RATE_EXCEEDED), "{codes:02X?}");
    assert!(codes.iter().all(|code| matches!(*code, BAD_LOGIN | BUSY | RATE_EXCEEDED)), "{codes:02X?}");
}
