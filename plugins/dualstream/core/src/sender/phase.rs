// SPDX-License-Identifier: MPL-2.0
//! The sender's state machine: one total function from a [`Phase`] and a
//! [`Signal`] to the next phase and what to do. The table in
//! docs/dual-stream.md is this function.

/// Where the standby stream stands. There is always a display stream besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Only one stream is in use; key frames are coded on it.
    Alone,
    /// The standby has no picture that could be predicted from.
    Cold,
    /// The standby's newest picture is not acknowledged: after a commit, it is
    /// the last picture of the former display stream.
    Doubtful,
    /// A refresh was given up; its newest picture may still be acknowledged.
    Abandoned,
    /// The standby's newest picture is acknowledged and nothing is under way:
    /// a loss can be answered without a key frame.
    Warm,
    /// A background frame that keeps the standby's reference young is on its
    /// way.
    Keeping,
    /// A background key frame is on its way.
    Trickling,
    /// A refresh is under way and the standby's newest picture is acknowledged.
    Acknowledged,
    /// A background catch-up frame is on its way.
    CatchingUp,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Alone,
        Self::Cold,
        Self::Doubtful,
        Self::Abandoned,
        Self::Warm,
        Self::Keeping,
        Self::Trickling,
        Self::Acknowledged,
        Self::CatchingUp,
    ];

    /// A background frame is on its way and not yet acknowledged.
    #[must_use]
    pub const fn in_flight(self) -> bool {
        matches!(self, Self::Keeping | Self::Trickling | Self::CatchingUp)
    }

    /// The receiver has said that it has the standby's newest picture.
    #[must_use]
    pub const fn acknowledged(self) -> bool {
        matches!(self, Self::Warm | Self::Acknowledged)
    }

    /// A refresh is under way.
    #[must_use]
    pub const fn refreshing(self) -> bool {
        matches!(
            self,
            Self::Trickling | Self::Acknowledged | Self::CatchingUp
        )
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A refresh is wanted, and the standby encoder is free.
    RefreshDue,
    /// The receiver lost the display stream. It has the standby's newest
    /// picture, or will have it before anything that is coded now.
    Recovery,
    /// The receiver lost the display stream, and the standby is no help: its
    /// newest picture has not left yet, or a recovery from it just failed.
    RecoveryWithout,
    /// The receiver says that the standby's newest picture is of no use.
    StandbyLost,
    /// The receiver has the standby's newest picture.
    Complete,
    /// The standby's acknowledged picture has become old.
    StandbyOld,
    /// A picture is about to be coded; the standby's newest one is too old to
    /// commit to.
    PictureOld,
    /// A picture is about to be coded; the standby's newest one is young
    /// enough, or catching up brings nothing more.
    PictureYoung,
    /// The standby's newest picture was not acknowledged in time.
    TimedOut,
    /// Both encoders start again: new size, new rate of frames, flush.
    Restart,
    /// The second stream can be used.
    Pair,
    /// The second stream can not be used (any more).
    Part,
}

impl Signal {
    pub const ALL: [Self; 12] = [
        Self::RefreshDue,
        Self::Recovery,
        Self::RecoveryWithout,
        Self::StandbyLost,
        Self::Complete,
        Self::StandbyOld,
        Self::PictureOld,
        Self::PictureYoung,
        Self::TimedOut,
        Self::Restart,
        Self::Pair,
        Self::Part,
    ];
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Nothing,
    /// Code the next picture as a key frame on the display stream.
    KeyOnDisplay,
    /// Code this picture as a background key frame, too.
    KeyOnStandby,
    /// Code this picture as a background P frame, too.
    CatchUp,
    /// Code this picture as a background P frame, too, only to have a younger
    /// reference.
    KeepWarm,
    /// Code the next picture on the standby, which is the display stream from
    /// then on.
    Commit,
    /// The refresh failed: try again later with less.
    GiveUp,
}

