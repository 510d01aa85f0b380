// SPDX-License-Identifier: MPL-2.0
//! A server for one page: gives it, and takes what it reports.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer reports are refused.
const MOST_BODY: u64 = 1 << 20;
const MOST_HEADERS: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
pub struct PageServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PageServer {
    /// `GET` gives `page`; the body of a `POST` goes to `report`.
    pub fn start(
        host: &str,
        page: &'static str,
        report: impl Fn(&str) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let report = Arc::new(report);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let report = report.clone();
                std::thread::spawn(move || {
                    // A client that goes away is no harm.
                    let _ = answer(stream, page, &*report);
                });
            }
        });
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(("127.0.0.1", self.port()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, page: &str, report: &dyn Fn(&str)) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(2 * MOST_BODY));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0u64;
    for _ in 0..MOST_HEADERS {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let (kind, body) = if request.starts_with("POST ") {
        let mut text = String::new();
        reader
            .take(length.min(MOST_BODY))
            .read_to_string(&mut text)?;
        report(&text);
        ("text/plain", "")
    } else {
        ("text/html", page)
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_page_is_given_and_reports_are_taken() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let server = PageServer::start("127.0.0.1", "<p>", move |text| {
            hears.lock().unwrap().push(text.to_owned());
        })
        .unwrap();
        let page = ask(server.port(), "GET /?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("\r\n\r\n<p>"));
        ask(
            server.port(),
            "POST /report HTTP/1.1\r\nCONTENT-length: 5\r\n\r\n{\"a\"}ignored",
        );
        assert_eq!(*heard.lock().unwrap(), ["{\"a\"}"]);
        let port = server.port();
        drop(server);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
