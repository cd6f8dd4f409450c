//! `wasi:http`: which requests leave the host, and how much of them.

mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_event::{BoxFuture, Tenant};
use tidegate_module::{CallError, Module, Resolve};

use crate::guests::{Bench, guest, publish, said};
use server::{Server, Tls, pem};

/// Gives every name the same address, and remembers who was asked for.
#[derive(Debug)]
struct Always(&'static str, Mutex<Vec<String>>);

impl Always {
    fn new(address: &'static str) -> Arc<Self> {
        Arc::new(Self(address, Mutex::default()))
    }
}

impl Resolve for Always {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.1.lock().push(host.to_owned());
        Box::pin(async move { Ok(vec![SocketAddr::new(self.0.parse().unwrap(), port)]) })
    }
}

/// A module with this allow-list and limits, on a host that resolves names so.
async fn module(bench: &Bench, allow: &str, limits: &str) -> Arc<Module> {
    let manifest = format!("[limits]\n{limits}\n[http]\nallow = [\"{allow}\"]");
    bench.load(&guest("standard"), &manifest).await.unwrap()
}

/// What the guest says to these requests, a line each.
async fn ask(module: &Module, requests: &str) -> Vec<String> {
    said(module.call(&publish("http", requests.as_bytes())).await).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn an_allowed_request_is_sent_and_answered() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let port = server.port;
    let module = module(&bench, &format!("http://127.0.0.1:{port}"), "").await;
    let lines = format!(
        "GET http://127.0.0.1:{port}/hello?x=1\nPOST http://127.0.0.1:{port}/echo some-words\n\
         POST http://127.0.0.1:{port}/echo *300000\nGET http://127.0.0.1:{port}/bytes/300000"
    );
    let answers = ask(&module, &lines).await;
    assert_eq!(answers, ["200 hello", "200 some-words", "200 300000 bytes", "200 300000 bytes"]);
    let seen = server.seen();
    assert!(seen[0].starts_with("GET /hello?x=1 HTTP/1.1\r\n"), "{seen:?}");
    assert!(
        seen[0].contains(&format!("host: 127.0.0.1:{port}\r\n")) && seen[0].contains("x-test: yes"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_the_manifest_does_not_name_is_denied() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let port = server.port;
    let listed = module(&bench, &format!("http://127.0.0.1:{port}"), "").await;
    for url in [
        format!("https://127.0.0.1:{port}/hello"),
        format!("http://127.0.0.2:{port}/hello"),
        format!("http://localhost:{port}/hello"),
        format!("http://127.0.0.1:{}/hello", port ^ 1),
    ] {
        let denied = "HTTP request: ErrorCode::HttpRequestDenied";
        assert_eq!(ask(&listed, &format!("GET {url}")).await, [denied], "{url}");
    }
    for url in [format!("http://127.0.0.1:{port}@evil.example/"), format!("http://127.1:{port}/hello")] {
        let answer = ask(&listed, &format!("GET {url}")).await;
        assert!(answer[0].contains("UriInvalid") || answer[0].contains("the host"), "{url}: {answer:?}");
    }
    assert_eq!(
        ask(&listed, &format!("CONNECT http://127.0.0.1:{port}/")).await,
        ["HTTP request: ErrorCode::HttpRequestMethodInvalid"]
    );
    let unlisted = bench.load(&guest("standard"), "").await.unwrap();
    let answer = ask(&unlisted, &format!("GET http://127.0.0.1:{port}/hello")).await;
    assert_eq!(answer, ["HTTP request: ErrorCode::HttpRequestDenied"]);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_name_that_leads_into_a_private_network_is_refused() {
    let server = Server::start(None).await;
    let port = server.port;
    for (address, name) in [
        ("127.0.0.1", "api.example.com"),
        ("::ffff:127.0.0.1", "api.example.com"),
        ("169.254.169.254", "x.example.com"),
        ("10.0.0.1", "localhost"),
        ("0.0.0.0", "api.example.com"),
    ] {
        let resolver = Always::new(address);
        let bench = Bench::with(|config| config.http.resolver = resolver.clone());
        let allow = format!("http://*.example.com:{port}\", \"http://localhost:{port}");
        let module = module(&bench, &allow, "").await;
        let answer = ask(&module, &format!("GET http://{name}:{port}/hello")).await;
        assert_eq!(answer, ["HTTP request: ErrorCode::DestinationIpProhibited"], "{address}");
        assert_eq!(*resolver.1.lock(), [name], "asked once");
    }
    // Loopback is for the word.
    let resolver = Always::new("127.0.0.1");
    let bench = Bench::with(|config| config.http.resolver = resolver.clone());
    let module = module(&bench, &format!("http://localhost:{port}"), "").await;
    assert_eq!(ask(&module, &format!("GET http://LocalHost.:{port}/hello")).await, ["200 hello"]);
    assert_eq!(*resolver.1.lock(), ["localhost"], "asked once, in its plain form");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let port = server.port;
    let module = module(&bench, &format!("http://127.0.0.1:{port}"), "").await;
    assert_eq!(ask(&module, &format!("GET http://127.0.0.1:{port}/redirect")).await, ["302 elsewhere"]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let url = format!("http://127.0.0.1:{}", server.port);
    let module = module(&bench, &url, "http_bytes = \"100KB\"").await;
    let answers = ask(&module, &format!("GET {url}/bytes/60000\nGET {url}/bytes/60000")).await;
    assert_eq!(answers[0], "200 60000 bytes");
    assert_eq!(answers[1], "HTTP request: ErrorCode::HttpResponseBodySize(Some(100000))", "of all requests");
    assert_eq!(ask(&module, &format!("GET {url}/bytes/60000")).await, ["200 60000 bytes"], "a new event");
    let answer = ask(&module, &format!("POST {url}/echo *200000")).await;
    assert!(!answer[0].starts_with("200"), "{answer:?}");
    let answer = ask(&module, &format!("GET {url}/long-head")).await;
    assert_eq!(answer, ["HTTP request: ErrorCode::HttpResponseHeaderSectionSize(None)"]);
    let answer = ask(&module, &format!("GET {url}/cut")).await;
    assert_eq!(answer, ["HTTP request: ErrorCode::HttpResponseIncomplete"]);
}

#[tokio::test]
async fn a_request_is_a_storage_operation() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let url = format!("http://127.0.0.1:{}/hello", server.port);
    let module = module(&bench, &format!("http://127.0.0.1:{}", server.port), "storage_ops = 2").await;
    let answers = ask(&module, &format!("GET {url}\nGET {url}\nGET {url}")).await;
    assert_eq!(answers[..2], ["200 hello", "200 hello"]);
    assert!(answers[2].contains("storage_ops = 2 per event"), "{answers:?}");
    assert_eq!(ask(&module, &format!("GET {url}")).await, ["200 hello"]);
}

#[tokio::test]
async fn a_slow_server_takes_the_events_time_and_no_more() {
    let (bench, server) = (Bench::new(), Server::start(None).await);
    let url = format!("http://127.0.0.1:{}", server.port);
    let module = module(&bench, &url, "timeout = \"400ms\"").await;
    for path in ["slow", "drip"] {
        let began = Instant::now();
        let failed = module.call(&publish("http", format!("GET {url}/{path}").as_bytes())).await;
        assert!(matches!(failed, Err(CallError::Timeout(_))), "{path}: {failed:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{path}: {:?}", began.elapsed());
    }
    // The guest may give up earlier.
    assert_eq!(
        ask(&module, &format!("GET {url}/slow - 50")).await,
        ["HTTP request: ErrorCode::ConnectionReadTimeout"]
    );
}

#[tokio::test]
async fn tls_is_for_certificates_that_are_trusted() {
    let trusted = Server::start(Some(Tls::Signed)).await;
    let untrusted = Server::start(Some(Tls::SelfSigned)).await;
    let bench = Bench::with(|config| {
        config.http.resolver = Always::new("127.0.0.1");
        config.http.extra_roots = pem("ca.pem");
    });
    let allow: Vec<_> = ["localhost", "127.0.0.1"]
        .iter()
        .flat_map(|host| [&trusted, &untrusted].map(|server| format!("{host}:{}", server.port)))
        .collect();
    let module = module(&bench, &allow.join("\", \""), "").await;
    let url = |host: &str, server: &Server| format!("GET https://{host}:{}/hello", server.port);
    assert_eq!(ask(&module, &url("localhost", &trusted)).await, ["200 hello"]);
    let refused = ["HTTP request: ErrorCode::TlsCertificateError"];
    assert_eq!(ask(&module, &url("localhost", &untrusted)).await, refused, "signed by itself");
    assert_eq!(ask(&module, &url("127.0.0.1", &trusted)).await, refused, "for another name");
    assert_eq!(trusted.seen().len(), 1);
    assert!(untrusted.seen().is_empty());
    // And without the authority it is a stranger, too.
    let bench = Bench::with(|config| config.http.resolver = Always::new("127.0.0.1"));
    let strict = self::module(&bench, &format!("localhost:{}", trusted.port), "").await;
    assert_eq!(ask(&strict, &url("localhost", &trusted)).await, refused);
}

#[tokio::test]
async fn a_manifest_says_what_is_wrong_with_its_hosts() {
    let bench = Bench::new();
    let wasm = guest("standard");
    let refusal = bench.refusal(&wasm, "[http]\nallow = [\"api.example.com\"]").await;
    assert!(
        refusal.contains("m.toml:2:10: http.allow: \"api.example.com\": the port is missing"),
        "{refusal}"
    );
    let path = bench.write("m", &wasm, "[http]\nallow = [\"api.example.com:443\"]");
    let refusal = bench.host.load(&path, &Tenant::new("acme")).await.err().unwrap().to_string();
    assert!(refusal.contains("\"api.example.com:443\" is not granted to tenant \"acme\""), "{refusal}");
}
