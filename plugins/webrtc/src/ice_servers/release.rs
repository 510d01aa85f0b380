// SPDX-License-Identifier: MPL-2.0
//! Gives back what TURN servers have allocated for a session.
//!
//! webrtcbin (before 1.28) drops libnice's agent without a word to the servers,
//! which keep the allocations for ten minutes, out of what a user may have, and
//! libnice warns. There is no way to it by properties or signals, so the function
//! that libnice has for that is called. GStreamer's plugin has loaded the library
//! already; if it is not found by name, all is as it was.

use std::ffi::c_void;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use gst::glib;
use gst::glib::translate::ToGlibPtr;

#[cfg(target_os = "macos")]
const LIBRARY: &str = "libnice.10.dylib";
#[cfg(windows)]
const LIBRARY: &str = "nice-10.dll";
#[cfg(not(any(target_os = "macos", windows)))]
const LIBRARY: &str = "libnice.so.10";

/// `GAsyncReadyCallback`.
type Ready = unsafe extern "C" fn(*mut glib::gobject_ffi::GObject, *mut c_void, *mut c_void);
/// `nice_agent_close_async`, libnice 0.1.16 and newer.
type Close = unsafe extern "C" fn(*mut glib::gobject_ffi::GObject, Ready, *mut c_void);

unsafe extern "C" fn on_ready(
    _: *mut glib::gobject_ffi::GObject,
    _: *mut c_void,
    data: *mut c_void,
) {
    // SAFETY: it is what `release` made for this one call.
    let done = unsafe { Box::from_raw(data.cast::<Sender<()>>()) };
    // Nobody waits any more if this fails.
    let _ = done.send(());
}

/// Waits until the servers have answered, at most so long. The agent is of no use
/// afterwards.
pub fn release(agent: &glib::Object, most: Duration) {
    // SAFETY: the library is loaded already, and runs no new initialisers.
    let Ok(library) = (unsafe { libloading::Library::new(LIBRARY) }) else {
        return;
    };
    // SAFETY: the type is that of libnice's header.
    let Ok(close) = (unsafe { library.get::<Close>(b"nice_agent_close_async\0") }) else {
        return;
    };
    // The answer comes by the context of the thread that asks.
    let context = glib::MainContext::new();
    let (done, answer) = mpsc::channel::<()>();
    let asked = context.with_thread_default(|| {
        let data = Box::into_raw(Box::<Sender<()>>::new(done)).cast();
        // SAFETY: it is a NiceAgent (webrtcbin's), which is alive; `on_ready` is
        // called at most once.
        unsafe { close(agent.to_glib_none().0, on_ready, data) };
        let end = Instant::now() + most;
        while answer.try_recv().is_err() && Instant::now() < end {
            if !context.iteration(false) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    // Only if this thread cannot have a context of its own.
    let _ = asked;
}
