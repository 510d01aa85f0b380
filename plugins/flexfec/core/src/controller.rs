// SPDX-License-Identifier: MPL-2.0
//! How much protection each frame needs: the least with which the share of
//! frames that are incomplete at the deadline stays below a target
//! (docs/flexfec.md).
//!
//! ```text
//! feedback -> LossEstimator --+
//! estimate -> loss, RTT ------+-> Model (delta) -> FEC packets for k packets
//! frame    -> Cadence --------+-> Model (key), Model (background)
//! ```

use std::time::Duration;

use dualstream_common::{Bitrate, DataSize, Ratio, Timestamp};

use crate::cadence::Cadence;
use crate::channel::Channel;
use crate::loss::LossEstimator;
use crate::mask::{Family, MAX_MEDIA, Mask, Protection, Table};
use crate::model::Model;
use crate::plan::{Plan, Wish};
use crate::repair;
use crate::spending::Spending;

/// Whether protection follows the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// The least that meets [`Config::target_residual`].
    Adaptive,
    /// A share of the media packets; key frames have their own.
    Fixed { delta: Ratio, key: Ratio },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub mode: Mode,
    /// Share of frames that may be incomplete at the deadline.
    pub target_residual: Ratio,
    /// FEC packets per media packet, at most (adaptive).
    pub max_overhead: Ratio,
    /// How long a receiver waits for repair after a packet would have been
    /// there.
    pub deadline: Duration,
    /// The receiver asks for lost packets again.
    pub nack: bool,
    /// None: by the bursts that were seen.
    pub family: Option<Family>,
    pub protection: Protection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Adaptive,
            target_residual: Ratio::clamped(0.005),
            max_overhead: Ratio::clamped(0.5),
            deadline: Duration::from_millis(200),
            nack: true,
            family: None,
            protection: Protection::Equal,
        }
    }
}

/// The longest deadline, and the least residual that can be asked for.
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(10);
pub const LEAST_RESIDUAL: f64 = 1e-6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Below [`LEAST_RESIDUAL`].
    TargetResidual,
    /// Above [`LONGEST_DEADLINE`].
    Deadline,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TargetResidual => "the target residual is below 0.000001",
            Self::Deadline => "the deadline is above 10 s",
        })
    }
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.target_residual.value() < LEAST_RESIDUAL {
            return Err(ConfigError::TargetResidual);
        }
        if self.deadline > LONGEST_DEADLINE {
            return Err(ConfigError::Deadline);
        }
        Ok(())
    }
}

/// A frame whose last packet has just been sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Packets of it in the block.
    pub packets: usize,
    pub bytes: DataSize,
    pub key: bool,
    /// Not shown when it arrives (standby of the dual stream).
    pub background: bool,
}

/// What is to be done with the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// More frames are to be put in it.
    Wait,
    /// Make FEC packets by this mask (it may have no rows), then begin anew.
    Protect(Mask),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// As estimated.
    pub loss: Ratio,
    /// Mean length of a run of lost packets.
    pub burst: f64,
    pub rtt: Option<Duration>,
    /// FEC packets per media packet that a frame of the usual size gets.
    pub overhead: Ratio,
    /// The same for key frames.
    pub key_overhead: Ratio,
    /// FEC bytes per media byte of late.
    pub byte_overhead: f64,
    /// Share of frames expected to be incomplete at the deadline.
    pub expected_residual: Ratio,
    /// Share of lost packets that retransmission is expected to miss.
    pub unrepaired: Ratio,
    /// Frames in a block.
    pub frames_per_block: usize,
    /// Blocks that got less than planned, for there was no room in the target.
    pub limited: u64,
}

/// What frames are protected alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Delta,
    Key,
    Background,
}

/// The block that is being filled.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    packets: usize,
    frames: usize,
    bytes: DataSize,
    key: bool,
    background: bool,
    /// Bits as in a row of a mask.
    firsts: u128,
    keys: u128,
    due: Option<Timestamp>,
}

/// A later answer than this about losses is not used.
const FEEDBACK_LASTS: Duration = Duration::from_secs(3);
/// A frame that is predicted from by all that follow is worth more.
const KEY_RESIDUAL: f64 = 0.25;
/// A frame that is not shown yet has more time.
const BACKGROUND_DEADLINE: u32 = 4;
/// FEC of blocks is sent at once, so that some seconds have more of it.
const UNEVEN: f64 = 1.1;
/// Plans are made anew at most so often.
const REPLAN: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Controller {
    config: Config,
    losses: LossEstimator,
    cadence: Cadence,
    spending: Spending,
    /// Of the last estimate.
    reported: Ratio,
    rtt: Option<Duration>,
    plans: [Plan; 3],
    planned: Option<Timestamp>,
    open: Open,
    limited: u64,
}

