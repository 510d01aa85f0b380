// SPDX-License-Identifier: MPL-2.0
//! What a browser page and the sender say to each other over the data channel
//! (docs/wire-formats.md), and what the sender remembers for it. Without
//! GStreamer, clock or channel.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;
/// Longer messages are not read. The longest that a page says has 60 bytes.
pub const MOST_BYTES: usize = 512;
/// Messages that are read in a second, and at once. A page says one for each
/// picture of the background, up to four times, and a few more.
const MOST_A_SECOND: u32 = 240;
const MOST_AT_ONCE: u32 = 240;
/// Frames of one stream that a page may still speak of: 8 s at 30 per second.
const MOST_FRAMES: usize = 256;
/// A message about the display is said again with these frames after the
/// switch, until the page has said that it shows it.
const AGAIN: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// What a page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// It understands this.
    Hello { version: u32 },
    /// This frame was decoded.
    Complete { stream: u32, rtp: u32 },
    /// The switch to this generation is seen.
    Shown { generation: u8 },
    /// What time is it?
    Clock { id: u32 },
}

/// Why a message is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaf {
    TooLong,
    Nonsense,
}

pub fn parse(text: &str) -> Result<Said, Deaf> {
    if text.len() > MOST_BYTES {
        return Err(Deaf::TooLong);
    }
    serde_json::from_str(text).map_err(|_| Deaf::Nonsense)
}

/// A frame on a stream's own RTP clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    pub stream: u32,
    pub rtp: u32,
}

/// What the sender says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Says {
    /// The answer to a hello.
    Welcome { version: u32 },
    /// From this frame on the picture is in this stream.
    Display {
        #[serde(flatten)]
        from: Mark,
        generation: u8,
    },
    /// Times in ms since 1970, by the sender's wall clock.
    Clock {
        id: u32,
        received: f64,
        sent: f64,
        captured: Vec<Captured>,
    },
}

/// When a frame was captured, in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Captured {
    #[serde(flatten)]
    pub frame: Mark,
    pub at: f64,
}

impl Says {
    pub fn text(&self) -> String {
        // Of strings and finite numbers: cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A frame as the encoder has tagged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub number: u32,
    pub generation: u8,
    pub key: bool,
    pub background: bool,
}

/// How much a page may say.
#[derive(Debug)]
struct Patience {
    left: u32,
    since: Option<Instant>,
}

impl Patience {
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let whole = now.saturating_duration_since(since).as_secs_f64() * f64::from(MOST_A_SECOND);
        // Saturates.
        let more = whole as u32;
        if more > 0 {
            self.left = self.left.saturating_add(more).min(MOST_AT_ONCE);
            self.since = Some(now);
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Switch {
    from: Mark,
    generation: u8,
    /// Display frames since.
    age: u32,
    seen: bool,
}

/// In = hellos + completes + unknown frames + shown + clocks + deaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub received: u64,
    pub completes: u64,
    /// Completes of frames that were never sent or are forgotten.
    pub unknown_frames: u64,
    pub others: u64,
    pub malformed: u64,
    pub limited: u64,
    pub switches: u64,
}

/// What the sender remembers of one session with a page.
#[derive(Debug)]
pub struct Page {
    frames: [VecDeque<(u32, Frame)>; 2],
    switch: Option<Switch>,
    /// The last frame of each stream whose time of capture is known.
    captured: [Option<(u32, f64)>; 2],
    greeted: bool,
    patience: Patience,
    pub counts: Counts,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            frames: Default::default(),
            switch: None,
            captured: [None; 2],
            greeted: false,
            patience: Patience {
                left: MOST_AT_ONCE,
                since: None,
            },
            counts: Counts::default(),
        }
    }
}

/// What is to be done about a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Nothing,
    /// The first hello, or one more.
    Hello {
        first: bool,
    },
    Complete {
        stream: u32,
        frame: Frame,
    },
    /// To be answered at once.
    Clock {
        id: u32,
    },
}