impl Phase {
    /// The transition. Total: no case is left to a catch-all, so that a new
    /// phase or signal does not compile until each cell is decided.
    #[must_use]
    pub const fn next(self, signal: Signal) -> (Self, Action) {
        use Action as A;
        use Phase as P;
        use Signal as S;
        match (self, signal) {
            (P::Alone, S::RefreshDue | S::Recovery | S::RecoveryWithout | S::Restart) => {
                (P::Alone, A::KeyOnDisplay)
            }
            (P::Alone, S::Pair) => (P::Cold, A::Nothing),
            (
                P::Alone,
                S::StandbyLost
                | S::Complete
                | S::StandbyOld
                | S::PictureOld
                | S::PictureYoung
                | S::TimedOut
                | S::Part,
            ) => (P::Alone, A::Nothing),

            (
                P::Cold
                | P::Doubtful
                | P::Abandoned
                | P::Warm
                | P::Keeping
                | P::Trickling
                | P::Acknowledged
                | P::CatchingUp,
                S::Restart,
            ) => (P::Cold, A::KeyOnDisplay),
            (
                P::Cold
                | P::Doubtful
                | P::Abandoned
                | P::Warm
                | P::Keeping
                | P::Trickling
                | P::Acknowledged
                | P::CatchingUp,
                S::Part,
            ) => (P::Alone, A::Nothing),
            (
                phase @ (P::Cold
                | P::Doubtful
                | P::Abandoned
                | P::Warm
                | P::Keeping
                | P::Trickling
                | P::Acknowledged
                | P::CatchingUp),
                S::Pair,
            ) => (phase, A::Nothing),

            // A key frame, not the standby's reference of a while ago: a
            // refresh is for those who cannot decode it.
            (P::Cold | P::Doubtful | P::Abandoned | P::Warm | P::Keeping, S::RefreshDue) => {
                (P::Trickling, A::KeyOnStandby)
            }
            (phase @ (P::Trickling | P::Acknowledged | P::CatchingUp), S::RefreshDue) => {
                (phase, A::Nothing)
            }

            (P::Cold, S::Recovery | S::RecoveryWithout) => (P::Cold, A::KeyOnDisplay),
            // One loss may have hit both streams around a switch; and what was
            // not acknowledged in all that time is not believed in.
            (P::Doubtful | P::Abandoned, S::Recovery | S::RecoveryWithout) => {
                (P::Doubtful, A::KeyOnDisplay)
            }
            // The receiver lost what is the standby from then on.
            (
                P::Warm | P::Keeping | P::Trickling | P::Acknowledged | P::CatchingUp,
                S::Recovery,
            ) => (P::Cold, A::Commit),
            (P::Warm | P::Acknowledged, S::RecoveryWithout) => (P::Doubtful, A::KeyOnDisplay),
            // What is on its way goes on: it is better than the small key
            // frame that answers now.
            (phase @ (P::Keeping | P::Trickling | P::CatchingUp), S::RecoveryWithout) => {
                (phase, A::KeyOnDisplay)
            }

            (P::Cold, S::StandbyLost) => (P::Cold, A::Nothing),
            (P::Doubtful | P::Abandoned | P::Warm | P::Keeping, S::StandbyLost) => {
                (P::Cold, A::Nothing)
            }
            (P::Trickling | P::Acknowledged | P::CatchingUp, S::StandbyLost) => {
                (P::Cold, A::GiveUp)
            }

            (P::Cold, S::Complete) => (P::Cold, A::Nothing),
            (P::Doubtful | P::Warm | P::Keeping, S::Complete) => (P::Warm, A::Nothing),
            // Late, but it is the picture that the refresh waits for.
            (P::Abandoned | P::Trickling | P::CatchingUp | P::Acknowledged, S::Complete) => {
                (P::Acknowledged, A::Nothing)
            }

            (P::Warm, S::StandbyOld) => (P::Keeping, A::KeepWarm),
            (
                phase @ (P::Cold
                | P::Doubtful
                | P::Abandoned
                | P::Keeping
                | P::Trickling
                | P::Acknowledged
                | P::CatchingUp),
                S::StandbyOld,
            ) => (phase, A::Nothing),

            (P::Acknowledged, S::PictureOld) => (P::CatchingUp, A::CatchUp),
            (P::Acknowledged, S::PictureYoung) => (P::Doubtful, A::Commit),
            (
                phase @ (P::Cold
                | P::Doubtful
                | P::Abandoned
                | P::Warm
                | P::Keeping
                | P::Trickling
                | P::CatchingUp),
                S::PictureOld | S::PictureYoung,
            ) => (phase, A::Nothing),

            (P::Trickling | P::CatchingUp, S::TimedOut) => (P::Abandoned, A::GiveUp),
            // The next frame would predict from one that was lost.
            (P::Doubtful | P::Keeping, S::TimedOut) => (P::Cold, A::Nothing),
            (phase @ (P::Cold | P::Abandoned | P::Warm | P::Acknowledged), S::TimedOut) => {
                (phase, A::Nothing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action as A;
    use Phase as P;

    #[test]
    fn a_commit_needs_a_picture_on_the_standby() {
        for phase in Phase::ALL {
            for signal in Signal::ALL {
                let (_, action) = phase.next(signal);
                let has_one = !matches!(phase, P::Alone | P::Cold | P::Doubtful | P::Abandoned);
                assert!(
                    action != Action::Commit || has_one,
                    "{phase:?} on {signal:?}"
                );
            }
        }
    }

    #[test]
    fn an_acknowledged_reference_saves_the_key_frame() {
        for phase in Phase::ALL.into_iter().filter(|p| p.acknowledged()) {
            assert_eq!(phase.next(Signal::Recovery), (P::Cold, A::Commit));
        }
    }

    /// The table in the docs is written by hand; this keeps it the same.
    #[test]
    fn the_documented_table_is_this_one() {
        let mut rows = String::new();
        for phase in Phase::ALL {
            rows.push_str(&format!("| {phase:?} |"));
            for signal in Signal::ALL {
                let (next, action) = phase.next(signal);
                let next = if next == phase {
                    String::new()
                } else {
                    format!("{next:?}")
                };
                let cell = match (next.is_empty(), action) {
                    (true, A::Nothing) => "-".to_owned(),
                    (true, action) => format!("*{action:?}*"),
                    (false, A::Nothing) => next,
                    (false, action) => format!("{next}, *{action:?}*"),
                };
                rows.push_str(&format!(" {cell} |"));
            }
            rows.push('\n');
        }
        let page = include_str!("../../../../../docs/dual-stream.md");
        assert!(
            page.contains(&rows),
            "docs/dual-stream.md must hold:\n{rows}"
        );
    }
}