impl Controller {
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            losses: LossEstimator::default(),
            cadence: Cadence::default(),
            spending: Spending::default(),
            reported: Ratio::ZERO,
            rtt: None,
            plans: Default::default(),
            planned: None,
            open: Open::default(),
            limited: 0,
        })
    }

    /// Settings changed while it runs.
    pub fn configure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.config = config;
        self.planned = None;
        Ok(())
    }

    /// An estimate of the network came (`application/x-network-estimate`).
    pub fn estimate(
        &mut self,
        now: Timestamp,
        target: Bitrate,
        loss: Ratio,
        rtt: Option<Duration>,
    ) {
        self.reported = loss;
        self.rtt = rtt.or(self.rtt);
        self.spending.set_target(target);
        self.replan(now);
    }

    /// Transport-wide feedback: for each packet in order of sending whether it
    /// arrived.
    pub fn feedback(&mut self, now: Timestamp, arrived: impl IntoIterator<Item = bool>) {
        self.losses.add(now, arrived);
        self.replan(now);
    }

    /// A frame's last packet has been put in the block.
    pub fn frame(&mut self, now: Timestamp, frame: Frame) -> Action {
        self.cadence.frame(now, &frame);
        self.replan(now);
        let open = &mut self.open;
        let bit = |at: usize| 1u128.checked_shl(at as u32).unwrap_or(0);
        open.firsts |= bit(open.packets);
        if frame.key {
            let all = (0..frame.packets).fold(0, |bits, at| bits | bit(open.packets + at));
            open.keys |= all;
        }
        open.packets += frame.packets;
        open.bytes += frame.bytes;
        open.frames += 1;
        open.key |= frame.key;
        open.background |= frame.background;
        let plan = &self.plans[self.open.role() as usize];
        let frames = match self.config.mode {
            Mode::Adaptive => plan.frames(),
            Mode::Fixed { .. } => 1,
        };
        if self.open.frames < frames && !frame.key && self.open.packets < MAX_MEDIA / 2 {
            let wait = self.cadence.interval().saturating_mul((frames - 1) as u32) * 3 / 2;
            let due = now + wait.min(self.config.deadline / 2);
            self.open.due.get_or_insert(due);
            return Action::Wait;
        }
        self.protect(now)
    }

    /// When the block is to be protected even if no frame follows.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.open.due
    }

    /// What [`Controller::due`] asked for; also for a block that is full, or at
    /// the end of the stream. `packets` are in the block by now, those of an
    /// unfinished frame too.
    pub fn flush(&mut self, now: Timestamp, packets: usize) -> Action {
        if packets > self.open.packets {
            let bit = 1u128.checked_shl(self.open.packets as u32).unwrap_or(0);
            self.open.firsts |= bit;
            self.open.packets = packets;
            self.open.frames += 1;
        }
        if self.open.packets == 0 {
            self.open = Open::default();
            return Action::Wait;
        }
        self.protect(now)
    }

    /// What was in the block is not to be protected.
    pub fn discard(&mut self) {
        self.open = Open::default();
    }

    /// Packets were sent: their bytes with all headers.
    pub fn sent(&mut self, now: Timestamp, media: DataSize, fec: DataSize) {
        self.spending.sent(now, media, fec);
    }

    /// Packets that are not protected here were sent: of other streams, and FEC
    /// for those.
    pub fn others(&mut self, now: Timestamp, bytes: DataSize) {
        self.spending.others(now, bytes);
    }

    /// What is left for media, protected here or not, of an estimate.
    #[must_use]
    pub fn media_target(&self, target: Bitrate) -> Bitrate {
        let fec = match self.config.mode {
            Mode::Fixed { delta, .. } => delta.value().max(self.spending.overhead()),
            Mode::Adaptive => UNEVEN * self.usual_overhead().max(self.spending.overhead()),
        } * self.spending.share();
        target.scale(1.0 / (1.0 + fec))
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let plan = &self.plans[Role::Delta as usize];
        Stats {
            loss: Ratio::clamped(plan.channel().loss()),
            burst: plan.channel().burst(),
            rtt: self.rtt,
            overhead: Ratio::clamped(self.usual_overhead()),
            key_overhead: Ratio::clamped(match self.config.mode {
                Mode::Fixed { key, .. } => key.value(),
                Mode::Adaptive => self.plans[Role::Key as usize].overhead(),
            }),
            byte_overhead: self.spending.overhead(),
            expected_residual: Ratio::clamped(plan.expected()),
            unrepaired: Ratio::clamped(plan.unrepaired()),
            frames_per_block: plan.frames(),
            limited: self.limited,
        }
    }

    fn protect(&mut self, now: Timestamp) -> Action {
        let open = std::mem::take(&mut self.open);
        let role = open.role();
        let (table, wanted) = self.wish(role, &open);
        let plan = &mut self.plans[role as usize];
        let mut fec = plan.whole(wanted).min(open.packets);
        if self.config.mode == Mode::Adaptive {
            let each = open.bytes.as_bytes() / open.packets.max(1) as u64;
            let each = DataSize::from_bytes(each);
            let room = self.spending.room(now, each);
            if room < fec {
                self.limited += 1;
                fec = room;
            }
        }
        let important = if open.keys != 0 {
            open.keys
        } else {
            open.firsts
        };
        let protection = self.config.protection;
        Action::Protect(Mask::unequal(
            table,
            open.packets,
            fec,
            protection,
            important,
        ))
    }

    /// The masks and how many FEC packets a block is to have in the mean.
    fn wish(&mut self, role: Role, open: &Open) -> (Table, f64) {
        let plan = &mut self.plans[role as usize];
        match self.config.mode {
            Mode::Fixed { delta, key } => {
                let share = if open.key { key } else { delta };
                let table = plan.table(self.config.family);
                (table, open.packets as f64 * share.value())
            }
            Mode::Adaptive => {
                let Wish { table, fec, .. } = plan.wish(open.frames, open.packets);
                (table, fec)
            }
        }
    }

    /// FEC packets per media packet for frames of the usual size.
    fn usual_overhead(&self) -> f64 {
        match self.config.mode {
            Mode::Fixed { delta, .. } => delta.value(),
            Mode::Adaptive => self.plans[Role::Delta as usize].overhead(),
        }
    }

    fn replan(&mut self, now: Timestamp) {
        if self
            .planned
            .is_some_and(|at| now >= at && now.since(at) < REPLAN)
        {
            return;
        }
        self.planned = Some(now);
        let fresh = self
            .losses
            .updated()
            .is_some_and(|at| now.since(at) < FEEDBACK_LASTS);
        let channel = if fresh {
            self.losses.channel()
        } else {
            Channel::independent(self.reported.value())
        };
        for role in [Role::Delta, Role::Key, Role::Background] {
            let deadline = match role {
                Role::Background => self.config.deadline * BACKGROUND_DEADLINE,
                Role::Delta | Role::Key => self.config.deadline,
            };
            let packets = self.cadence.packets();
            let unrepaired = match self.rtt.filter(|_| self.config.nack) {
                Some(rtt) => repair::of(&self.cadence, channel, deadline, rtt),
                None => 1.0,
            };
            let target = match role {
                Role::Key => self.config.target_residual.value() * KEY_RESIDUAL,
                Role::Delta | Role::Background => self.config.target_residual.value(),
            };
            let most_frames = match role {
                Role::Key => 1,
                Role::Delta | Role::Background => self.cadence.fit(deadline),
            };
            let plan = &mut self.plans[role as usize];
            plan.set_limits(target, self.config.max_overhead.value(), self.config.family);
            plan.set_model(
                |known| known.is_none_or(|m| differs(m, channel, unrepaired)),
                || Model::new(channel, unrepaired),
            );
            plan.set_usual(packets, most_frames);
        }
    }
}

impl Open {
    fn role(&self) -> Role {
        if self.background {
            Role::Background
        } else if self.key {
            Role::Key
        } else {
            Role::Delta
        }
    }
}

/// Whether a plan for one holds for the other.
fn differs(known: &Model, channel: Channel, unrepaired: f64) -> bool {
    let apart = |a: f64, b: f64| (a - b).abs() > 0.03 * a.max(b) + 1e-6;
    apart(known.channel().loss(), channel.loss())
        || apart(known.channel().burst(), channel.burst())
        || apart(known.unrepaired(), unrepaired)
}
