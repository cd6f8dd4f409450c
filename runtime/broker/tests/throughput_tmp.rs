#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod support;
use std::time::Instant;
use support::client::Client;
use support::packet::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn raw(address: std::net::SocketAddr, c: Connect, sub: Option<(&str, u8)>) -> TcpStream {
    let mut s = TcpStream::connect(address).await.unwrap();
    s.set_nodelay(true).unwrap();
    s.write_all(&c.bytes()).await.unwrap();
    let mut b = [0; 4];
    s.read_exact(&mut b).await.unwrap();
    if let Some((f, q)) = sub {
        s.write_all(&subscribe(false, 1, &[(f, q)], &[])).await.unwrap();
        let mut b = [0; 5];
        s.read_exact(&mut b).await.unwrap();
    }
    s
}

async fn qos0(subs: usize, total: usize) {
    let config = tidegate_broker::BrokerConfig::default();
    let server = support::with_config(config).await;
    let mut tasks = Vec::new();
    for i in 0..subs {
        let mut s = raw(server.address, Connect::v4(&format!("s{i}")), Some(("bench/t", 0))).await;
        tasks.push(tokio::spawn(async move {
            let mut buf = vec![0u8; 256 * 1024];
            let mut got = 0usize;
            let size = 64 + 2 + 2 + 7;
            loop {
                match tokio::time::timeout(std::time::Duration::from_secs(1), s.read(&mut buf)).await {
                    Ok(Ok(n)) if n > 0 => got += n,
                    _ => break,
                }
                if got / size == total {
                    break;
                }
            }
            (got / size, Instant::now())
        }));
    }
    let mut p = raw(server.address, Connect::v4("p"), None).await;
    let one = Publish {
        v5: false,
        topic: "bench/t",
        payload: &[b'x'; 64],
        qos: 0,
        id: 0,
        retain: false,
        dup: false,
        properties: &[],
    }
    .bytes();
    let batch = one.repeat(200);
    let start = Instant::now();
    for _ in 0..total / 200 {
        p.write_all(&batch).await.unwrap();
    }
    let sent = start.elapsed();
    let mut sum = 0;
    let mut end = start;
    for t in tasks {
        let (got, at) = t.await.unwrap();
        sum += got;
        if got == total {
            end = end.max(at);
        } else {
            end = end.max(at - std::time::Duration::from_secs(1));
        }
    }
    let secs = (end - start).as_secs_f64();
    eprintln!(
        "qos0 1->{subs}: sent {total} in {sent:?}; delivered {sum} of {} in {secs:.3}: {:.0}/s",
        total * subs,
        sum as f64 / secs
    );
}

async fn qos1(total: usize, window: usize, qos: u8) {
    let server = support::plain().await;
    let mut s = raw(server.address, Connect::v4("s"), Some(("bench/t", qos))).await;
    let reader = tokio::spawn(async move {
        let mut c = Vec::new();
        let mut got = 0usize;
        let mut out = Vec::new();
        while got < total {
            let mut chunk = [0u8; 65536];
            let n = s.read(&mut chunk).await.unwrap();
            c.extend_from_slice(&chunk[..n]);
            let mut at = 0;
            while c.len() - at >= 2 {
                let len = c[at + 1] as usize + 2;
                if c.len() - at < len {
                    break;
                }
                match c[at] >> 4 {
                    3 => {
                        let id = [c[at + 11], c[at + 12]];
                        out.extend_from_slice(&[if qos == 1 { 0x40 } else { 0x50 }, 2, id[0], id[1]]);
                        if qos == 1 {
                            got += 1;
                        }
                    }
                    6 => {
                        out.extend_from_slice(&[0x70, 2, c[at + 2], c[at + 3]]);
                        got += 1;
                    }
                    other => panic!("{other}"),
                }
                at += len;
            }
            c.drain(..at);
            s.write_all(&out).await.unwrap();
            out.clear();
        }
        Instant::now()
    });
    let mut p = raw(server.address, Connect::v4("p"), None).await;
    let start = Instant::now();
    let (mut sent, mut acked) = (0usize, 0usize);
    let mut out = Vec::new();
    let mut c: Vec<u8> = Vec::new();
    let mut inflight = 0;
    while acked < total {
        while inflight < window && sent < total {
            let id = (sent % 60000) as u16 + 1;
            out.extend(
                Publish {
                    v5: false,
                    topic: "bench/t",
                    payload: &[b'x'; 64],
                    qos,
                    id,
                    retain: false,
                    dup: false,
                    properties: &[],
                }
                .bytes(),
            );
            sent += 1;
            inflight += 1;
        }
        p.write_all(&out).await.unwrap();
        out.clear();
        let mut chunk = [0u8; 65536];
        let n = p.read(&mut chunk).await.unwrap();
        c.extend_from_slice(&chunk[..n]);
        let mut at = 0;
        while c.len() - at >= 4 {
            match c[at] {
                0x40 | 0x70 => {
                    acked += 1;
                    inflight -= 1;
                }
                0x50 => out.extend_from_slice(&[0x62, 2, c[at + 2], c[at + 3]]),
                o => panic!("{o}"),
            }
            at += 4;
        }
        c.drain(..at);
    }
    let acked_at = start.elapsed();
    let end = reader.await.unwrap();
    eprintln!(
        "qos{qos} 1->1 window {window}: acked {:.0}/s, delivered {:.0}/s",
        total as f64 / acked_at.as_secs_f64(),
        total as f64 / (end - start).as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn throughput() {
    let which = std::env::var("WHICH").unwrap_or_default();
    if which.contains('0') {
        for _ in 0..3 {
            qos0(1, 4_000_000).await;
        }
    }
    if which.contains('f') {
        for _ in 0..2 {
            qos0(100, 60_000).await;
        }
    }
    if which.contains('1') {
        for _ in 0..2 {
            qos1(1_000_000, 100, 1).await;
        }
    }
    if which.contains('2') {
        qos1(500_000, 100, 2).await;
    }
    let _ = Client::open;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore]
async fn idle() {
    let server = support::plain().await;
    let rss = || {
        let s = std::fs::read_to_string("/proc/self/statm").unwrap();
        s.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut all = Vec::new();
    for i in 0..200 {
        all.push(Client::connect(server.address, &Connect::v4(&format!("w{i}"))).await);
    }
    let before = rss();
    for i in 0..4000 {
        all.push(Client::connect(server.address, &Connect::v4(&format!("c{i}"))).await);
    }
    eprintln!("per connection with its test client: {} bytes", (rss() - before) / 4000);
}
