// SPDX-License-Identifier: MPL-2.0
//! Counters and gauges of a pipeline, from whatever elements it has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use gst::glib;
use gst::prelude::*;

use super::log::{Line, Log, Sample, key, now};
use crate::pacer::cpu_time;

const INTERVAL: Duration = Duration::from_millis(200);

/// What is counted at pads.
#[derive(Default)]
pub struct Counts {
    key_frames: AtomicU64,
    media_bytes: AtomicU64,
    fec_bytes: AtomicU64,
    /// CPU time of work that is not the peer's but the measurement's, in ns.
    pub own_cpu: AtomicU64,
    /// webrtcsink has a pipeline of its own for each receiver.
    others: Mutex<Vec<glib::WeakRef<gst::Pipeline>>>,
}

/// Writes to the log until it is dropped.
pub struct Sampler {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sampler {
    /// Before the pipeline plays: elements that come later are looked at as
    /// they come.
    pub fn start(pipeline: &gst::Pipeline, log: &Log, counts: &Arc<Counts>) -> Result<Self> {
        watch(pipeline, log, counts);
        watch_others(pipeline, log, counts);
        let weak = pipeline.downgrade();
        let (log, counts) = (log.clone(), counts.clone());
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let Some(pipeline) = weak.upgrade() else {
                        break;
                    };
                    log.add(Line::Sample(Sample {
                        at: now(),
                        values: values(&pipeline, &counts),
                    }));
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn watch_others(pipeline: &gst::Pipeline, log: &Log, counts: &Arc<Counts>) {
    const SIGNAL: &str = "consumer-pipeline-created";
    let Some(peer) = pipeline.by_name("peer") else {
        return;
    };
    if glib::subclass::SignalId::lookup(SIGNAL, peer.type_()).is_none() {
        return;
    }
    let (log, counts) = (log.clone(), counts.clone());
    peer.connect(SIGNAL, false, move |values| {
        let pipeline = values.get(2)?.get::<gst::Pipeline>().ok()?;
        watch(&pipeline, &log, &counts);
        let mut others = counts.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(pipeline.downgrade());
        None
    });
}

fn is_encoder(factory: &gst::ElementFactory) -> bool {
    factory
        .metadata("klass")
        .is_some_and(|klass| klass.contains("Encoder/Video"))
}

/// Counts at the elements of foreign peers, which tell nothing themselves.
fn watch(pipeline: &gst::Pipeline, log: &Log, counts: &Arc<Counts>) {
    let (log, counts) = (log.clone(), counts.clone());
    let known = AtomicBool::new(false);
    let look = move |element: &gst::Element| {
        if element.is::<gst::Bin>() {
            return;
        }
        let Some(factory) = element.factory() else {
            return;
        };
        let klass = factory.metadata("klass").unwrap_or_default().to_owned();
        if is_encoder(&factory) {
            if !known.swap(true, Ordering::Relaxed) {
                log.note("encoder", factory.name());
            }
            count_keys(element, &counts);
        } else if klass.contains("Decoder/Video") || klass.contains("Codec/Decoder/Video") {
            log.note("decoder", factory.name());
        } else if factory.name() == "rtpulpfecenc" {
            count_ulpfec(element, &counts);
        }
    };
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        look(&element);
    }
    pipeline.connect_deep_element_added(move |_, _, element| look(element));
}

fn count_keys(encoder: &gst::Element, counts: &Arc<Counts>) {
    let Some(pad) = encoder.static_pad("src") else {
        return;
    };
    let counts = counts.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer()
            && !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
        {
            counts.key_frames.fetch_add(1, Ordering::Relaxed);
        }
        gst::PadProbeReturn::Ok
    });
}

/// It mixes its packets with the media's.
fn count_ulpfec(element: &gst::Element, counts: &Arc<Counts>) {
    let Some(pad) = element.static_pad("src") else {
        return;
    };
    let (counts, weak) = (counts.clone(), element.downgrade());
    let count = move |buffer: &gst::BufferRef| {
        let pt = weak.upgrade().map(|element| element.property::<u32>("pt"));
        let mut byte = [0];
        if buffer.copy_to_slice(1, &mut byte).is_err() {
            return;
        }
        let fec = pt == Some(u32::from(byte[0] & 0x7f));
        let to = if fec {
            &counts.fec_bytes
        } else {
            &counts.media_bytes
        };
        to.fetch_add(buffer.size() as u64, Ordering::Relaxed);
    };
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => count(buffer),
                Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(&count),
                _ => {}
            }
            gst::PadProbeReturn::Ok
        },
    );
}

