// SPDX-License-Identifier: MPL-2.0
//! What audio takes of the bandwidth, and how it is protected.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;

use super::audio::Settings;

/// Of the target, audio takes this part at most ...
const LARGEST_PART: u64 = 4;
/// ... but no less than this, in bit/s, as long as it is not configured to be.
const LEAST_BITRATE: u64 = 24_000;
/// Bitrates change in such steps, in bit/s.
const STEP: u64 = 8_000;
/// Of a packet: RTP header and its extensions, SRTP tag, UDP, IPv4.
const OVERHEAD_BYTES: u64 = 12 + 16 + 10 + 28;

/// FEC begins at this loss, once it was there for so long ...
const FEC_LOSS: f64 = 0.02;
const FEC_AFTER: Duration = Duration::from_secs(1);
/// ... and ends at this one. Larger: sooner back to less delay and better sound,
/// and more changes between.
const NO_FEC_LOSS: f64 = 0.005;
const NO_FEC_AFTER: Duration = Duration::from_secs(10);
/// The encoder is told of this loss at least: libopus 1.3 stays in CELT, without
/// FEC, at 5 % and 128 kbit/s.
const LEAST_PERCENTAGE: i32 = 10;

/// Forward error correction inside of Opus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstDualWebRtcSinkAudioFec")]
pub enum FecMode {
    #[default]
    #[enum_value(
        name = "While packets are lost: the encoder leaves restricted low delay, which has no FEC",
        nick = "auto"
    )]
    Auto,
    #[enum_value(name = "Always", nick = "on")]
    On,
    #[enum_value(name = "Never", nick = "off")]
    Off,
}

/// How the encoder is to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub bitrate: u32,
    pub frame_ms: u32,
    pub has_fec: bool,
    /// In percent.
    pub loss: i32,
}

impl Wanted {
    pub fn set(self, encoder: &gst::Element, may_change_kind: bool) {
        if may_change_kind {
            encoder.set_property_from_str("audio-type", kind(self.has_fec));
        }
        encoder.set_property_from_str("frame-size", &self.frame_ms.to_string());
        encoder.set_property("bitrate", i32::try_from(self.bitrate).unwrap_or(i32::MAX));
        encoder.set_property("inband-fec", self.has_fec);
        encoder.set_property("packet-loss-percentage", self.loss);
    }
}

fn kind(has_fec: bool) -> &'static str {
    if has_fec {
        "voice"
    } else {
        "restricted-lowdelay"
    }
}

#[derive(Debug)]
struct State {
    settings: Settings,
    /// The user's choice of `audio-type` is ours to change.
    may_change_kind: bool,
    has_fec: bool,
    /// Since when the loss asks for the other.
    other_since: Option<Instant>,
    /// bit/s, of what is encoded; with a guess before it is known.
    bitrate: u64,
    frame_ms: u64,
    counted: Option<(Instant, u64)>,
    /// bit/s with all headers, measured.
    measured: Option<u64>,
    /// The receivers that take it, in the order in which they came.
    clients: Vec<Client>,
}

/// A receiver of audio.
#[derive(Debug)]
struct Client {
    id: u64,
    /// Of its network: the target for all media, and the loss.
    estimate: Option<(u64, f64)>,
}

/// Shared by the streaming threads and the network's.
#[derive(Debug)]
pub struct AudioRate(Mutex<State>);

impl Default for AudioRate {
    fn default() -> Self {
        let settings = Settings::default();
        Self(Mutex::new(State {
            settings,
            may_change_kind: true,
            has_fec: false,
            other_since: None,
            bitrate: u64::from(settings.bitrate),
            frame_ms: u64::from(settings.frame.ms()),
            counted: None,
            measured: None,
            clients: Vec::new(),
        }))
    }
}

impl AudioRate {
    /// At the start of a session with raw audio.
    pub fn configure(&self, settings: Settings, may_change_kind: bool) {
        let mut state = self.0.lock().unwrap();
        state.settings = settings;
        state.may_change_kind = may_change_kind;
        state.has_fec = settings.fec == FecMode::On;
        state.other_since = None;
        state.bitrate = u64::from(settings.bitrate);
        state.frame_ms = u64::from(settings.frame.ms());
        state.counted = None;
        state.measured = None;
    }

