//! The gate as a whole: files, clients without a name, wrong passwords, reloading.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use tidegate_event::Certificate;

use super::*;

/// Of `right`, at the least cost there is.
fn cheap_hash() -> String {
    cheap_hash_of("right")
}

fn cheap_hash_of(password: &str) -> String {
    use argon2::password_hash::{PasswordHasher as _, SaltString};
    let params = argon2::Params::new(8, 1, 1, None).unwrap();
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon
        .hash_password(password.as_bytes(), &SaltString::from_b64("c29tZXNhbHQ").unwrap())
        .unwrap()
        .to_string()
}

fn config(dir: &Path, users: &[&str], acl: Option<&str>) -> AccessConfig {
    let mut config = AccessConfig::default();
    if !users.is_empty() {
        let path = dir.join("users");
        let hash = cheap_hash();
        std::fs::write(&path, users.iter().map(|user| format!("{user}:{hash}\n")).collect::<String>())
            .unwrap();
        config.password_file = Some(path);
    }
    if let Some(acl) = acl {
        let path = dir.join("acl");
        std::fs::write(&path, acl).unwrap();
        config.acl_file = Some(path);
    }
    config
}

fn open(config: &AccessConfig) -> Access {
    let (files, found) = files(config);
    assert!(found.iter().all(Result::is_ok));
    Access::new(config, files)
}

fn remote(client: Client) -> Client {
    Client { peer: "192.0.2.1:7".parse().unwrap(), ..client }
}

async fn knock(access: &Access, client: Client, password: Option<&str>) -> u8 {
    let password = password.map(|text| Password::new(text.to_owned().into()));
    match access.connect(&Arc::new(client), password).await {
        Decision::Allow => 0,
        Decision::Refuse(code) => code.0,
    }
}

fn publishes(access: &Access, client: &Client, topic: &str) -> bool {
    access.may_publish(client, &topic.parse().unwrap())
}

fn subscribes(access: &Access, client: &Client, filter: &str) -> bool {
    access.may_subscribe(client, &filter.parse().unwrap())
}

#[tokio::test]
async fn clients_without_a_name_connect_from_where_the_configuration_says() {
    for (anonymous, near, far) in
        [(Anonymous::Loopback, 0, 0x87), (Anonymous::Never, 0x87, 0x87), (Anonymous::Always, 0, 0)]
    {
        let access = open(&AccessConfig { anonymous, ..AccessConfig::default() });
        assert_eq!(knock(&access, test_client("c", None), None).await, near, "{anonymous:?}");
        assert_eq!(knock(&access, remote(test_client("c", None)), None).await, far, "{anonymous:?}");
        let behind_proxy = Client { forwarded: true, ..test_client("c", None) };
        assert!(!subscribes(&access, &behind_proxy, "$SYS/#"));
        assert_eq!(knock(&access, behind_proxy, None).await, far, "{anonymous:?}");
        // Without a file nobody checks the name.
        assert_eq!(knock(&access, test_client("c", Some("u")), Some("x")).await, near, "{anonymous:?}");
        assert_eq!(
            knock(&access, remote(test_client("c", Some("u"))), Some("x")).await,
            far,
            "{anonymous:?}"
        );
    }
}

#[tokio::test]
async fn a_name_needs_its_password_wherever_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let access = open(&config(dir.path(), &["u"], None));
    for far in [false, true] {
        let client = |name| if far { remote(test_client("c", name)) } else { test_client("c", name) };
        assert_eq!(knock(&access, client(Some("u")), Some("right")).await, 0);
        assert_eq!(knock(&access, client(Some("u")), Some("wrong")).await, 0x86);
        assert_eq!(knock(&access, client(Some("u")), None).await, 0x86);
        assert_eq!(
            knock(&access, client(Some("stranger")), Some("right")).await,
            0x86,
            "the hash of another"
        );
        assert_eq!(knock(&access, client(None), None).await, if far { 0x87 } else { 0 });
    }
}

