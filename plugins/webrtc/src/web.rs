// SPDX-License-Identifier: MPL-2.0
//! The embedded web server: a page that is the other end, for browsers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// For the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one connection, whatever it does.
const LIFETIME: Duration = Duration::from_secs(60);
/// Connections at once; further ones wait in the backlog.
const MOST_CONNECTIONS: usize = 64;
/// Of a request's headers.
const MOST_BYTES: usize = 16 * 1024;
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Nothing from elsewhere, but a signalling server may be anywhere.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; img-src 'self' data:";

/// Path, type, content.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("web/index.html")),
    ("/page.js", SCRIPT, include_str!("web/page.js")),
    ("/watch.js", SCRIPT, include_str!("web/watch.js")),
    ("/send.js", SCRIPT, include_str!("web/send.js")),
    ("/plots.js", SCRIPT, include_str!("web/plots.js")),
    ("/style.css", STYLE, include_str!("web/style.css")),
    (
        "/gstwebrtc-api-3.0.0.esm.js",
        SCRIPT,
        include_str!("web/gstwebrtc-api-3.0.0.esm.js"),
    ),
    (
        "/gstwebrtc-api-LICENSE.txt",
        TEXT,
        include_str!("web/gstwebrtc-api-LICENSE.txt"),
    ),
];

/// What the page is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRole {
    Receive,
    Send,
}

/// A web server on its own runtime: dropping it closes every connection and
/// ends its thread.
pub struct WebServer {
    runtime: Option<Runtime>,
    url: String,
}

impl WebServer {
    /// Listens on `host`:`port`; port 0 takes a free one. `signalling`: URI of
    /// the server that the page speaks to; `stun`: as of webrtcbin.
    pub fn start(
        host: &str,
        port: u16,
        role: PageRole,
        signalling: Option<&str>,
        stun: Option<&str>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dualwebrtc-web")
            .enable_all()
            .build()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let listener = runtime.block_on(TcpListener::bind((host, port)))?;
        let url = url(listener.local_addr()?);
        let config = config(role, signalling, stun);
        runtime.spawn(serve(listener, Bytes::from(config)));
        Ok(Self {
            runtime: Some(runtime),
            url,
        })
    }

    /// Under which a browser on this machine finds the page.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}

fn url(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => [127, 0, 0, 1].into(),
            SocketAddr::V6(_) => [0, 0, 0, 0, 0, 0, 0, 1].into(),
        });
    }
    format!("http://{address}/")
}

fn config(role: PageRole, signalling: Option<&str>, stun: Option<&str>) -> String {
    let role = match role {
        PageRole::Receive => "receive",
        PageRole::Send => "send",
    };
    serde_json::json!({ "role": role, "signalling": signalling, "stun": stun }).to_string()
}

async fn serve(listener: TcpListener, config: Bytes) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for one: give it time to pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let config = config.clone();
        tokio::spawn(async move {
            // What becomes of it is the client's affair.
            let _ = tokio::time::timeout(LIFETIME, speak(stream, config)).await;
            drop(permit);
        });
    }
}

async fn speak(stream: TcpStream, config: Bytes) -> hyper::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let config = config.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), config)) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MOST_BYTES)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

fn answer(method: &Method, path: &str, config: Bytes) -> Response<Full<Bytes>> {
    let found = match path {
        "/config.json" => Some((JSON, config)),
        "/index.html" => Some((FILES[0].1, Bytes::from_static(FILES[0].2.as_bytes()))),
        // Browsers ask for it by themselves: there is none, and no error.
        "/favicon.ico" => None,
        _ => FILES
            .iter()
            .find(|(known, ..)| *known == path)
            .map(|(_, kind, text)| (*kind, Bytes::from_static(text.as_bytes()))),
    };
    let (status, kind, body) = match found {
        _ if method != Method::GET && method != Method::HEAD => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            Bytes::from_static(b"there are only pages to read\n"),
        ),
        Some((kind, body)) => (StatusCode::OK, kind, body),
        None if path == "/favicon.ico" => (StatusCode::NO_CONTENT, TEXT, Bytes::new()),
        None => (
            StatusCode::NOT_FOUND,
            TEXT,
            Bytes::from_static(b"there is no such page\n"),
        ),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Another version may be here tomorrow.
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn ask(url: &str, request: &str) -> String {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(url: &str, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        ask(url, &request)
    }

    #[test]
    fn the_page_and_all_that_it_needs_are_there() {
        let signalling = Some("ws://127.0.0.1:8443");
        let server = WebServer::start("127.0.0.1", 0, PageRole::Receive, signalling, None).unwrap();
        let url = server.url().to_owned();
        let page = get(&url, "/?autostart=1");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("text/html"));
        // Nothing from elsewhere.
        for (path, kind, text) in FILES {
            let answer = get(&url, path);
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(kind));
            assert!(answer.ends_with(text), "{path}");
            for part in text.split(['"', '\'']).filter(|_| kind == HTML) {
                if let Some(file) = part.strip_suffix(".js").or(part.strip_suffix(".css")) {
                    assert!(!file.contains("//"), "{part}");
                    assert!(get(&url, &format!("/{part}")).starts_with("HTTP/1.1 200"));
                }
            }
        }
        assert!(
            get(&url, "/config.json")
                .ends_with(r#"{"role":"receive","signalling":"ws://127.0.0.1:8443","stun":null}"#)
        );
        assert!(get(&url, "/../Cargo.toml").starts_with("HTTP/1.1 404"));
        let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(ask(&url, post).starts_with("HTTP/1.1 405"));
        assert!(ask(&url, "\x16\x03\x01 is TLS\r\n\r\n").starts_with("HTTP/1.1 400"));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * MOST_BYTES));
        assert!(ask(&url, &long).starts_with("HTTP/1.1 4"));
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        drop(server);
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_page_on_all_addresses_is_opened_on_loopback() {
        assert_eq!(url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80/");
        assert_eq!(url("[::]:80".parse().unwrap()), "http://[::1]:80/");
        assert_eq!(url("10.0.0.7:1".parse().unwrap()), "http://10.0.0.7:1/");
    }
}