    /// A stream that came encoded.
    pub fn reset(&self, bitrate: u32, frame_ms: u32) {
        let mut state = self.0.lock().unwrap();
        state.bitrate = u64::from(bitrate);
        state.frame_ms = u64::from(frame_ms.max(1));
    }

    /// A receiver takes audio, or does not.
    pub fn set_active(&self, id: u64, active: bool) {
        let mut state = self.0.lock().unwrap();
        let known = state.clients.iter().any(|client| client.id == id);
        if active && !known {
            state.clients.push(Client { id, estimate: None });
        } else if !active {
            state.clients.retain(|client| client.id != id);
        }
    }

    /// Nobody takes it.
    pub fn is_idle(&self) -> bool {
        self.0.lock().unwrap().clients.is_empty()
    }

    /// Whether an encoder's `audio-type` is one that we gave it.
    pub fn has_kind(&self, nick: &str) -> bool {
        let state = self.0.lock().unwrap();
        nick == kind(false) || (state.may_change_kind && state.has_fec && nick == kind(true))
    }

    pub fn may_change_kind(&self) -> bool {
        self.0.lock().unwrap().may_change_kind
    }

    pub fn initial(&self) -> Wanted {
        wanted(&self.0.lock().unwrap(), 0.0)
    }

    /// What audio takes of the network of each receiver that takes it, in bit/s.
    pub fn share(&self) -> u64 {
        let state = self.0.lock().unwrap();
        if state.clients.is_empty() {
            0
        } else {
            share(&state)
        }
    }

    /// What audio takes of the network of this receiver, in bit/s.
    pub fn share_of(&self, id: u64) -> u64 {
        let state = self.0.lock().unwrap();
        if state.clients.iter().any(|client| client.id == id) {
            share(&state)
        } else {
            0
        }
    }

    /// A packet of audio leaves for this receiver, of this size.
    pub fn on_packet(&self, now: Instant, id: u64, bytes: usize) {
        let mut state = self.0.lock().unwrap();
        // All get the same.
        if state.clients.first().is_none_or(|first| first.id != id) {
            return;
        }
        // Headers are in it, but those of SRTP, UDP and IP.
        let bytes = bytes as u64 + 38;
        match state.counted {
            None => state.counted = Some((now, bytes)),
            Some((since, sum)) => {
                let passed = now.saturating_duration_since(since);
                if passed < Duration::from_secs(1) {
                    state.counted = Some((since, sum + bytes));
                } else {
                    let nanos = passed.as_nanos().max(1);
                    let rate = u128::from(sum) * 8_000_000_000 / nanos;
                    state.measured = u64::try_from(rate).ok();
                    state.counted = Some((now, bytes));
                }
            }
        }
    }

    /// The target of a receiver's network for all media, and its loss. What all
    /// of them bear is encoded.
    pub fn on_estimate(&self, now: Instant, id: u64, target: u64, loss: Option<f64>) -> Wanted {
        let mut state = self.0.lock().unwrap();
        let loss = loss
            .filter(|l| l.is_finite())
            .unwrap_or(0.0)
            .clamp(0.0, 1.0);
        if let Some(client) = state.clients.iter_mut().find(|client| client.id == id) {
            client.estimate = Some((target, loss));
        }
        let estimates = state.clients.iter().filter_map(|client| client.estimate);
        let (target, loss) = estimates.fold((target, loss), |(target, loss), (t, l)| {
            (target.min(t), loss.max(l))
        });
        update_fec(&mut state, now, loss);
        let configured = u64::from(state.settings.bitrate);
        let room = (target / LARGEST_PART).max(LEAST_BITRATE) / STEP * STEP;
        state.bitrate = configured.min(room);
        wanted(&state, loss)
    }
}

fn update_fec(state: &mut State, now: Instant, loss: f64) {
    let (other, after) = match (state.settings.fec, state.has_fec) {
        (FecMode::Auto, false) => (loss >= FEC_LOSS, FEC_AFTER),
        (FecMode::Auto, true) => (loss <= NO_FEC_LOSS, NO_FEC_AFTER),
        _ => (false, Duration::ZERO),
    };
    if !other {
        state.other_since = None;
    } else if now.saturating_duration_since(*state.other_since.get_or_insert(now)) >= after {
        state.has_fec = !state.has_fec;
        state.other_since = None;
    }
}