impl Page {
    pub fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// A frame leaves the payloader. `at`: when it was captured, in ms since
    /// 1970. What is to be said.
    pub fn on_frame(&mut self, from: Mark, frame: Frame, at: Option<f64>) -> Option<Says> {
        let stream = from.stream as usize;
        let frames = self.frames.get_mut(stream)?;
        if frames.len() >= MOST_FRAMES {
            frames.pop_front();
        }
        frames.push_back((from.rtp, frame));
        if let Some(at) = at {
            self.captured[stream] = Some((from.rtp, at));
        }
        if frame.background {
            return None;
        }
        match &mut self.switch {
            Some(last) if last.from.stream == from.stream => {
                last.age = last.age.saturating_add(1);
                if last.seen || !AGAIN.contains(&last.age) {
                    return None;
                }
            }
            // A frame of the time before, from the other encoder's thread.
            Some(last) if frame.generation.wrapping_sub(last.generation) > 127 => return None,
            last => {
                self.counts.switches += u64::from(last.is_some());
                *last = Some(Switch {
                    from,
                    generation: frame.generation,
                    age: 0,
                    seen: false,
                });
            }
        }
        self.display()
    }

    /// Which stream has the picture. Nothing before the page said hello.
    pub fn display(&self) -> Option<Says> {
        self.switch.filter(|_| self.greeted).map(|s| Says::Display {
            from: s.from,
            generation: s.generation,
        })
    }

    pub fn on_message(&mut self, now: Instant, text: &str) -> Heard {
        self.counts.received += 1;
        if !self.patience.take(now) {
            self.counts.limited += 1;
            return Heard::Nothing;
        }
        let Ok(said) = parse(text) else {
            self.counts.malformed += 1;
            return Heard::Nothing;
        };
        if let Said::Complete { stream, rtp } = said {
            let frames = self.frames.get(stream as usize);
            let found = frames.and_then(|frames| frames.iter().rev().find(|(at, _)| *at == rtp));
            let Some((_, frame)) = found.filter(|_| self.greeted) else {
                self.counts.unknown_frames += 1;
                return Heard::Nothing;
            };
            self.counts.completes += 1;
            return Heard::Complete {
                stream,
                frame: *frame,
            };
        }
        self.counts.others += 1;
        match said {
            Said::Hello { version } if version >= VERSION => Heard::Hello {
                first: !std::mem::replace(&mut self.greeted, true),
            },
            Said::Shown { generation } => {
                if let Some(switch) = &mut self.switch
                    && switch.generation == generation
                {
                    switch.seen = true;
                }
                Heard::Nothing
            }
            Said::Clock { id } => Heard::Clock { id },
            Said::Hello { .. } | Said::Complete { .. } => Heard::Nothing,
        }
    }

    /// The answer to a question for the time.
    pub fn clock(&self, id: u32, received: f64, sent: f64) -> Says {
        let captured = (0..)
            .zip(&self.captured)
            .filter_map(|(stream, last)| {
                let (rtp, at) = (*last)?;
                let frame = Mark { stream, rtp };
                Some(Captured { frame, at })
            })
            .collect();
        Says::Clock {
            id,
            received,
            sent,
            captured,
        }
    }
}

/// From NTP's year 1900 to 1970.
const FROM_1900_MS: f64 = 2_208_988_800_000.0;