#[tokio::test]
async fn a_certificate_stands_for_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let anonymous = Anonymous::Never;
    let access =
        open(&AccessConfig { anonymous, ..config(dir.path(), &["u"], Some("allow user d pubsub $d/#")) });
    let certificate = Some(Arc::new(Certificate { common_name: Some("d".into()), subject: "CN=d".into() }));
    let shown = |name| Client { certificate: certificate.clone(), ..remote(test_client("c", name)) };
    // Its name is not in the file.
    let proved = Client { certified: true, ..shown(Some("d")) };
    assert_eq!(knock(&access, proved.clone(), None).await, 0);
    assert_eq!(knock(&access, proved.clone(), Some("whatever")).await, 0);
    assert!(publishes(&access, &proved, "$d/x") && subscribes(&access, &proved, "$d/#"));
    assert_eq!(knock(&access, shown(None), None).await, 0, "and no name at all");
    // A name of CONNECT is another matter.
    assert_eq!(knock(&access, shown(Some("d")), None).await, 0x86);
    assert_eq!(knock(&access, shown(Some("u")), Some("right")).await, 0);
    assert_eq!(knock(&access, remote(test_client("c", None)), None).await, 0x87);
}

#[tokio::test]
async fn who_guesses_has_to_wait_and_a_right_password_gets_in_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let longest = Duration::from_millis(200);
    let patience = Patience { failures: 3, window: Duration::from_secs(60), longest };
    let access = open(&AccessConfig { patience, ..config(dir.path(), &["u", "v"], None) });
    let from = |address: &str, name: &str| Client {
        peer: format!("{address}:1").parse().unwrap(),
        ..test_client("c", Some(name))
    };
    for number in 0..4 {
        for address in ["10.0.0.1", &format!("10.0.1.{number}")] {
            assert_eq!(knock(&access, from(address, "u"), Some("wrong")).await, 0x86);
        }
        assert_eq!(knock(&access, from("10.0.2.1", &format!("x{number}")), Some("wrong")).await, 0x86);
    }
    let guess = async { while knock(&access, from("10.0.0.1", "u"), Some("wrong")).await != 0 {} };
    // The user itself at the same address, and at another; somebody else at an address where many have failed.
    let honest = async {
        for (address, name) in [("10.0.0.1", "u"), ("10.9.9.9", "u"), ("10.0.2.1", "v")] {
            assert_eq!(knock(&access, from(address, name), Some("right")).await, 0, "{name} at {address}");
        }
    };
    tokio::select! {
        () = guess => {}
        () = honest => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("locked out"),
    }
    let again = knock(&access, from("10.9.9.9", "u"), Some("right"));
    assert_eq!(futures_util::FutureExt::now_or_never(again), Some(0), "it has been here before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_guesses_at_once_are_no_more_than_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let patience =
        Patience { failures: 5, window: Duration::from_secs(60), longest: Duration::from_millis(100) };
    let access = open(&AccessConfig { patience, ..config(dir.path(), &["u"], None) });
    let guesses = (0..200).map(|_| knock(&access, test_client("c", Some("u")), Some("wrong")));
    let codes = futures_util::future::join_all(guesses).await;
    let looked_at = codes.iter().filter(|code| **code == 0x86).count();
    let others = std::thread::available_parallelism().unwrap().get() - 1;
    // Six at once, and the four that may wait.
    assert!((10..=10 + others).contains(&looked_at), "{looked_at}");
    // The line for checks is bounded, too.
    assert!(codes.iter().all(|code| [0x86, 0x89, 0x9f].contains(code)));
}

#[tokio::test]
async fn a_fleet_that_returns_does_not_wait_behind_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let access = open(&config(dir.path(), &["u"], None));
    let login = |password| knock(&access, remote(test_client("c", Some("u"))), Some(password));
    assert_eq!(login("right").await, 0);
    let busy = access.gatekeeper.checks.keep_busy().await;
    assert!(busy.is_some());
    let mut waits = Vec::new();
    for number in 0..8 {
        let stranger = Client { peer: "10.0.0.1:1".parse().unwrap(), ..test_client("c", Some("x")) };
        let mut stranger = Box::pin(knock(&access, stranger, Some("guess")));
        assert!(futures_util::poll!(&mut stranger).is_pending(), "{number}");
        waits.push(stranger);
    }
    assert_eq!(futures_util::FutureExt::now_or_never(login("right")), Some(0));
    assert_eq!(futures_util::FutureExt::now_or_never(login("wrong")), None, "it waits with the others");
}