fn stats(element: &gst::Element) -> Option<gst::Structure> {
    element
        .has_property_with_type("stats", gst::Structure::static_type())
        .then(|| element.property::<Option<gst::Structure>>("stats"))
        .flatten()
}

/// A number, of whatever type.
fn number(s: &gst::Structure, field: &str) -> Option<f64> {
    number_of(s.value(field).ok()?)
}

fn number_of(value: &glib::Value) -> Option<f64> {
    value.transform::<f64>().ok()?.get().ok()
}

fn property(element: &gst::Element, name: &str) -> Option<f64> {
    element.find_property(name)?;
    number_of(&element.property_value(name))
}

fn values(pipeline: &gst::Pipeline, counts: &Counts) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    let mut add = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            *values.entry(name.to_owned()).or_insert(0.0) += value;
        }
    };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let cpu = cpu_time().unwrap_or_default().as_secs_f64();
    add(key::CPU, Some(cpu - count(&counts.own_cpu) as f64 / 1e9));
    let mut dual = false;
    let mut plain = None;
    let mut delay: Option<f64> = None;
    let others: Vec<gst::Pipeline> = {
        let others = counts.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().filter_map(glib::WeakRef::upgrade).collect()
    };
    let all = std::iter::once(pipeline)
        .chain(&others)
        .flat_map(|pipeline| pipeline.iterate_recurse().into_iter().flatten());
    for element in all {
        let Some(factory) = element.factory() else {
            continue;
        };
        let told = || stats(&element);
        match factory.name().as_str() {
            "dualh264enc" => {
                dual = true;
                let Some(s) = told() else { continue };
                add(key::TARGET, number(&s, "bitrate").map(|v| v / 1e3));
                for name in ["display-key-frames", "background-key-frames"] {
                    add(key::KEYS, number(&s, name));
                }
                add(key::SWITCHES, number(&s, "switches"));
            }
            "rtpgcc" | "rtpgccbwe" => {
                let rate = property(&element, "estimated-bitrate");
                add(key::ESTIMATE, rate.map(|v| v / 1e3));
            }
            "rtppacer" => {
                let requests = told().and_then(|s| s.get::<gst::Structure>("requests").ok());
                let answered = requests.and_then(|s| number(&s, "answered"));
                add(key::RTX_ANSWERED, answered);
            }
            "rtpflexfecenc" => {
                let Some(s) = told() else { continue };
                add(key::MEDIA_BYTES, number(&s, "media-bytes"));
                add(key::FEC_BYTES, number(&s, "fec-bytes"));
            }
            "rtpflexfecdec" => {
                add(
                    key::FEC_RECOVERED,
                    told().and_then(|s| number(&s, "recovered")),
                );
            }
            "rtpulpfecdec" => add(key::FEC_RECOVERED, property(&element, "recovered")),
            "rtpkalmanjitterbuffer" => {
                let Some(s) = told() else { continue };
                add(key::RTX_RECOVERED, number(&s, "rtx-success-count"));
                add(key::RTX_ASKED, number(&s, "rtx-count"));
                delay = number(&s, "delay").map_or(delay, |ns| {
                    Some(delay.map_or(ns / 1e6, |most| most.max(ns / 1e6)))
                });
            }
            "rtpjitterbuffer" => {
                if let Some(s) = told() {
                    add(key::RTX_RECOVERED, number(&s, "rtx-success-count"));
                    add(key::RTX_ASKED, number(&s, "rtx-count"));
                }
                let latency = property(&element, "latency");
                delay = latency.map_or(delay, |ms| Some(delay.map_or(ms, |most| most.max(ms))));
            }
            "x264enc" => plain = property(&element, "bitrate"),
            "openh264enc" => plain = property(&element, "bitrate").map(|bps| bps / 1e3),
            _ => {}
        }
    }
    add(key::JITTER_DELAY, delay);
    if !dual {
        add(key::TARGET, plain);
        let keys = count(&counts.key_frames);
        add(key::KEYS, plain.map(|_| keys as f64));
        let fec = count(&counts.fec_bytes);
        let media = count(&counts.media_bytes);
        if media > 0 {
            add(key::MEDIA_BYTES, Some(media as f64));
            add(key::FEC_BYTES, Some(fec as f64));
        }
    }
    values
}