/// Nanoseconds since 1900 as ms since 1970.
pub fn unix_ms(nanos: u64) -> f64 {
    let whole = Duration::from_nanos(nanos);
    whole.as_secs() as f64 * 1000.0 - FROM_1900_MS + f64::from(whole.subsec_micros()) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(stream: u32, rtp: u32) -> Mark {
        Mark { stream, rtp }
    }

    fn shown(generation: u8) -> Frame {
        Frame {
            number: 7,
            generation,
            ..Frame::default()
        }
    }

    fn greeted() -> (Page, Instant) {
        let (mut page, now) = (Page::default(), Instant::now());
        let hello = page.on_message(now, r#"{"hello":{"version":1}}"#);
        assert_eq!(hello, Heard::Hello { first: true });
        (page, now)
    }

    #[test]
    fn messages_are_as_documented() {
        let cases = [
            (r#"{"hello":{"version":1}}"#, Said::Hello { version: 1 }),
            (
                r#" {"complete":{"stream":1,"rtp":4294967295,"more":[]}}"#,
                Said::Complete {
                    stream: 1,
                    rtp: u32::MAX,
                },
            ),
            (
                r#"{"shown":{"generation":255}}"#,
                Said::Shown { generation: 255 },
            ),
            (r#"{"clock":{"id":3}}"#, Said::Clock { id: 3 }),
        ];
        for (text, said) in cases {
            assert_eq!(parse(text), Ok(said), "{text}");
        }
        for text in [
            "",
            "{}",
            "null",
            "[]",
            r#"{"hello":1}"#,
            r#"{"complete":{"stream":1}}"#,
            r#"{"complete":{"stream":-1,"rtp":1}}"#,
            r#"{"complete":{"stream":0,"rtp":4294967296}}"#,
            r#"{"clock":{"id":1},"hello":{"version":1}}"#,
            r#"{"bye":{}}"#,
        ] {
            assert_eq!(parse(text), Err(Deaf::Nonsense), "{text}");
        }
        let deep = "[".repeat(MOST_BYTES);
        assert_eq!(parse(&deep), Err(Deaf::Nonsense));
        assert_eq!(parse(&(deep + "[")), Err(Deaf::TooLong));
        assert_eq!(
            Says::Welcome { version: 1 }.text(),
            r#"{"welcome":{"version":1}}"#
        );
        let display = Says::Display {
            from: mark(1, 9),
            generation: 4,
        };
        assert_eq!(
            display.text(),
            r#"{"display":{"stream":1,"rtp":9,"generation":4}}"#
        );
        let mut page = Page::default();
        page.on_frame(mark(1, 90), shown(0), Some(1.5));
        assert_eq!(
            page.clock(2, 0.5, 0.75).text(),
            r#"{"clock":{"id":2,"received":0.5,"sent":0.75,"captured":[{"stream":1,"rtp":90,"at":1.5}]}}"#
        );
    }

    #[test]
    fn a_switch_is_said_until_it_is_seen() {
        let mut page = Page::default();
        assert_eq!(page.on_frame(mark(0, 1), shown(0), None), None, "no hello");
        let now = Instant::now();
        page.on_message(now, r#"{"hello":{"version":1}}"#);
        page.on_message(now, r#"{"shown":{"generation":0}}"#);
        let background = Frame {
            background: true,
            ..shown(0)
        };
        assert_eq!(page.on_frame(mark(1, 2), background, None), None);
        let first = page.on_frame(mark(1, 3), shown(1), None);
        let expected = Says::Display {
            from: mark(1, 3),
            generation: 1,
        };
        assert_eq!(first, Some(expected.clone()));
        // The thread of the other encoder is late.
        assert_eq!(page.on_frame(mark(0, 3), shown(0), None), None);
        let again: Vec<_> = (1..=40)
            .filter(|n| page.on_frame(mark(1, 3 + n), shown(1), None) == Some(expected.clone()))
            .collect();
        assert_eq!(again, AGAIN);
        assert_eq!(page.counts.switches, 1);
        page.on_frame(mark(0, 50), shown(2), None);
        page.on_message(now, r#"{"shown":{"generation":1}}"#);
        assert!(page.on_frame(mark(0, 51), shown(2), None).is_some());
        page.on_message(now, r#"{"shown":{"generation":2}}"#);
        assert!((52..99).all(|rtp| page.on_frame(mark(0, rtp), shown(2), None).is_none()));
        assert_eq!(page.counts.switches, 2);
    }

    #[test]
    fn generations_wrap() {
        let (mut page, _) = greeted();
        page.on_frame(mark(0, 1), shown(255), None);
        assert!(page.on_frame(mark(1, 2), shown(0), None).is_some());
        assert_eq!(page.on_frame(mark(0, 2), shown(255), None), None);
    }

    #[test]
    fn completes_are_of_frames_that_were_sent() {
        let (mut page, now) = greeted();
        for rtp in 0..1000 {
            page.on_frame(mark(1, rtp), shown(0), None);
        }
        let complete = |page: &mut Page, stream: u32, rtp: u32| {
            let text = format!(r#"{{"complete":{{"stream":{stream},"rtp":{rtp}}}}}"#);
            page.on_message(now, &text)
        };
        let frame = shown(0);
        assert_eq!(
            complete(&mut page, 1, 999),
            Heard::Complete { stream: 1, frame }
        );
        for (stream, rtp) in [(1, 1000), (1, 0), (0, 999), (2, 999), (u32::MAX, 1)] {
            assert_eq!(complete(&mut page, stream, rtp), Heard::Nothing);
        }
        assert_eq!(page.counts.unknown_frames, 5);
        assert_eq!(page.frames[1].len(), MOST_FRAMES);
    }

    #[test]
    fn a_page_that_says_too_much_is_not_heard() {
        let (mut page, now) = greeted();
        let mut heard = |at: Instant, count: u32| {
            let before = page.counts.limited;
            for _ in 0..count {
                page.on_message(at, r#"{"clock":{"id":1}}"#);
            }
            page.counts.limited - before
        };
        assert_eq!(heard(now, MOST_AT_ONCE + 9), 10, "one hello before");
        // Half a second is half of it, also by small steps.
        let mut limited = 0;
        for step in 1..=50 {
            limited += heard(now + Duration::from_millis(10 * step), 10);
        }
        let expected = 500 - u64::from(MOST_A_SECOND) / 2;
        assert!((expected..=expected + 50).contains(&limited), "{limited}");
        assert_eq!(heard(now, 1), heard(now, 1), "time may go back");
    }

    #[test]
    fn time_is_that_of_javascript() {
        // 2024-01-01T00:00:00Z is 1704067200 s after 1970, by `date`.
        let ntp = (1_704_067_200 + 2_208_988_800) * 1_000_000_000u64 + 1_234_567;
        assert_eq!(unix_ms(ntp), 1_704_067_200_001.234);
    }

    proptest! {
        /// Whatever comes is counted once, and what is remembered is bounded.
        #[test]
        fn any_text_is_survived(
            texts in prop::collection::vec(
                prop_oneof![
                    ".{0,80}",
                    r#"\{"(hello|complete|clock|shown)":\{"(version|stream|rtp|id|generation)":-?[0-9e.]{0,12}(,"rtp":[0-9]{1,11})?\}\}?"#,
                    r#"[\[\]\{\}",:0-9]{0,600}"#,
                ],
                0..60,
            ),
            frames in prop::collection::vec(
                (0u32..4, any::<u32>(), any::<u8>(), any::<bool>(), any::<bool>()), 0..60),
            millis in prop::collection::vec(0u64..2000, 60),
        ) {
            let (mut page, start) = (Page::default(), Instant::now());
            for (stream, rtp, generation, key, background) in frames {
                let frame = Frame { number: 1, generation, key, background };
                page.on_frame(mark(stream, rtp), frame, None);
            }
            for (text, ms) in texts.iter().zip(millis) {
                let now = start + Duration::from_millis(ms);
                if let Heard::Complete { stream, .. } = page.on_message(now, text) {
                    prop_assert!(stream < 2);
                }
            }
            let c = page.counts;
            let sum = c.completes + c.unknown_frames + c.others + c.malformed + c.limited;
            prop_assert_eq!(c.received, sum);
            prop_assert!(page.frames.iter().all(|frames| frames.len() <= MOST_FRAMES));
        }
    }
}
