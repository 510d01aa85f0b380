// SPDX-License-Identifier: MPL-2.0
//! Stops a signaller of gst-plugin-webrtc while nothing arrives for it.
//!
//! Its `stop` (0.15) holds the lock of its state while it waits for its sending
//! task to end. That task needs the one thread of the crate's runtime; if a
//! message comes in just then, this thread waits for that lock, and no signaller of
//! the process does anything any more. Peers that stop together send each other
//! such messages.
//!
//! So the thread is held while `stop` begins, and again between the end of the
//! sending task and that of the receiving one. Tasks that other threads wake run in
//! the order in which they were woken:
//!
//! ```text
//! runtime:  held ......... | sending task ends | held .............. | receiving task ends
//! stop:       lock, close ->                     -> abort it, wait ->
//! ```

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use gstrswebrtc::RUNTIME;

/// Each step of `stop` takes some microseconds; and so little is not noticed by
/// other signallers.
const HOLD: Duration = Duration::from_millis(10);
/// The runtime has something else to do. It is tried without.
const BUSY: Duration = Duration::from_millis(500);

/// The runtime looks at the network between tasks, once for so many of them (61 in
/// tokio 1): that must not be between ours. This comes back right behind such a
/// look, when all that had arrived has been dealt with.
async fn behind_a_look_at_the_network() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(&[0], socket.local_addr()?)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    // Woken by itself, it is behind other tasks, and the runtime never idle.
    poll_fn(|cx| match socket.poll_recv_ready(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await?;
    let mut left = 3;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    Ok(())
}

/// Calls `stop`. Not from a thread of the runtime.
pub fn quietly(stop: impl FnOnce()) {
    let (entered, wait) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    RUNTIME.spawn(async move {
        let _ = behind_a_look_at_the_network().await;
        let _ = entered.send(());
        // Never for long, whatever becomes of who holds it.
        let _ = released.recv_timeout(2 * HOLD);
    });
    if wait.recv_timeout(BUSY).is_err() {
        return stop();
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(HOLD);
            RUNTIME.spawn(async { std::thread::sleep(HOLD) });
            let _ = release.send(());
        });
        stop();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::glib;
    use gst::prelude::*;
    use gstrswebrtc::signaller::{Signallable, SignallableExt, Signaller, WebRTCSignallerRole};
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A server that greets and then tells of peers without end.
    fn chatty_server() -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(AtomicUsize::new(0));
        let counter = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let told = counter.clone();
                std::thread::spawn(move || {
                    let Ok(mut socket) = tungstenite::accept(stream) else {
                        return;
                    };
                    let welcome = r#"{"type":"welcome","peerId":"me"}"#;
                    let mut text = welcome.to_owned();
                    let mut n = 0;
                    while socket
                        .send(tungstenite::Message::text(text.as_str()))
                        .is_ok()
                    {
                        told.fetch_add(1, Ordering::SeqCst);
                        n += 1;
                        let roles = if n % 2 == 0 { "" } else { r#""producer""# };
                        text = format!(
                            r#"{{"type":"peerStatusChanged","peerId":"p{n}","roles":[{roles}],"meta":null}}"#
                        );
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    let _ = socket.get_mut().flush();
                });
            }
        });
        (port, told)
    }

    fn answers() -> bool {
        let (done, wait) = mpsc::channel();
        RUNTIME.spawn(async move {
            let _ = done.send(());
        });
        wait.recv_timeout(Duration::from_secs(5)).is_ok()
    }

    /// `stop` alone fails here in the first rounds.
    #[test]
    fn messages_that_arrive_meanwhile_do_not_block_the_runtime() {
        gst::init().unwrap();
        let (port, told) = chatty_server();
        for round in 0..50 {
            let signaller: Signaller = glib::Object::builder()
                .property("uri", format!("ws://127.0.0.1:{port}"))
                .property("role", WebRTCSignallerRole::Listener)
                .build();
            let signaller: Signallable = signaller.upcast();
            let before = told.load(Ordering::SeqCst);
            signaller.start();
            let start = std::time::Instant::now();
            while told.load(Ordering::SeqCst) < before + 20 {
                assert!(start.elapsed() < Duration::from_secs(10), "no connection");
                std::thread::sleep(Duration::from_millis(1));
            }
            let (done, wait) = mpsc::channel();
            std::thread::spawn(move || {
                quietly(|| signaller.stop());
                let _ = done.send(());
            });
            let stopped = wait.recv_timeout(Duration::from_secs(5)).is_ok();
            assert!(stopped && answers(), "round {round}: stopped {stopped}");
        }
    }
}
