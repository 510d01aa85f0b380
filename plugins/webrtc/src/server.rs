// SPDX-License-Identifier: MPL-2.0
//! The embedded signalling server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gst_plugin_webrtc_signalling::handlers::Handler;
use gst_plugin_webrtc_signalling::server::Server;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// How long a connection may take for its WebSocket handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further connections wait in the backlog.
const MAX_HANDSHAKES: usize = 32;
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A signalling server on its own runtime: dropping it closes every
/// connection and ends its thread.
pub struct SignallingServer {
    runtime: Option<Runtime>,
    port: u16,
}

impl SignallingServer {
    /// Listens on `host`:`port`; port 0 takes a free one.
    pub fn start(host: &str, port: u16) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dualwebrtc-sig")
            .enable_all()
            .build()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let listener = runtime.block_on(TcpListener::bind((host, port)))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(serve(listener));
        Ok(Self {
            runtime: Some(runtime),
            port,
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for SignallingServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}

async fn serve(listener: TcpListener) {
    let server = Server::spawn(Handler::new);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for one: give it time to pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut server = server.clone();
        tokio::spawn(async move {
            // A failed handshake is the client's affair.
            let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, server.accept_async(stream)).await;
            drop(permit);
        });
    }
}

/// The URI under which a client on this machine reaches a server that listens
/// on `host`.
pub fn local_uri(host: &str, port: u16) -> String {
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "::" | "[::]" => "::1",
        other => other.trim_start_matches('[').trim_end_matches(']'),
    };
    if host.contains(':') {
        format!("ws://[{host}]:{port}")
    } else {
        format!("ws://{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_reached_on_loopback() {
        assert_eq!(local_uri("0.0.0.0", 8443), "ws://127.0.0.1:8443");
        assert_eq!(local_uri("::", 1), "ws://[::1]:1");
        assert_eq!(local_uri("[fe80::1]", 1), "ws://[fe80::1]:1");
        assert_eq!(local_uri("10.0.0.7", 1), "ws://10.0.0.7:1");
    }

    #[test]
    fn a_stopped_server_frees_its_port() {
        let server = SignallingServer::start("127.0.0.1", 0).unwrap();
        let port = server.port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(
            SignallingServer::start("127.0.0.1", port).is_err(),
            "the port is taken"
        );
        drop(server);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
