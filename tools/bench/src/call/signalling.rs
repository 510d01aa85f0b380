// SPDX-License-Identifier: MPL-2.0
//! The signalling server that both peers speak to, and who is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use gst::prelude::*;
use gst_plugin_webrtc_signalling::handlers::Handler;
use gst_plugin_webrtc_signalling::server::Server as Inner;
use gstrswebrtc::signaller::{Signallable, SignallableExt, Signaller, WebRTCSignallerRole};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// On every address of this machine: one of the peers is behind the link.
pub struct Server {
    runtime: Option<Runtime>,
    port: u16,
}

impl Server {
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind(("0.0.0.0", 0)))
            .context("no free TCP port")?;
        let port = listener.local_addr()?.port();
        runtime.spawn(async move {
            let server = Inner::spawn(Handler::new);
            while let Ok((stream, _)) = listener.accept().await {
                let mut server = server.clone();
                tokio::spawn(async move {
                    // A handshake that fails is the client's affair.
                    let _ = server.accept_async(stream).await;
                });
            }
        });
        Ok(Self {
            runtime: Some(runtime),
            port,
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}

/// Waits for the sender to be known: webrtcsrc asks but once.
pub struct Watcher {
    signaller: Signallable,
    known: Arc<AtomicBool>,
}

impl Watcher {
    pub fn start(port: u16) -> Result<Self> {
        let signaller = Signaller::new(WebRTCSignallerRole::Listener);
        signaller.set_property("uri", format!("ws://127.0.0.1:{port}"));
        let signaller: Signallable = signaller.upcast();
        let known = Arc::new(AtomicBool::new(false));
        let heard = known.clone();
        signaller.connect("producer-added", false, move |_| {
            heard.store(true, Ordering::Relaxed);
            None
        });
        signaller.start();
        Ok(Self { signaller, known })
    }

    pub fn has_producer(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.signaller.stop();
    }
}