/// Places to wait in were all taken by those who guess, and who came with the right password was refused unseen.
#[tokio::test]
async fn who_logs_in_again_does_not_wait_with_those_who_guess() {
    use futures_util::FutureExt as _;

    let dir = tempfile::tempdir().unwrap();
    let minute = Duration::from_secs(60);
    let patience = Patience { failures: 3, window: minute, longest: minute };
    let access = open(&AccessConfig { patience, ..config(dir.path(), &["u", "v", "w"], None) });
    let from = |address: &str, name: &str, password| {
        let peer = format!("{address}:1").parse().unwrap();
        Box::pin(knock(&access, Client { peer, ..test_client("c", Some(name)) }, Some(password)))
    };
    for (address, name) in [("10.0.0.1", "u"), ("10.0.0.1", "w"), ("10.0.0.9", "v")] {
        assert_eq!(from(address, name, "right").await, 0);
    }
    // As the user that is there, and as strangers; so many that no place is left.
    for name in ["u", "u", "u", "u", "x0", "x1", "x2"] {
        assert_eq!(from("10.0.0.1", name, "wrong").await, 0x86);
    }
    let mut waiting = Vec::new();
    for number in 0..40 {
        let mut guess = from("10.0.0.1", &format!("x{}", number / 4), "wrong");
        assert!(futures_util::poll!(&mut guess).is_pending(), "{number}");
        waiting.push(guess);
    }
    let mut guess = async || {
        let mut guess = from("10.0.0.1", "u", "wrong");
        assert!(futures_util::poll!(&mut guess).is_pending());
        waiting.push(guess);
    };
    guess().await;
    // Here before; here before, and nobody guesses its password; never here before.
    for name in ["u", "w", "v"] {
        assert_eq!(from("10.0.0.1", name, "right").now_or_never(), Some(0), "{name}");
    }
    // But it is no way to guess faster.
    for _ in 0..4 {
        guess().await;
    }
    assert_eq!(from("10.0.0.1", "u", "right").now_or_never(), None);
    assert_eq!(from("10.0.0.1", "v", "right").now_or_never(), Some(0));
}

/// It was checked against the file as it was when it came: who was taken out while it waited got in.
#[tokio::test]
async fn a_login_that_waits_is_answered_by_the_file_as_it_is_then() {
    let dir = tempfile::tempdir().unwrap();
    let access = open(&config(dir.path(), &["u", "v"], None));
    let others = format!("v:{}\n", cheap_hash());
    for (users, expected) in [
        (format!("u:{}\n{others}", cheap_hash_of("other")), 0x86),
        (others.clone(), 0x86),
        // Who is remembered does not wait, so this one is the last.
        (format!("u:{}\n{others}", cheap_hash()), 0),
    ] {
        std::fs::write(dir.path().join("users"), format!("u:{}\n", cheap_hash())).unwrap();
        access.reload();
        let busy = access.gatekeeper.checks.keep_busy().await;
        let client = remote(test_client("c", Some("u")));
        let mut waits = Box::pin(knock(&access, client, Some("right")));
        let is_waiting = futures_util::poll!(&mut waits).is_pending();
        std::fs::write(dir.path().join("users"), &users).unwrap();
        access.reload();
        drop(busy);
        assert_eq!((is_waiting, waits.await), (true, expected), "{users}");
    }
}

#[test]
fn a_session_is_for_the_user_that_has_proved_to_be_that() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["u", "v"], None);
    let access = open(&config);
    let by_password = |name| access.owner(&test_client("c", Some(name)));
    let owner = by_password("u").unwrap();
    assert_eq!(owner, Owner { user: "u".into(), certified: false });
    let certified = Client { certified: true, ..test_client("c", Some("d")) };
    let by_certificate = access.owner(&certified).unwrap();
    assert!(access.owner(&test_client("c", None)).is_none());
    for (client, owner, may) in [
        (test_client("c", Some("u")), &owner, true),
        (test_client("c", Some("v")), &owner, false),
        (test_client("c", None), &owner, false),
        (Client { certified: true, ..test_client("c", Some("u")) }, &owner, true),
        (certified, &by_certificate, true),
        (test_client("c", Some("v")), &by_certificate, false),
    ] {
        assert_eq!(access.may_take(&client, owner), may, "{client:?} {owner:?}");
    }
    // A user that was taken out of the file leaves its client ids to others.
    std::fs::write(dir.path().join("users"), format!("v:{}\n", cheap_hash())).unwrap();
    access.reload();
    assert!(access.may_take(&test_client("c", Some("v")), &owner));
    assert!(!access.may_take(&test_client("c", Some("v")), &by_certificate));

    let free = open(&AccessConfig { client_ids: ClientIds::Free, ..config });
    assert!(free.owner(&test_client("c", Some("v"))).is_none());
    assert!(free.may_take(&test_client("c", Some("v")), &by_certificate));
    // Names that nobody checks prove nothing.
    assert!(open(&AccessConfig::default()).owner(&test_client("c", Some("u"))).is_none());
}