fn wanted(state: &State, loss: f64) -> Wanted {
    let percentage = (loss * 100.0).ceil() as i32;
    Wanted {
        bitrate: state.bitrate as u32,
        frame_ms: state.settings.frame.ms(),
        has_fec: state.has_fec,
        loss: if state.has_fec {
            // In steps: each change is told to the encoder.
            (percentage + 4)
                .div_euclid(5)
                .saturating_mul(5)
                .clamp(LEAST_PERCENTAGE, 30)
        } else {
            0
        },
    }
}

fn share(state: &State) -> u64 {
    let packets = 1000 / state.frame_ms.max(1);
    let computed = state.bitrate + packets * OVERHEAD_BYTES * 8;
    state.measured.unwrap_or(computed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_takes_a_quarter_of_a_small_target_and_its_rate_of_a_large_one() {
        let rate = AudioRate::default();
        let now = Instant::now();
        assert_eq!(rate.on_estimate(now, 1, 2_000_000, None).bitrate, 128_000);
        assert_eq!(rate.on_estimate(now, 1, 400_000, None).bitrate, 96_000);
        assert_eq!(rate.on_estimate(now, 1, 50_000, None).bitrate, 24_000);
        assert_eq!(rate.share(), 0, "no audio in this session");
        rate.set_active(1, true);
        // 24 kbit/s and 100 packets/s of 66 bytes of headers.
        assert_eq!(rate.share(), 24_000 + 52_800);
    }

    #[test]
    fn what_all_receivers_bear_is_encoded() {
        let rate = AudioRate::default();
        let now = Instant::now();
        rate.set_active(1, true);
        rate.set_active(2, true);
        assert_eq!(rate.on_estimate(now, 2, 200_000, None).bitrate, 48_000);
        assert_eq!(rate.on_estimate(now, 1, 2_000_000, None).bitrate, 48_000);
        rate.set_active(2, false);
        assert_eq!(rate.on_estimate(now, 1, 2_000_000, None).bitrate, 128_000);
        assert_eq!(rate.share_of(2), 0);
        assert!(rate.share_of(1) > 0);
        assert!(!rate.is_idle());
        rate.set_active(1, false);
        assert!(rate.is_idle());
    }

    #[test]
    fn what_leaves_is_measured() {
        let rate = AudioRate::default();
        rate.set_active(1, true);
        let start = Instant::now();
        for n in 0..=110 {
            let now = start + Duration::from_millis(10 * n);
            rate.on_packet(now, 1, 188);
            // The same, to another receiver.
            rate.on_packet(now, 2, 188);
        }
        let share = rate.share();
        assert!((178_000..184_000).contains(&share), "{share}");
    }

    #[test]
    fn fec_comes_with_lasting_loss_and_goes_later() {
        let rate = AudioRate::default();
        let start = Instant::now();
        let at =
            |s: u64, loss| rate.on_estimate(start + Duration::from_secs(s), 1, 1 << 21, Some(loss));
        assert!(!at(0, 0.03).has_fec);
        assert!(!at(0, 0.0).has_fec, "not for a moment's");
        assert!(!at(1, 0.03).has_fec);
        let with = at(2, 0.03);
        assert!(with.has_fec);
        assert_eq!(with.loss, 10);
        assert_eq!(at(3, 0.12).loss, 15);
        assert!(at(4, 0.01).has_fec, "between the limits nothing changes");
        assert!(at(20, 0.0).has_fec);
        assert!(!at(31, 0.0).has_fec);
        assert_eq!(at(31, f64::NAN).loss, 0);
    }

    #[test]
    fn fec_can_be_on_or_off_for_good() {
        let start = Instant::now();
        for (fec, has) in [(FecMode::On, true), (FecMode::Off, false)] {
            let rate = AudioRate::default();
            let settings = Settings {
                fec,
                ..Settings::default()
            };
            rate.configure(settings, true);
            for s in 0..40 {
                let loss = if s < 20 { 0.1 } else { 0.0 };
                let now = start + Duration::from_secs(s);
                assert_eq!(rate.on_estimate(now, 1, 1 << 21, Some(loss)).has_fec, has);
            }
        }
    }
}
