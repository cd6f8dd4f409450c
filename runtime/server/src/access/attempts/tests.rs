//! Who has to wait, and for how long.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn attempts() -> Attempts {
    Attempts::new(Patience { failures: 3, window: 60 * SECOND, longest: 8 * SECOND })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// How long `user` waits at an address after `now`, whole seconds; nothing is changed by asking.
fn waits(attempts: &Attempts, now: Duration, from: &str, user: &str) -> u64 {
    let until = attempts.turn_at(now, address(from), user).err().unwrap_or_default();
    until.saturating_sub(now).as_secs()
}

fn fail(attempts: &Attempts, now: Duration, from: &str, user: &str) {
    attempts.failed_at(now, address(from), user);
}

#[test]
fn after_some_failures_the_next_attempts_wait_for_longer_and_longer() {
    let attempts = attempts();
    let mut now = SECOND;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        fail(&attempts, now, "10.0.0.1", "u");
        let pause = waits(&attempts, now, "10.0.0.1", "u");
        pauses.push(pause);
        now += Duration::from_secs(pause);
    }
    assert_eq!(pauses, [0, 0, 0, 1, 2, 4, 8, 8]);
    now += 60 * SECOND;
    fail(&attempts, now, "10.0.0.1", "u");
    assert_ne!(waits(&attempts, now, "10.0.0.1", "u"), 0, "the window begins after the waiting");
    now += 70 * SECOND;
    fail(&attempts, now, "10.0.0.1", "u");
    assert_eq!(waits(&attempts, now, "10.0.0.1", "u"), 0, "all is forgotten");
}

#[test]
fn who_tries_the_same_wrong_password_again_and_again_holds_up_itself_alone() {
    let attempts = attempts();
    for second in 1..100 {
        fail(&attempts, second * SECOND, "10.0.0.1", "broken");
    }
    let now = 100 * SECOND;
    assert_ne!(waits(&attempts, now, "10.0.0.1", "broken"), 0);
    assert_eq!(waits(&attempts, now, "10.0.0.1", "neighbour"), 0);
    assert_eq!(waits(&attempts, now, "10.0.0.2", "broken"), 0);
}

#[test]
fn a_user_is_protected_from_many_addresses_and_an_address_from_many_users() {
    let attempts = attempts();
    for number in 0..4 {
        fail(&attempts, SECOND, &format!("10.0.1.{number}"), "admin");
        fail(&attempts, SECOND, "10.0.2.1", &format!("u{number}"));
    }
    assert_eq!(waits(&attempts, SECOND, "10.9.9.9", "admin"), 1);
    assert_eq!(waits(&attempts, SECOND, "10.0.2.1", "fresh"), 1);
    assert_eq!(waits(&attempts, SECOND, "10.9.9.9", "fresh"), 0);
    // They go on: it is not forgotten, and one at a time is looked at.
    let now = 50 * SECOND;
    fail(&attempts, now, "10.0.1.0", "admin");
    let now = 100 * SECOND;
    assert_eq!(attempts.turn_at(now, address("10.9.9.9"), "admin"), Ok(Turn::Alone));
    assert_eq!(waits(&attempts, now, "10.9.9.8", "admin"), 1);
    // One that succeeds holds nobody up.
    attempts.succeeded_at(now, address("10.9.9.9"), "admin", Turn::Alone);
    assert_eq!(attempts.turn_at(now, address("10.9.9.8"), "admin"), Ok(Turn::Alone));
}

#[test]
fn who_has_logged_in_from_an_address_waits_there_for_its_own_failures_only() {
    let attempts = attempts();
    attempts.succeeded_at(SECOND, address("10.0.0.1"), "u", Turn::Free);
    for number in 0..10 {
        fail(&attempts, SECOND, "10.0.0.1", &format!("x{number}"));
        fail(&attempts, SECOND, &format!("10.0.1.{number}"), "u");
    }
    assert_eq!(waits(&attempts, SECOND, "10.0.0.1", "u"), 0);
    assert_ne!(waits(&attempts, SECOND, "10.0.0.1", "v"), 0);
    assert_ne!(waits(&attempts, SECOND, "10.0.0.3", "u"), 0);
    // A neighbour behind its address can guess only so often before both wait; neither waits for more than a pause.
    for free in [true, true, true, false] {
        fail(&attempts, SECOND, "10.0.0.1", "u");
        assert_eq!(waits(&attempts, SECOND, "10.0.0.1", "u") == 0, free);
    }
    assert_eq!(attempts.turn_at(2 * SECOND, address("10.0.0.1"), "u"), Ok(Turn::Alone));
    attempts.succeeded_at(2 * SECOND, address("10.0.0.1"), "u", Turn::Alone);
    assert_eq!(attempts.turn_at(2 * SECOND, address("10.0.0.1"), "u"), Ok(Turn::Free));
}

