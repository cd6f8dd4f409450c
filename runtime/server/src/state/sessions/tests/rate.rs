//! What one fsync is shared by: how many changes a second become durable for one and for a hundred who wait.

use std::time::Instant;

use super::*;

const TIME: Duration = Duration::from_millis(600);

/// Messages a second that `waiters` queue, each waiting for one before the next.
async fn rate(durability: SessionDurability, waiters: u64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open_with(dir.path(), durability);
    store.keep((1..=waiters).map(|session| opened(session, &format!("c{session}")))).await;
    let news = message("t", &"x".repeat(256));
    let begun = Instant::now();
    let waiting = (1..=waiters).map(|session| {
        let (store, news) = (&store, &news);
        async move {
            let mut number = 0_u64;
            while begun.elapsed() < TIME {
                number += 1;
                store.keep([queued(session, number, news)]).await;
            }
            number
        }
    });
    let changes: u64 = futures_util::future::join_all(waiting).await.into_iter().sum();
    let rate = changes as f64 / begun.elapsed().as_secs_f64();
    println!("{durability:?}, {waiters} waiting: {rate:.0} changes a second");
    rate
}

#[tokio::test]
async fn a_hundred_who_wait_share_one_fsync() {
    let (synced, written) = (SessionDurability::Synced, SessionDurability::Written);
    let (one, hundred) = (rate(synced, 1).await, rate(synced, 100).await);
    let (one_written, hundred_written) = (rate(written, 1).await, rate(written, 100).await);
    println!(
        "a hundred to one: {:.1} synced, {:.1} written; written to synced: {:.1} for one, {:.1} for a hundred",
        hundred / one,
        hundred_written / one_written,
        one_written / one,
        hundred_written / hundred
    );
    assert!(hundred > 4.0 * one, "{hundred:.0} to {one:.0} changes a second");
}
