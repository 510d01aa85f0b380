// SPDX-License-Identifier: MPL-2.0
//! Threads that take what the others leave: comparing and recording must not
//! hold up the video that they look at.

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

/// Half-way down from ordinary to idle.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread and of those that it will start.
/// Never raises it, which root may: under `nice -n 19` that would put them
/// before the video. Elsewhere than on Linux threads have no priority of their
/// own.
pub fn step_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is involved; 0 is the calling thread. It can only fail
    // for a thread that does not exist or for raising a priority.
    unsafe {
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS.max(now));
    }
}

/// Gives the streaming threads of `pipeline`, not yet started, low priority.
pub fn run_in_background(pipeline: &gst::Pipeline) {
    let Some(bus) = pipeline.bus() else { return };
    bus.set_sync_handler(|_, message| {
        if let gst::MessageView::StreamStatus(status) = message.view()
            && status.type_() == gst::StreamStatusType::Create
            && let Some(task) = status
                .stream_status_object()
                .and_then(|value| value.get::<gst::Task>().ok())
        {
            task.set_pool(&*POOL);
        }
        gst::BusSyncReply::Pass
    });
}

static POOL: LazyLock<Pool> = LazyLock::new(glib::Object::new);

glib::wrapper! {
    /// A thread of its own for each task: GStreamer's pool takes threads again
    /// for other pipelines, and priority once lowered stays low.
    pub struct Pool(ObjectSubclass<PoolImp>)
        @extends gst::TaskPool, gst::Object;
}

#[derive(Default)]
pub struct PoolImp;

#[glib::object_subclass]
impl ObjectSubclass for PoolImp {
    const NAME: &'static str = "DualStreamDemoBackgroundPool";
    type Type = Pool;
    type ParentType = gst::TaskPool;
}

impl ObjectImpl for PoolImp {}
impl GstObjectImpl for PoolImp {}

impl TaskPoolImpl for PoolImp {
    type Handle = ();

    fn push(&self, task: gst::subclass::TaskPoolFunction) -> Result<Option<()>, glib::Error> {
        std::thread::Builder::new()
            .name("background".into())
            .spawn(move || {
                step_back();
                task.call();
            })
            .map(|_| None)
            .map_err(|e| glib::Error::new(gst::CoreError::Thread, &e.to_string()))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn niceness() -> i32 {
        // SAFETY: no memory is involved; 0 is the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    /// Niceness of the thread that streams out of a source.
    fn of_streaming_thread(background: bool) -> i32 {
        let pipeline = gst::parse::launch("videotestsrc num-buffers=1 ! fakesink name=sink")
            .unwrap()
            .downcast::<gst::Pipeline>()
            .unwrap();
        if background {
            run_in_background(&pipeline);
        }
        let (sender, receiver) = channel();
        let sink = pipeline.by_name("sink").unwrap();
        sink.static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                sender.send(niceness()).unwrap();
                gst::PadProbeReturn::Ok
            });
        pipeline.set_state(gst::State::Playing).unwrap();
        let found = receiver.recv().unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        found
    }

    #[test]
    fn only_the_threads_of_that_pipeline_step_back() {
        gst::init().unwrap();
        let before = niceness();
        assert_eq!(of_streaming_thread(true), NICENESS.max(before));
        assert_eq!(of_streaming_thread(false), before);
        assert_eq!(niceness(), before);
    }
}