#[test]
fn addresses_of_one_host_count_together_and_those_of_a_site_later() {
    let attempts = attempts();
    for number in 0..4 {
        fail(&attempts, SECOND, &format!("2001:db8::{number}"), &format!("u{number}"));
        fail(&attempts, SECOND, "::ffff:10.0.0.7", &format!("v{number}"));
    }
    assert_ne!(waits(&attempts, SECOND, "2001:db8::ffff:1", "x"), 0);
    assert_eq!(waits(&attempts, SECOND, "2001:db8:0:1::1", "x"), 0);
    assert_ne!(waits(&attempts, SECOND, "10.0.0.7", "x"), 0);
    for number in 0..21 {
        fail(&attempts, SECOND, &format!("2001:db8:0:{number:x}::1"), &format!("w{number}"));
    }
    assert_ne!(waits(&attempts, SECOND, "2001:db8:0:ffff::1", "x"), 0);
    assert_eq!(waits(&attempts, SECOND, "2001:db8:1::1", "x"), 0);
}

#[test]
fn before_its_turn_it_is_looked_a_few_times_and_then_once_a_pause() {
    let attempts = attempts();
    attempts.succeeded_at(SECOND, address("10.0.0.1"), "u", Turn::Free);
    let looks = |now: u32, from: &str, user| {
        (0..10).filter(|_| attempts.may_look_at(now * SECOND, address(from), user)).count()
    };
    assert_eq!(looks(1, "10.0.0.1", "u"), 4);
    assert_eq!(looks(5, "10.0.0.1", "u"), 0);
    assert_eq!(looks(9, "10.0.0.1", "u"), 1);
    // Many addresses that the user has never logged in from take nothing from it, and have together what one has.
    assert_eq!((0..10).map(|number| looks(9, &format!("10.0.1.{number}"), "u")).sum::<usize>(), 4);
    assert_eq!(looks(9, "10.0.0.1", "v"), 4);
    attempts.recognised(address("10.0.1.1"), "u");
    assert_eq!(looks(9, "10.0.1.1", "u"), 4);
    assert_eq!(looks(1_000, "10.0.0.1", "u"), 4, "no more are saved up");
}

#[test]
fn no_limit_holds_nobody_up() {
    let attempts = Attempts::new(Patience { failures: 0, window: SECOND, longest: SECOND });
    for _ in 0..100 {
        fail(&attempts, SECOND, "10.0.0.1", "u");
    }
    assert_eq!(waits(&attempts, SECOND, "10.0.0.1", "u"), 0);
}

#[tokio::test]
async fn those_who_wait_get_their_turn_one_after_the_other_and_are_not_many() {
    let attempts = Attempts::new(Patience { failures: 3, window: 60 * SECOND, longest: SECOND / 4 });
    let here = address("10.0.0.1");
    (0..4).for_each(|_| attempts.failed(here, "u"));
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(attempts.turn(here, "u", || {}))).collect();
    for turn in &mut waiting {
        assert!(futures_util::poll!(turn).is_pending());
    }
    let began = Instant::now();
    let turns = futures_util::future::join_all(waiting).await;
    let count = |wanted| turns.iter().filter(|turn| **turn == wanted).count();
    assert_eq!((count(Some(Turn::Alone)), count(None)), (4, 1), "one more than may wait");
    assert_eq!(turns.last(), Some(&Some(Turn::Alone)), "which is not the newest");
    assert!(began.elapsed() >= SECOND * 3 / 4, "{:?}", began.elapsed());
}