#[test]
fn what_begins_with_a_dollar_is_free_but_statistics() {
    let access = open(&AccessConfig::default());
    assert_eq!(access.generation(), None, "there is nothing worth keeping");
    let (near, far) = (test_client("c", None), remote(test_client("c", None)));
    for client in [&near, &far] {
        assert!(publishes(&access, client, "a/b"));
        assert!(publishes(&access, client, "$own/x"));
        assert!(subscribes(&access, client, "#"));
        assert!(subscribes(&access, client, "$own/#"));
    }
    assert!(subscribes(&access, &near, "$SYS/#"));
    assert!(!subscribes(&access, &far, "$SYS/#"));
    assert!(!subscribes(&access, &far, "$SYS/broker/+"));

    let dir = tempfile::tempdir().unwrap();
    let acl = "allow addr 192.0.2.0/24 pubsub $own/# $SYS/broker/+\ndeny all subscribe $SYS/#";
    let access = open(&config(dir.path(), &[], Some(acl)));
    assert!(access.generation().is_some());
    assert!(publishes(&access, &far, "$own/x"));
    assert!(subscribes(&access, &far, "$SYS/broker/uptime") && !subscribes(&access, &far, "$SYS/#"));
    assert!(!subscribes(&access, &near, "$SYS/#"));
}

#[test]
fn the_default_holds_where_no_line_matches() {
    let dir = tempfile::tempdir().unwrap();
    let acl = "allow user u pubsub u/${username}/#\nallow all subscribe public/#";
    let access = open(&AccessConfig { fallback: Fallback::Deny, ..config(dir.path(), &[], Some(acl)) });
    let (user, nobody) = (test_client("c", Some("u")), test_client("c", None));
    assert!(publishes(&access, &user, "u/u/x") && !publishes(&access, &nobody, "u/u/x"));
    assert!(!publishes(&access, &user, "other") && !subscribes(&access, &user, "#"));
    assert!(subscribes(&access, &nobody, "public/+") && !subscribes(&access, &nobody, "+/x"));
}

#[test]
fn files_that_change_hold_at_once_and_wrong_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &["u", "v"], Some("deny all publish secret/#"));
    let access = open(&config);
    let (one, two) = (test_client("c", Some("u")), test_client("d", Some("v")));
    let before = access.generation();
    assert!(publishes(&access, &one, "open") && !publishes(&access, &one, "secret/x"));

    std::fs::write(dir.path().join("acl"), "deny all publish open\n").unwrap();
    access.reload();
    assert_ne!(access.generation(), before);
    assert!(!publishes(&access, &one, "open") && publishes(&access, &one, "secret/x"));

    // One wrong file does not keep the other back.
    std::fs::write(dir.path().join("acl"), "deny all publish\n").unwrap();
    std::fs::write(dir.path().join("users"), format!("v:{}\n", cheap_hash())).unwrap();
    access.reload();
    assert!(!publishes(&access, &two, "open") && publishes(&access, &two, "secret/x"));
    assert!(!publishes(&access, &one, "secret/x"), "the user is gone");
    assert!(!subscribes(&access, &one, "secret/x"));

    std::fs::remove_file(dir.path().join("users")).unwrap();
    access.reload();
    assert!(publishes(&access, &two, "secret/x"), "a file that is gone changes nothing");
}

#[test]
fn what_may_be_a_mistake_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let warnings = |config: &AccessConfig| -> Vec<String> {
        let (_, found) = files(config);
        found.into_iter().flat_map(|found| found.ok().unwrap().warnings).map(|w| w.to_string()).collect()
    };
    let acl = config(dir.path(), &[], Some("allow user u publish #"));
    assert!(warnings(&acl)[0].contains("lines about users"), "{:?}", warnings(&acl));
    let both = config(dir.path(), &["u"], Some("allow user u publish #"));
    let users = dir.path().join("users");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = warnings(&both);
    assert!(told.len() == 1 && told[0].contains("(mode 0644): chmod 600"), "{told:?}");
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(warnings(&both).is_empty());
    let (_, found) = files(&AccessConfig { acl_file: Some("/nonexistent/acl".into()), ..both });
    let problems = found.into_iter().filter_map(Result::err).flatten().collect::<Vec<_>>();
    assert!(problems[0].to_string().contains("/nonexistent/acl: cannot be read"), "{problems:?}");
}
