// SPDX-License-Identifier: MPL-2.0
mod loss;
mod order;

use dualstream_common::Timestamp;

use super::*;

const FRAME_MS: u64 = 33;

fn ms(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn display(stream: u32, number: u16, generation: u8) -> FrameTag {
    FrameTag {
        stream: Stream::from_index(stream).unwrap(),
        background: false,
        key: false,
        acknowledged: false,
        number,
        generation,
    }
}

fn background(stream: u32, number: u16, generation: u8) -> FrameTag {
    FrameTag {
        background: true,
        ..display(stream, number, generation)
    }
}

fn key(tag: FrameTag) -> FrameTag {
    FrameTag { key: true, ..tag }
}

fn refers(tag: FrameTag) -> FrameTag {
    FrameTag {
        acknowledged: true,
        ..tag
    }
}

/// A unit as our sender makes it: the frame's number is its capture time.
fn unit(tag: FrameTag) -> Unit {
    Unit {
        stream: tag.stream,
        tag: Some(tag),
        pts: Some(ms(1000 + u64::from(tag.number) * FRAME_MS)),
        arrived: Arrived::Intact,
        content: AccessUnit {
            slices: 1,
            idr: tag.key,
            from_the_top: true,
        },
    }
}

fn after_loss(tag: FrameTag) -> Unit {
    Unit {
        arrived: Arrived::AfterLoss,
        ..unit(tag)
    }
}

/// A unit after a loss with a slice missing.
fn cut(tag: FrameTag) -> Unit {
    let mut unit = after_loss(tag);
    unit.content.from_the_top = false;
    unit
}

struct Bench {
    receiver: Receiver<u16>,
    now: Timestamp,
    shown: Vec<u16>,
    completes: Vec<(u32, u16)>,
    asked: Vec<(u64, u32)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            receiver: Receiver::new(Config::default()).unwrap(),
            now: Timestamp::ZERO,
            shown: Vec::new(),
            completes: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn act(&mut self) -> Next<u16> {
        loop {
            match self.receiver.poll(self.now) {
                Next::Do(Action::Show(s)) => self.shown.push(s.picture),
                Next::Do(Action::Complete(c)) => {
                    self.completes.push((c.stream.index() as u32, c.number));
                }
                Next::Do(Action::AskRecovery(a)) => {
                    let at = self.now.as_nanos() / 1_000_000;
                    self.asked.push((at, a.stream.index() as u32));
                }
                next => return next,
            }
        }
    }

    /// Lets time pass, doing what is due when it is due.
    fn until(&mut self, at: u64) -> &mut Self {
        while let Next::WaitUntil(t, _) = self.act() {
            assert!(t > self.now, "told to wait for the past");
            if t > ms(at) {
                break;
            }
            self.now = t;
        }
        self.now = ms(at);
        let _ = self.act();
        self
    }

    fn arrive(&mut self, unit: Unit) -> Result<(), Dropped> {
        let result = self.receiver.unit(self.now, unit);
        let _ = self.act();
        result
    }

    fn decode(&mut self, unit: Unit, corrupt: bool) -> Result<(), Refusal> {
        let decoded = Decoded {
            stream: unit.stream,
            tag: unit.tag,
            pts: unit.pts,
            corrupt,
        };
        let number = unit.tag.map_or(0, |t| t.number);
        let result = self.receiver.picture(self.now, decoded, number);
        let _ = self.act();
        result.map_err(|r| r.refusal)
    }

    /// Arrives and comes out of the decoder at once.
    #[track_caller]
    fn pass(&mut self, unit: Unit) -> &mut Self {
        self.arrive(unit).expect("was to be decoded");
        let _ = self.decode(unit, false);
        self
    }

    /// Display frames on a stream, the first one a key frame if it is 0.
    #[track_caller]
    fn run(&mut self, stream: u32, numbers: std::ops::Range<u16>, generation: u8) -> &mut Self {
        for number in numbers {
            let tag = display(stream, number, generation);
            self.pass(unit(FrameTag {
                key: number == 0,
                ..tag
            }));
        }
        self
    }
}
