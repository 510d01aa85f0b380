// SPDX-License-Identifier: MPL-2.0
//! What the doctor found, as `--json` prints it (docs/doctor.md), and what is
//! well about it.

use std::path::PathBuf;

use serde::Serialize;

use crate::probes::inventory::Factory;
use crate::probes::{call, decoder, encoder};
use crate::stream::ForWebRtc;

/// Time of a frame at 30 Hz, in ms.
pub const FRAME_MS: f64 = 1000.0 / 30.0;
/// Glass to glass on loopback: above this at p95 the call is slow.
pub const CALL_LIMIT_MS: f64 = 75.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Ok,
    /// It works, and not in time.
    Slow,
    Broken,
    Missing,
    /// What it needs is missing, or nobody wanted it tested.
    Untested,
}

impl Word {
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Missing => "missing",
            Self::Untested => "untested",
        }
    }

    pub fn works(self) -> bool {
        matches!(self, Self::Ok | Self::Slow)
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub gstreamer: Option<String>,
    /// Nothing that is needed is missing or broken: exit status 0.
    pub healthy: bool,
    pub encoders: Vec<Encoder>,
    pub decoders: Vec<Decoder>,
    /// Families that are known and not installed here.
    pub encoders_not_here: Vec<&'static str>,
    pub parts: Vec<Part>,
    pub call: Option<Call>,
    pub plugins: Vec<Plugin>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
pub struct Problem {
    pub what: String,
    pub why: String,
    /// Without it no call is possible.
    pub needed: bool,
    /// What mends it, the likeliest first.
    pub commands: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Plugin {
    pub name: String,
    pub version: Option<String>,
    pub file: Option<PathBuf>,
    /// Of this project.
    pub own: bool,
    /// Linked into the doctor only: GStreamer does not find it.
    pub built_in: bool,
}

/// Something that a call or a contribution needs, tried.
#[derive(Debug, Serialize)]
pub struct Part {
    pub name: &'static str,
    pub state: Word,
    pub needed: bool,
    pub plugin: Option<String>,
    pub version: Option<String>,
    pub detail: String,
}

/// One size.
#[derive(Debug, Serialize)]
pub struct Run<T> {
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    pub state: Word,
    /// A frame takes less than its time, 99 of 100.
    pub holds_33_ms: bool,
    pub error: Option<String>,
    pub outcome: Option<T>,
}

#[derive(Debug, Serialize)]
pub struct Encoder {
    #[serde(flatten)]
    pub factory: Factory,
    pub state: Word,
    /// `dualh264enc` knows how to; if not it is tried as it comes.
    pub driven: bool,
    pub runs: Vec<Run<encoder::Outcome>>,
}

#[derive(Debug, Serialize)]
pub struct Decoder {
    #[serde(flatten)]
    pub factory: Factory,
    pub state: Word,
    /// The encoder whose stream it decodes.
    pub stream_of: Option<String>,
    pub runs: Vec<Run<decoder::Outcome>>,
}

#[derive(Debug, Serialize)]
pub struct Call {
    pub state: Word,
    pub error: Option<String>,
    pub limit_p95_ms: f64,
    pub outcome: Option<call::Outcome>,
}

/// What an outcome is worth.
pub trait Judged {
    fn p99_ms(&self) -> f64;
    /// Why it is of no use, though it ran.
    fn fault(&self) -> Option<String>;
}

impl Judged for encoder::Outcome {
    fn p99_ms(&self) -> f64 {
        self.frame_time.p99_ms
    }

    fn fault(&self) -> Option<String> {
        if self.frames_out < self.frames_in {
            let lost = self.frames_in - self.frames_out;
            return Some(format!("loses {lost} of {} frames", self.frames_in));
        }
        if self.b_frames > 0 {
            return Some(format!(
                "codes B frames ({} of {})",
                self.b_frames, self.frames_out
            ));
        }
        match &self.controls {
            Some(controls) if controls.key_frame_after.is_none() => {
                Some("makes no key frame when it is asked to".into())
            }
            _ => None,
        }
    }
}

impl Judged for decoder::Outcome {
    fn p99_ms(&self) -> f64 {
        self.frame_time.p99_ms
    }

    fn fault(&self) -> Option<String> {
        if self.frames_out < self.frames_in {
            let lost = self.frames_in - self.frames_out;
            return Some(format!("loses {lost} of {} pictures", self.frames_in));
        }
        let right = self.pictures_right?;
        (right < self.frames_out)
            .then(|| format!("{right} of {} pictures are right", self.frames_out))
    }
}

impl<T: Judged> Run<T> {
    pub fn new(
        (width, height): (u32, u32),
        result: Result<T, impl std::fmt::Display>,
        fault: impl Fn(&T) -> Option<String>,
    ) -> Self {
        let (outcome, error) = match result {
            Ok(outcome) => {
                let fault = fault(&outcome);
                (Some(outcome), fault)
            }
            Err(err) => (None, Some(err.to_string())),
        };
        let in_time = outcome.as_ref().is_some_and(|o| o.p99_ms() <= FRAME_MS);
        let state = match (&error, in_time) {
            (Some(_), _) => Word::Broken,
            (None, true) => Word::Ok,
            (None, false) => Word::Slow,
        };
        Self {
            width,
            height,
            fps: 30,
            state,
            holds_33_ms: in_time && error.is_none(),
            error,
            outcome,
        }
    }
}

/// Of all sizes: it works if the smallest one does.
pub fn state_of<T>(runs: &[Run<T>]) -> Word {
    runs.first().map_or(Word::Untested, |run| run.state)
}

impl Encoder {
    /// Of the first size that ran.
    pub fn outcome(&self) -> Option<&encoder::Outcome> {
        self.runs.iter().find_map(|run| run.outcome.as_ref())
    }

    /// `encoder=auto` may take it.
    pub fn usable(&self) -> bool {
        self.state.works() && self.driven && self.factory.rank > 0
    }

    pub fn for_webrtc(&self) -> Option<ForWebRtc> {
        Some(self.outcome()?.profile_level?.for_webrtc())
    }
}

impl Call {
    pub fn new(result: Result<call::Outcome, impl std::fmt::Display>) -> Self {
        let (state, outcome, error) = match result {
            Ok(outcome) if outcome.total.p95_ms > CALL_LIMIT_MS => {
                (Word::Slow, Some(outcome), None)
            }
            Ok(outcome) => (Word::Ok, Some(outcome), None),
            Err(err) => (Word::Broken, None, Some(err.to_string())),
        };
        Self {
            state,
            error,
            limit_p95_ms: CALL_LIMIT_MS,
            outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::percentile::Spread;
    use crate::probes::encoder::{Controls, Outcome};

    fn outcome() -> Outcome {
        Outcome {
            frames_in: 60,
            frames_out: 60,
            frame_time: Spread {
                p50_ms: 9.0,
                p95_ms: 20.0,
                p99_ms: 30.0,
                max_ms: 40.0,
                frames: 55,
            },
            first_ms: 20.0,
            frames_held: 0,
            target_bps: 2_000_000,
            measured_bps: 2_000_000,
            b_frames: 0,
            key_frames_unasked: 0,
            slices_per_frame: 1,
            profile_level: None,
            controls: Some(Controls {
                rate_changes: 4,
                key_frames_by_rate_change: 0,
                key_frame_after: Some(1),
            }),
        }
    }

    fn judged(outcome: Outcome) -> Run<Outcome> {
        Run::new((1280, 720), Ok::<_, String>(outcome), Judged::fault)
    }

    #[test]
    fn in_time_is_ok_and_late_is_slow() {
        assert_eq!(judged(outcome()).state, Word::Ok);
        let mut late = outcome();
        late.frame_time.p99_ms = 34.0;
        let run = judged(late);
        assert_eq!((run.state, run.holds_33_ms), (Word::Slow, false));
    }

    #[test]
    fn what_no_peer_can_use_is_broken() {
        let mut with_b_frames = outcome();
        with_b_frames.b_frames = 3;
        let mut lossy = outcome();
        lossy.frames_out = 59;
        let mut deaf = outcome();
        deaf.controls.as_mut().unwrap().key_frame_after = None;
        for broken in [with_b_frames, lossy, deaf] {
            let run = judged(broken);
            assert_eq!((run.state, run.holds_33_ms), (Word::Broken, false));
            assert!(run.error.is_some());
        }
        let failed: Run<Outcome> = Run::new((1280, 720), Err("hangs"), Judged::fault);
        assert_eq!(failed.state, Word::Broken);
        assert_eq!(failed.error.as_deref(), Some("hangs"));
    }
}
