// SPDX-License-Identifier: MPL-2.0
//! SRTP: packets are encrypted, differ from what they were, and are the same
//! again when they are decrypted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use serde::{Deserialize, Serialize};

use super::launch;

const PACKETS: usize = 30;
/// A fixed RTP header.
const HEADER: usize = 12;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub packets: usize,
}

/// Payloads by sequence number.
type Seen = Arc<Mutex<BTreeMap<u16, Vec<u8>>>>;

pub fn run() -> Result<Outcome> {
    let running = launch(&format!(
        "audiotestsrc num-buffers={PACKETS} samplesperbuffer=160 \
         ! audio/x-raw,rate=8000,channels=1,format=S16LE ! audioconvert ! mulawenc \
         ! rtppcmupay name=plain ! srtpenc name=enc random-key=true ! srtpdec name=dec \
         ! fakesink name=out sync=false"
    ))?;
    let pad = |element: &str, pad: &str| {
        running
            .0
            .by_name(element)
            .and_then(|element| element.static_pad(pad))
            .with_context(|| format!("{element} has no pad {pad}"))
    };
    let plain = note(&pad("plain", "src")?);
    let encrypted = note(&pad("dec", "rtp_sink")?);
    let decrypted = note(&pad("out", "sink")?);
    running.play()?;
    let bus = running.0.bus().context("a pipeline without a bus")?;
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = bus
        .timed_pop_filtered(gst::ClockTime::from_seconds(8), &kinds)
        .context("no end of stream")?;
    if end.type_() == gst::MessageType::Error {
        bail!(dualstream_clip::source::describe(&end));
    }
    let lock = |seen: &Seen| seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (plain, encrypted, decrypted) = (lock(&plain), lock(&encrypted), lock(&decrypted));
    if plain.is_empty() || plain != decrypted {
        bail!(
            "{} of {} packets come back as they were",
            decrypted.len(),
            plain.len()
        );
    }
    if plain
        .iter()
        .any(|(number, payload)| encrypted.get(number) == Some(payload))
    {
        bail!("packets are not encrypted");
    }
    Ok(Outcome {
        packets: decrypted.len(),
    })
}

fn note(pad: &gst::Pad) -> Seen {
    let seen = Seen::default();
    let to = seen.clone();
    pad.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
        move |_, info| {
            let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner);
            super::call::packets(info, |packet| {
                if let (Some(&[high, low]), Some(payload)) = (
                    packet.get(2..4).and_then(|n| n.first_chunk()),
                    packet.get(HEADER..),
                ) {
                    seen.insert(u16::from_be_bytes([high, low]), payload.to_vec());
                }
            });
            gst::PadProbeReturn::Ok
        },
    );
    seen
}
